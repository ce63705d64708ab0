"""What the page asks for: takes, seconds, pictures, masks, clouds, sound. Names in, never paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mmor.viewer import pictures, seconds, sensors
from mmor.viewer.cache import Ahead, file_state
from mmor.viewer.guard import LOOPBACK, Guard
from mmor.viewer.takes import Shown
from mmor.viewer.timeline import timeline
from operating_room.errors import UserError, one_line
from operating_room.files.raw_files import again
from operating_room.recordings.timepoint import Timepoint

STATIC = Path(__file__).parent / "static"
AHEAD = 3  # timepoints whose pictures are made before they are asked for
_SOUND_TYPES = {".mp3": "audio/mpeg", ".flac": "audio/flac", ".wav": "audio/wav"}


def make_app(shown: Shown, token: str | None = None, host: str = LOOPBACK[0]) -> Starlette:
    """The server of the page.

    Args:
        shown: what there is to see.
        token: asked of every visitor; None: visitors must name this machine as their host.
        host: the address it listens at.
    """
    server = _Server(shown)
    take, second = "/api/takes/{take}", "/api/takes/{take}/{position:int}"
    app = Starlette(
        routes=[
            Route("/", server.page),
            Route("/api/takes", server.takes),
            Route(take, server.take),
            Route(f"{take}/timeline", server.timeline),
            Route(f"{take}/lenses", server.lenses),
            Route(f"{take}/sound", server.sound),
            Route(f"{take}/waveform", server.waveform),
            Route(second, server.second),
            Route(f"{second}/texts", server.texts),
            Route(f"{second}/cloud", server.cloud),
            Route(f"{second}/seen/{{camera}}", server.seen),
            Route(f"{second}/views/{{camera}}", server.view),
            Route(f"{second}/masks/{{camera}}", server.mask),
            Route("/api/live", server.live),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={UserError: _problem, OSError: _lost},
        lifespan=server.lifespan,
    )
    app.add_middleware(Guard, hosts={*LOOPBACK, host}, token=token)
    return app


class _Json(Response):
    """JSON in ASCII: a name may hold what UTF-8 has no bytes for."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class _Server:
    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._ahead = Ahead()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        yield
        self._ahead.close()

    # Starlette runs these in threads: reading and encoding keep no other request waiting.

    def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    def takes(self, request: Request) -> Response:
        shown = self._shown
        return _Json(
            {
                "first": None if shown.first is None else shown.first.sample_name,
                "folder": str(shown.dataset.root),
                "live": shown.live is not None,
                "takes": [
                    {
                        "name": take.sample_name,
                        "title": take.name,
                        "dataset": shown.domain.collection(take).title,
                        "splits": shown.domain.splits_of(take),
                    }
                    for take in shown.takes()
                ],
            }
        )

    def take(self, request: Request) -> Response:
        return _Json(seconds.describe_take(self._shown, self._shown.take(request.path_params["take"])))

    def timeline(self, request: Request) -> Response:
        return _Json(timeline(self._shown, self._shown.take(request.path_params["take"])))

    def second(self, request: Request) -> Response:
        name, position = request.path_params["take"], request.path_params["position"]
        content = seconds.describe_second(self._shown, name, position)
        self._make_ahead(name, position, _width(request), request.query_params.getlist("of"))
        return _Json(content)

    def texts(self, request: Request) -> Response:
        return _Json(seconds.describe_texts(self._shown, *self._place(request)))

    def cloud(self, request: Request) -> Response:
        _, timepoint = self._shown.timepoint(*self._place(request))
        path = _there(timepoint.one("point_cloud"), timepoint, "point cloud")
        return _bytes(request, sensors.cloud(path, self._shown.cache), "application/octet-stream")

    def lenses(self, request: Request) -> Response:
        found, problems = self._shown.take(request.path_params["take"]).lenses
        frustums = {camera: sensors.frustum(lens).round(4).tolist() for camera, lens in found.items()}
        return _Json({"frustums": frustums, "problems": problems})

    def seen(self, request: Request) -> Response:
        viewed, timepoint = self._shown.timepoint(*self._place(request))
        camera = request.path_params["camera"]
        path = _there(timepoint.one("point_cloud"), timepoint, "point cloud")
        lens = viewed.lenses[0].get(camera)
        if lens is None:
            raise UserError(f"take {viewed.take.name}: has no usable camera file of that camera")
        return _bytes(request, sensors.seen(path, camera, lens, self._shown.cache), "application/octet-stream")

    def view(self, request: Request) -> Response:
        _, timepoint = self._shown.timepoint(*self._place(request))
        path = _there(timepoint.views.get(request.path_params["camera"]), timepoint, "picture of that camera")
        return _bytes(request, pictures.picture(path, _width(request), self._shown.cache), "image/jpeg")

    def mask(self, request: Request) -> Response:
        _, timepoint = self._shown.timepoint(*self._place(request))
        of, camera = request.query_params.get("of", pictures.TRUTH), request.path_params["camera"]
        masks = pictures.masks_of(timepoint, self._shown.masks).get(camera, {})
        path = _there(masks.get(of), timepoint, "such mask of that camera")
        made = pictures.mask(path, _width(request), timepoint.domain.labels, of == pictures.TRUTH, self._shown.cache)
        return _bytes(request, made, "image/png")

    def sound(self, request: Request) -> Response:
        path = self._recording(request)
        if not path.is_file():
            file_state(path)  # or it is told that it is gone
            raise UserError(f"{path}: is a folder, device or pipe where a recording is expected; {again(path)}")
        return FileResponse(path, media_type=_SOUND_TYPES.get(path.suffix, "application/octet-stream"))

    def waveform(self, request: Request) -> Response:
        made = sensors.waveform(self._recording(request), self._shown.cache)
        return _bytes(request, made, "application/octet-stream")

    def live(self, request: Request) -> Response:
        found = self._shown.follow()
        if found is None:
            raise UserError("nothing is live; start `mmor view --live FILE`")
        lines, damaged = found
        return _Json({"lines": [asdict(line) for line in lines], "damaged": damaged})

    def _place(self, request: Request) -> tuple[str, int]:
        return request.path_params["take"], request.path_params["position"]

    def _recording(self, request: Request) -> Path:
        recorded = self._shown.take(request.path_params["take"]).recorded
        path = recorded.path("recording")
        if path is None or not recorded.has(path):
            raise UserError(f"take {recorded.take.name}: has no recording of its sound")
        return path

    def _make_ahead(self, name: str, position: int, width: int, of: list[str]) -> None:
        """The pictures of the timepoints after a position."""
        shown, cache = self._shown, self._shown.cache
        jobs: list[Callable[[], Any]] = []
        viewed = shown.take(name)
        for timepoint in map(viewed.timepoint, range(len(viewed.index))[position + 1 : position + 1 + AHEAD]):
            jobs += [partial(pictures.picture, path, width, cache) for path in timepoint.views.values()]
            if of:
                labels = timepoint.domain.labels
                jobs += [
                    partial(pictures.mask, masks[source], width, labels, source == pictures.TRUTH, cache)
                    for masks in pictures.masks_of(timepoint, shown.masks).values()
                    for source in of
                    if source in masks
                ]
        self._ahead.make(jobs)


def _width(request: Request) -> int:
    given = request.query_params.get("width", str(pictures.WIDTHS[0]))
    width = next((width for width in pictures.WIDTHS if given == str(width)), None)
    if width is None:
        raise UserError(f"width {given[:20]!r}: choose one of {', '.join(map(str, pictures.WIDTHS))}")
    return width


def _there(path: Path | None, timepoint: Timepoint, what: str) -> Path:
    if path is None:
        raise UserError(f"timepoint {timepoint.sample_id}: has no {what}")
    return path


def _bytes(request: Request, content: bytes, media_type: str) -> Response:
    """An answer that the browser keeps, and asks each time whether it is still right."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _problem(_: Request, error: Exception) -> Response:
    return _Json({"problem": one_line(str(error))}, 404)


def _lost(_: Request, error: Exception) -> Response:
    """A folder that vanished, or may not be read, between two looks."""
    told = error.strerror if isinstance(error, OSError) else str(error)
    file = getattr(error, "filename", None) or "a file of the take"
    return _Json({"problem": one_line(f"{file}: {told}; copy it again or check permissions")}, 404)
