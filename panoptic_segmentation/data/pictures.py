"""Sizes and resizing of pictures before they enter the segmenter (stage-1 specification, section 4.1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SHORTEST_EDGE = 720  # px, at test time
LONGEST_EDGE = 1333  # px
STATION_SIZE = (2048, 1536)  # width and height to which station (simstation) pictures are brought first, px

Picture = UInt8[np.ndarray, "_ _ 3"]


def edge_size(height: int, width: int, shortest: int = SHORTEST_EDGE, longest: int = LONGEST_EDGE) -> tuple[int, int]:
    """Height and width with the shortest edge at `shortest`, unless the longest would exceed `longest`."""
    scale = shortest / min(height, width)
    # In detectron2's order of operations: a product that is .5 is rounded as there.
    sides = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(sides) > longest:
        scale = longest / max(sides)
        sides = (scale * sides[0], scale * sides[1])
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))


def resize_picture(picture: Picture, height: int, width: int) -> Picture:
    """PIL's bilinear resize, which averages over areas when it shrinks."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def resize_for_test(picture: Picture, shortest: int = SHORTEST_EDGE, longest: int = LONGEST_EDGE) -> Picture:
    """The test-time resize: `edge_size` with PIL's bilinear filter."""
    height, width = picture.shape[:2]
    return resize_picture(picture, *edge_size(height, width, shortest, longest))


def resize_station(picture: Picture, size: tuple[int, int] = STATION_SIZE) -> Picture:
    """Bring a station picture to `size` (width, height) as `cv2.resize` does by default: bilinear, no averaging.

    OpenCV computes uint8 in fixed point, and so does this: coefficients in 1/2048, sums cut to 4 bits less, then 16.
    """
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    left, right, along_x = _fixed_point(width, size[0])
    top, bottom, along_y = _fixed_point(height, size[1])
    wide = picture.astype(np.int32)
    rows = (wide[:, left] * (2048 - along_x)[:, None] + wide[:, right] * along_x[:, None]) >> 4
    mixed = (rows[top] * (2048 - along_y)[:, None, None] >> 16) + (rows[bottom] * along_y[:, None, None] >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def _fixed_point(length: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new position: the two old ones around it and the second one's coefficient in 1/2048."""
    place = ((np.arange(new) + 0.5) * (length / new) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int32)
    share = np.rint((place - first) * np.float32(2048)).astype(np.int32)
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), share
