"""Point clouds, the cameras that stand in them, and sound, as the page draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmor.viewer.cache import Cache, file_state
from operating_room.files.camera_files import Calibration
from operating_room.files.readers import read_point_cloud, sound_peaks

MOST_POINTS = 60_000  # in a page
MOST_SEEN = 20_000  # points of a cloud in a picture
FRUSTUM = 0.5  # m from a camera to the picture that is drawn before it
PEAKS_PER_SECOND = 10


def cloud(path: Path, cache: Cache) -> bytes:
    """A cloud as float32 x, y, z in m of all points, then uint8 r, g, b of all: 15 bytes a point, little endian.

    Of a larger cloud every n-th point is taken.

    Raises:
        UserError: it cannot be read.
    """

    def make() -> bytes:
        points = read_point_cloud(path)
        points = points[:: -(-len(points) // MOST_POINTS)]
        colors = np.rint(points[:, 3:] * 255).clip(0, 255).astype(np.uint8)
        return points[:, :3].astype("<f4").tobytes() + colors.tobytes()

    return cache.get((*file_state(path), "cloud"), make)


def seen(path: Path, camera: str, lens: Calibration, cache: Cache) -> bytes:
    """What a camera sees of a cloud: uint16 x, y, depth of each point, far ones first, little endian.

    x and y are places in the picture, 65536 is its width or height; depths are mm along the axis. Nothing hides
    anything else: a cloud has no surfaces. Of many points every n-th is taken.

    Raises:
        UserError: the cloud cannot be read.
    """

    def make() -> bytes:
        content = cloud(path, cache)
        points = np.frombuffer(content, "<f4", len(content) // 5).reshape(-1, 3)
        pixels, depth = lens.project(points.astype(float))
        within = np.flatnonzero(np.isfinite(pixels[:, 0]))
        order = within[np.argsort(-depth[within])]
        order = order[:: max(1, -(-len(order) // MOST_SEEN))]
        places = (pixels[order] + 0.5) / np.array(lens.size) * 65536
        rows = np.column_stack([places, depth[order] * 1000])
        return rows.clip(0, 65535).astype("<u2").tobytes()

    return cache.get((*file_state(path), "seen", camera), make)


def frustum(lens: Calibration) -> Float[np.ndarray, "5 3"]:
    """Where a camera stands, and the corners of its picture 0.5 m before it, distortion left out (m, world)."""
    right, bottom = np.array(lens.size) - 0.5
    corners = np.array([[-0.5, -0.5, 1], [right, -0.5, 1], [right, bottom, 1], [-0.5, bottom, 1]])
    local = np.vstack([np.zeros(3), FRUSTUM * corners @ np.linalg.inv(lens.matrix).T])
    return local @ lens.pose[:3, :3].T + lens.pose[:3, 3]


def waveform(path: Path, cache: Cache) -> bytes:
    """The largest amplitude of each tenth of a second as a byte: 255 is as loud as a file can be.

    Raises:
        UserError: the recording cannot be read.
    """
    return cache.get(
        (*file_state(path), "waveform"),
        lambda: np.rint(sound_peaks(path, PEAKS_PER_SECOND)[0] * 255).astype(np.uint8).tobytes(),
    )
