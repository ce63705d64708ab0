"""Where rays meet solids.

A ray is parametrised by its depth along the optical axis, so in the frame of a solid it is an affine function of the
pixel (u, v, 1), and whether it hits an ellipsoid or a tube is the sign of a quadratic form of the pixel.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from operating_room_simulator.stage.camera import Camera
from operating_room_simulator.stage.solids import BOX, CAPSULE, ELLIPSOID, Solids

NEAR = 0.08  # m; nothing is drawn nearer to the camera
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)

Hits = tuple[Float32[np.ndarray, " hits"], Float32[np.ndarray, "3 hits"]]  # depth and normal in the solid's frame


def find_windows(
    solids: Solids, camera: Camera, intrinsics: Float[np.ndarray, "3 3"], width: int, height: int
) -> tuple[np.ndarray, list[int]]:
    """Pixel rectangles (left, top, right, bottom) that solids project into, and the numbers of those in the picture."""
    reach = solids.half.copy()
    reach[solids.kind == CAPSULE, 2] += reach[solids.kind == CAPSULE, 0]
    corners = solids.centre[:, None] + (_CORNERS * reach[:, None]) @ solids.frame
    points = (corners - camera.position) @ camera.rotation.T
    depth = points[..., 2]
    pixels = points[..., :2] / np.maximum(depth, 1e-3)[..., None] * intrinsics[0, 0] + intrinsics[:2, 2]
    around = (depth < NEAR).any(1)[:, None]  # partly behind the camera: may be anywhere in the picture
    size = np.array([width, height])
    first = np.clip(np.where(around, 0, np.floor(pixels.min(1))), 0, size)
    last = np.clip(np.where(around, size, np.ceil(pixels.max(1)) + 1), 0, size)
    visible = (last > first).all(1) & (depth > NEAR).any(1)
    return np.concatenate([first, last], 1).astype(int), np.flatnonzero(visible).tolist()


def discriminants(
    solids: Solids, origins: Float[np.ndarray, "n 3"], rays: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3 3"]:
    """Q such that (u, v, 1) Q (u, v, 1)^T > 0 where a ray o + t d meets the solid scaled to a unit ball or unit tube.

    |d|^2 - |o x d|^2 is the discriminant of |o + t d| = 1; d and o x d are linear in (u, v, 1).
    """
    scale = 1 / solids.half
    scale[solids.kind != ELLIPSOID, 2] = 0  # a tube: the third component does not count
    d = rays * scale[..., None]
    moment = np.cross((origins * scale)[:, None], d.swapaxes(1, 2)).swapaxes(1, 2)
    return d.swapaxes(1, 2) @ d - moment.swapaxes(1, 2) @ moment


def cast(
    kind: int,
    ray: Float32[np.ndarray, "3 3"],
    origin: Float32[np.ndarray, "3"],
    half: Float32[np.ndarray, "3"],
    form: Float32[np.ndarray, "3 3"],
    u: Float32[np.ndarray, " columns"],
    v: Float32[np.ndarray, " rows"],
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, " hits"], Float32[np.ndarray, "3 hits"]]:
    """Row, column, depth and normal (in its frame) of the pixels of a window whose rays meet a solid.

    Some of those of a capsule or cylinder are infinitely far; `form` is that of `discriminants`.
    """
    if kind == BOX:
        return _cast_box(ray, origin, half, u, v)
    discriminant = _form(form, u, v)
    rows, columns = np.nonzero(discriminant > 0)
    places = np.ones((3, len(rows)), np.float32)
    places[0], places[1] = u[columns], v[rows]
    root = np.sqrt(discriminant[rows, columns])
    meet = _meet_ellipsoid if kind == ELLIPSOID else _meet_rod
    return rows, columns, *meet(ray @ places, origin, half, root, kind == CAPSULE)


def _form(
    q: Float32[np.ndarray, "3 3"], u: Float32[np.ndarray, " columns"], v: Float32[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows columns"]:
    """p Q p^T of all pixels p = (u, v, 1) of a window."""
    grid = (2 * q[0, 1] * v)[:, None] * u
    grid += (q[0, 0] * u + 2 * q[0, 2]) * u + q[2, 2]
    grid += ((q[1, 1] * v + 2 * q[1, 2]) * v)[:, None]
    return grid


def _meet_ellipsoid(
    d: Float32[np.ndarray, "3 hits"],
    origin: Float32[np.ndarray, "3"],
    half: Float32[np.ndarray, "3"],
    root: Float32[np.ndarray, " hits"],
    _: bool,
) -> Hits:
    """Where rays that hit an ellipsoid enter it; `root` is the root of their discriminant."""
    d, origin = d / half[:, None], origin / half
    depth = -(origin @ d + root) / (d * d).sum(0)
    normals = (origin[:, None] + depth * d) / half[:, None]
    normals /= np.sqrt((normals * normals).sum(0))
    return depth, normals


def _meet_rod(
    d: Float32[np.ndarray, "3 hits"],
    origin: Float32[np.ndarray, "3"],
    half: Float32[np.ndarray, "3"],
    root: Float32[np.ndarray, " hits"],
    is_capsule: bool,
) -> Hits:
    """Where rays that hit the endless tube of a capsule or cylinder enter the solid; infinitely far if nowhere."""
    radius, reach = half[0], half[2]
    flat = d[0] * d[0] + d[1] * d[1]
    depth = -(origin[0] * d[0] + origin[1] * d[1] + radius**2 * root) / flat
    height = origin[2] + depth * d[2]
    beyond = np.flatnonzero(np.abs(height) > reach)
    normals = origin[:, None] + depth * d
    normals[2] = 0
    normals /= radius
    if len(beyond):
        d, end = d[:, beyond], np.copysign(reach, height[beyond])
        away = origin[2] - end
        if is_capsule:
            slope = d[2] * d[2] + flat[beyond]
            b = origin[0] * d[0] + origin[1] * d[1] + away * d[2]
            discriminant = b * b - slope * (origin[0] ** 2 + origin[1] ** 2 - radius**2 + away * away)
            t = -(b + np.sqrt(np.maximum(discriminant, 0))) / slope
            ball = (origin[:, None] + t * d) / radius
            ball[2] -= end / radius
            normals[:, beyond] = ball
            depth[beyond] = np.where(discriminant > 0, t, np.inf)
        else:
            t = -away / np.where(d[2] == 0, np.float32(1e-9), d[2])
            inside = (origin[0] + t * d[0]) ** 2 + (origin[1] + t * d[1]) ** 2 <= radius**2
            normals[:2, beyond] = 0
            normals[2, beyond] = np.sign(end)
            depth[beyond] = np.where(inside, t, np.inf)
    return depth, normals


def _cast_box(
    ray: Float32[np.ndarray, "3 3"],
    origin: Float32[np.ndarray, "3"],
    half: Float32[np.ndarray, "3"],
    u: Float32[np.ndarray, " columns"],
    v: Float32[np.ndarray, " rows"],
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, " hits"], Float32[np.ndarray, "3 hits"]]:
    """Row, column, depth and normal of the pixels of a window that see a box (slab method)."""
    enter = np.full((len(v), len(u)), -np.inf, np.float32)
    leave = np.full((len(v), len(u)), np.inf, np.float32)
    axis = np.zeros((len(v), len(u)), np.int8)
    for k in range(3):
        d = ray[k, 0] * u + (ray[k, 1] * v + ray[k, 2])[:, None]
        d[d == 0] = 1e-9
        d = np.float32(1) / d
        middle = -origin[k] * d
        reach = half[k] * np.abs(d)
        first = middle - reach
        axis[first > enter] = k
        np.maximum(enter, first, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    rows, columns = np.nonzero(enter < leave)
    faces = axis[rows, columns]
    normals = np.zeros((3, len(rows)), np.float32)
    normals[faces, np.arange(len(rows))] = np.sign(origin)[faces]
    return rows, columns, enter[rows, columns], normals
