"""Pictures of solids, by ray casting: colour, depth and raw label of each pixel.

Each solid is cast only inside the rectangle that its corners project to. What stands still is drawn once per camera
and kept.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from computing.machine import free_memory
from operating_room_simulator.stage.camera import Camera
from operating_room_simulator.stage.casting import NEAR, cast, discriminants, find_windows
from operating_room_simulator.stage.poses import Scene
from operating_room_simulator.stage.room import Light, Room, Shell
from operating_room_simulator.stage.solids import Solids
from operating_room_simulator.stage.tent import surface_points

_GLOW = 1500.0  # radiance of a marker ball in the infrared, where skin and cloth stay below 255
_KEPT_BYTES = 512 << 20  # of backdrops; those of nine cameras of 2048x1536 px are 480 MB
_BAND = 1 << 18  # pixels of an empty room drawn at a time, in double precision
_NOISE = 3.0  # grey levels
_DEPTH_NOISE = 0.002  # of the depth, in point clouds


@dataclass(frozen=True)
class View:
    """What one camera sees."""

    color: UInt8[np.ndarray, "height width 3"]  # RGB
    depth: Float32[np.ndarray, "height width"]  # m along the optical axis
    labels: UInt8[np.ndarray, "height width"]  # raw labels of the category table; 0 for what has no category


@dataclass(frozen=True)
class _Canvas:
    """A noise-free picture in the making."""

    color: Float32[np.ndarray, "height width 3"]
    depth: Float32[np.ndarray, "height width"]
    labels: UInt8[np.ndarray, "height width"]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.color.nbytes + self.depth.nbytes + self.labels.nbytes


class _Backdrops:
    """Pictures of what stands still: those asked for last, as many as fit into `_KEPT_BYTES`, of all rooms together."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Canvas] = OrderedDict()

    def get(
        self, key: Hashable, shell: Shell, still: Callable[[], Solids], camera: Camera, width: int, height: int
    ) -> _Canvas:
        key = (key, camera.name, width, height)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        canvas = _empty_room(shell, camera, width, height)
        self._make_space(canvas.size)
        _draw(canvas, still(), camera, shell.light)
        if canvas.size <= _KEPT_BYTES:
            self._kept[key] = canvas
        return canvas

    def _make_space(self, needed: int) -> None:
        kept = sum(canvas.size for canvas in self._kept.values())
        while self._kept and kept + needed > _KEPT_BYTES:
            kept -= self._kept.popitem(last=False)[1].size


_BACKDROPS = _Backdrops()


def memory(width: int, height: int) -> int:
    """Bytes that drawing pictures of this size takes at most: kept backdrops and what a timepoint needs (measured)."""
    return _KEPT_BYTES + 160 * width * height


def affordable(workers: int, size: tuple[int, int], beside: int, what: str) -> int:
    """So many of the processes as the free memory is enough for, at least one; said if they are fewer.

    Args:
        workers: processes that are asked for.
        size: width and height of their pictures in px.
        beside: bytes that a process takes besides drawing.
        what: they work on.
    """
    needed, free = beside + memory(*size), free_memory()
    fit = max(1, min(workers, free // needed))
    if fit < workers:
        told = f"each may take {needed / 1e9:.1f} GB for pictures of {size[0]}x{size[1]} px and {what}"
        print(f"note: {fit} processes instead of {workers}: {told}, and {free / 1e9:.1f} GB are free", file=sys.stderr)
    return fit


def render(room: Room, scene: Scene, camera: Camera, width: int, height: int) -> View:
    """The picture of `scene` that `camera` takes.

    Sensor noise follows from the seed of the room, the camera and the second, whatever was rendered before: the same
    seed gives the same bytes in any order.
    """
    key = (room.take, room.seed, room.labels, room.news, scene.still)
    noise = np.random.default_rng([room.seed, room.cameras.index(camera), scene.second])
    size = width, height
    grain = _NOISE if room.news is None else room.news.grain
    return standing(key, room.shell, lambda: room.still_solids(scene.still), scene.moving, camera, size, noise, grain)


def standing(
    key: Hashable,
    shell: Shell,
    still: Callable[[], Solids],
    moving: Solids,
    camera: Camera,
    size: tuple[int, int],
    noise: np.random.Generator,
    grain: float = _NOISE,
) -> View:
    """What a camera that stands still sees.

    Args:
        key: of all that stands still; with the name of the camera it says whether the backdrop is drawn already.
        shell: the room.
        still: the solids that stand still, asked for when their backdrop is drawn.
        moving: all other solids.
        camera: which camera.
        size: width and height of the picture in px.
        noise: of its sensor.
        grain: how strong the noise is, in grey levels.
    """
    backdrop = _BACKDROPS.get(key, shell, still, camera, *size)
    canvas = _Canvas(backdrop.color.copy(), backdrop.depth.copy(), backdrop.labels.copy())
    return _exposed(canvas, shell, moving, camera, noise, grain)


def carried(shell: Shell, solids: Solids, camera: Camera, size: tuple[int, int], noise: np.random.Generator) -> View:
    """What a camera that moves sees; see `standing`."""
    return _exposed(_empty_room(shell, camera, *size), shell, solids, camera, noise)


def _exposed(
    canvas: _Canvas, shell: Shell, solids: Solids, camera: Camera, noise: np.random.Generator, grain: float = _NOISE
) -> View:
    _draw(canvas, solids, camera, shell.light)
    color = canvas.color
    if camera.infrared:
        color = np.repeat(color.mean(2, keepdims=True), 3, 2)
    color *= np.array(camera.exposure, np.float32)
    color += noise.standard_normal((*canvas.depth.shape, 1), np.float32) * np.float32(grain)
    return View(np.clip(color, 0, 255, out=color).astype(np.uint8), canvas.depth, canvas.labels)


def point_cloud(room: Room, scene: Scene, views: Mapping[str, View], count: int = 3000) -> Float32[np.ndarray, "n 6"]:
    """A sparse coloured cloud from what the room cameras among `views` (by camera name) see of `scene`; see `cloud`.

    Like sensor noise the points follow from seed and second. A tenth of them is of what stands in the tent, if there
    is one, where no camera sees it.
    """
    shots = [(room.camera(name), view) for name, view in sorted(views.items()) if name.startswith("room")]
    noise = np.random.default_rng([room.seed, len(room.cameras), scene.second])
    if room.tent is None or not shots:
        return cloud(shots, noise, count)
    seen = [room.still_solids(scene.still), scene.moving]
    parts = [surface_points(solids, room.tent, count // 20, noise) for solids in seen]
    return np.concatenate([*parts, cloud(shots, noise, count - sum(map(len, parts)))])


def cloud(
    shots: Sequence[tuple[Camera, View]], noise: np.random.Generator, count: int = 3000
) -> Float32[np.ndarray, "n 6"]:
    """A sparse coloured cloud of what these cameras see.

    Returns x, y, z in world coordinates (m), then red, green and blue in 0..1; empty without cameras. The points are
    drawn evenly from the cameras' pixels.
    """
    parts = [np.zeros((0, 6), np.float32)]
    for number, (camera, view) in enumerate(shots):
        share = count // len(shots) + (number < count % len(shots))
        height, width = view.depth.shape
        rows, columns = np.divmod(noise.integers(0, height * width, share), width)
        depth = view.depth[rows, columns] * (1 + _DEPTH_NOISE * noise.standard_normal(share))
        points = camera.unproject(np.column_stack([columns, rows]).astype(float), depth, width, height)
        parts.append(np.column_stack([points, view.color[rows, columns] / 255]).astype(np.float32))
    return np.concatenate(parts)


def _empty_room(shell: Shell, camera: Camera, width: int, height: int) -> _Canvas:
    """Floor, walls and ceiling seen from inside: floor tiles, a darker band along the walls, light of the lamp."""
    canvas = _Canvas(
        np.empty((height, width, 3), np.float32),
        np.empty((height, width), np.float32),
        np.zeros((height, width), np.uint8),
    )
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        canvas.color[band], canvas.depth[band] = _empty_band(shell, camera, width, height, band)
    return canvas


def _empty_band(
    shell: Shell, camera: Camera, width: int, height: int, rows: slice
) -> tuple[Float[np.ndarray, "rows width 3"], Float[np.ndarray, "rows width"]]:
    """Colour and depth of some rows of an empty room."""
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(rows.start, rows.stop), [1.0]), -1)[:, :, 0]
    rays = pixels @ (camera.rotation.T @ np.linalg.inv(camera.intrinsics(width, height))).T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    exits = (np.where(rays > 0, shell.high, shell.low) - camera.position) / rays
    axis = exits.argmin(2)
    depth = exits.min(2)
    place = camera.position + depth[..., None] * rays
    tile = np.floor(place[..., :2] / 0.6)
    tiling = 1 + 0.05 * np.sin(tile @ [12.9898, 78.233] * 43.7)
    floor = shell.floor * tiling[..., None]
    band = place[..., 2] < 1.0
    wall = np.where(band[..., None], shell.band, shell.wall) * (1 - 0.08 * axis[..., None])
    ceiling = np.full(3, 215.0)
    upright = (axis == 2)[..., None]
    surface = np.where(upright, np.where((place[..., 2] < 1e-3)[..., None], floor, ceiling), wall)
    away = np.array(shell.light.lamp) - place
    lamp = shell.light.power / (1 + (away**2).sum(2) / 6)
    return surface * (shell.light.ambient + 0.5 * lamp)[..., None], depth


def _draw(canvas: _Canvas, solids: Solids, camera: Camera, light: Light) -> None:
    """Draw solids where they are nearer than what is there."""
    height, width = canvas.depth.shape
    intrinsics = camera.intrinsics(width, height)
    windows, visible = find_windows(solids, camera, intrinsics, width, height)
    origins = np.einsum("nij,nj->ni", solids.frame, camera.position - solids.centre)
    rays = solids.frame @ (camera.rotation.T @ np.linalg.inv(intrinsics))
    # Pixels count from the middle of each window: keeps the quadratic forms exact enough in single precision.
    middle = (windows[:, :2] + windows[:, 2:]) // 2
    rays[..., 2] += np.einsum("nik,nk->ni", rays[..., :2], middle)
    forms = discriminants(solids, origins, rays)
    lamp = np.array(light.lamp) - solids.centre
    distance = np.linalg.norm(lamp, axis=1, keepdims=True)
    lamp = np.einsum("nij,nj->ni", solids.frame, lamp / distance) * light.power / (1 + distance**2 / 6)
    sky = solids.frame[:, :, 2] * (0.25 * light.ambient)
    lamp, sky, color, half = (a.astype(np.float32) for a in (lamp, sky, solids.color, solids.half))
    origins, rays, forms = (a.astype(np.float32) for a in (origins, rays, forms))
    if camera.infrared:
        color[solids.marker] = _GLOW
    flat_depth, flat_labels, flat_color = (
        canvas.depth.reshape(-1),
        canvas.labels.reshape(-1),
        canvas.color.reshape(-1, 3),
    )
    for i in visible:
        left, top, right, bottom = windows[i].tolist()
        u = np.arange(left - middle[i, 0], right - middle[i, 0], dtype=np.float32)
        v = np.arange(top - middle[i, 1], bottom - middle[i, 1], dtype=np.float32)
        rows, columns, depth, normals = cast(int(solids.kind[i]), rays[i], origins[i], half[i], forms[i], u, v)
        pixels = (rows + top) * width + (columns + left)
        near = np.flatnonzero((depth < flat_depth[pixels]) & (depth > NEAR))
        pixels, normals = pixels[near], normals[:, near]
        brightness = np.maximum(lamp[i] @ normals, 0) + sky[i] @ normals + np.float32(0.75 * light.ambient)
        flat_depth[pixels] = depth[near]
        flat_labels[pixels] = solids.label[i]
        flat_color[pixels] = brightness[:, None] * color[i]
