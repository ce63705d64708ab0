"""Who may see the page: this machine, or whoever has the token; and what a page of ours may do in a browser."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST = 4000  # characters of an address: Python reads no number of more than 4300 digits
_HEADERS = {
    # Texts of takes are shown as text; were there a way around that, nothing it holds would run or be sent anywhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",  # another page cannot embed our pictures
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other one reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets requests through that may see takes.

    Without a token only those that name this machine as their host: a page elsewhere, whose name is made to lead here,
    names its own (DNS rebinding). With one only those that have it, in the address at first, in a cookie afterwards.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = LOOPBACK, token: str | None = None) -> None:
        self._app, self._hosts, self._token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._refusal(HTTPConnection(scope))
        await (self._app if answer is None else answer)(scope, receive, send_with_headers)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        """What a request gets instead of what it asks for."""
        if len(request.scope["path"]) > _LONGEST:
            return JSONResponse({"problem": f"no address here has more than {_LONGEST} characters"}, 414)
        if self._token is None:
            if _host(request) in self._hosts:
                return None
            told = f"this page is that of {' or '.join(sorted(self._hosts))}; open it by that name"
            return JSONResponse({"problem": told}, 403)
        cookie = f"mmor_view_{(request.scope.get('server') or ('', 0))[1]}"  # browsers send one port's cookies to all
        given = request.query_params.get("token")
        if given is not None and secrets.compare_digest(given.encode(), self._token.encode()):
            answer = RedirectResponse(request.scope["path"], 303)
            answer.set_cookie(cookie, self._token, httponly=True, samesite="lax")
            return answer
        if secrets.compare_digest(request.cookies.get(cookie, "").encode(), self._token.encode()):
            return None
        return JSONResponse({"problem": "open the address that `mmor view` printed, with its token"}, 403)


def _host(request: HTTPConnection) -> str | None:
    """The name in a request's Host header, without its port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None
