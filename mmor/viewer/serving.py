"""Starts the server of the page and opens it in a browser."""

from __future__ import annotations

import errno
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from mmor.viewer.guard import LOOPBACK, is_loopback
from mmor.viewer.server import make_app
from mmor.viewer.takes import Shown
from operating_room.errors import UserError

FIRST_PORT, TRIED_PORTS = 8000, 50
_OF_TEXT = ("www-browser", "links", "elinks", "lynx", "w3m")


def serve(
    shown: Shown,
    tell: Callable[[str], None],
    host: str = LOOPBACK[0],
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Serve the page until ctrl-C.

    Args:
        shown: what there is to see.
        tell: gets the address of the page.
        host: at which it listens; at one that others can reach, visitors need the token in the address.
        port: at which it listens; None takes the first free one from 8000 on.
        browser: open the page in the browser of this machine, if it has one that shows pictures.

    Raises:
        UserError: the port is in use, or there is no such address here.
    """
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    bound = listen(host, port)
    with bound:
        address = page_address(host, bound.getsockname()[1], token)
        tell(address)
        config = uvicorn.Config(
            make_app(shown, token, host), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        server = _OpensBrowser(config, address if browser else None)
        try:
            server.run(sockets=[bound])
        except KeyboardInterrupt:  # how people end it
            return


def page_address(host: str, port: int, token: str | None) -> str:
    """What to open."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")


def listen(host: str, port: int | None) -> socket.socket:
    """A socket bound to a port, or to the first free one.

    Raises:
        UserError: the port is in use or not allowed, all are, or there is no such address here.
    """
    ports = range(FIRST_PORT, FIRST_PORT + TRIED_PORTS) if port is None else (port,)
    reason = "in use"
    for candidate in ports:
        bound = None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, protocol)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
            return bound
        except (socket.gaierror, UnicodeError) as error:  # the latter of `a..b`
            told = getattr(error, "strerror", "no name of a machine")
            raise UserError(f"--host {host}: is no address ({told}); give an address of this machine") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                if bound is not None:
                    bound.close()
                raise UserError(f"--host {host}: is no address of this machine; give one of its own") from error
            reason = (error.strerror or "cannot be used").lower()
            if bound is not None:
                bound.close()
    told = f"--port {port}" if port is not None else f"ports {ports[0]} to {ports[-1]}"
    raise UserError(f"{told}: {reason} at {host}; give another one as --port")


class _OpensBrowser(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, address: str | None) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As always; the page can be loaded then."""
        await super().startup(sockets)
        if self._address is not None:
            threading.Thread(target=_open_browser, args=(self._address,), daemon=True).start()


def _open_browser(address: str) -> None:
    """Some browsers are waited for until they end. Those of text cannot show the page, and would take the terminal."""
    with suppress(webbrowser.Error):  # there is none
        if Path(getattr(webbrowser.get(), "name", "")).name not in _OF_TEXT:
            webbrowser.open(address)
