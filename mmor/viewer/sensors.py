"""Point clouds and sound as the page draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmor.viewer.cache import Cache, file_state
from operating_room.files.readers import read_point_cloud, sound_peaks

MOST_POINTS = 60_000  # in a page
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


def waveform(path: Path, cache: Cache) -> bytes:
    """The largest amplitude of each tenth of a second as a byte: 255 is as loud as a file can be.

    Raises:
        UserError: the recording cannot be read.
    """
    return cache.get(
        (*file_state(path), "waveform"),
        lambda: np.rint(sound_peaks(path, PEAKS_PER_SECOND)[0] * 255).astype(np.uint8).tobytes(),
    )
