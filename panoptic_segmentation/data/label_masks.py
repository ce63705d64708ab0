"""One annotated label mask: cleaned, as categories at the wanted size, and the records of its segments.

Data specification, sections 7.1 and 7.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from operating_room.domain.labels import Labels

SMALLEST_AREA = 10  # px^2 of a contour's polygon; smaller ones are slips of the annotator's brush
TRAINING_ID_STEP = 10  # training id = category id * this

CategoryMap = UInt8[np.ndarray, "height width"]
Size = tuple[int, int]  # width, height in px


def clean(mask: UInt8[np.ndarray, "height width"], smallest: int = SMALLEST_AREA) -> UInt8[np.ndarray, "height width"]:
    """Erase what lies on and within outer contours of less than `smallest` px^2, label by label.

    The contour of a region runs through the centres of its border pixels, so that a line encloses nothing. No contour
    is traced: a region with its holes filled is just what its outer contour encloses, and the contour's area is one for
    each square of four pixels in it and a half for each with three. The result is that of OpenCV's external contours,
    contour area and filled drawing.
    """
    from scipy import ndimage

    cleaned = mask.copy()
    for label, place in enumerate(ndimage.find_objects(mask), start=1):
        if place is None:
            continue
        region = np.pad(mask[place] == label, 1)
        outside, _ = ndimage.label(~region)
        filled = outside != outside[0, 0]
        numbers, count = ndimage.label(filled, np.ones((3, 3)))
        squares = [numbers[:-1, :-1], numbers[:-1, 1:], numbers[1:, :-1], numbers[1:, 1:]]
        pixels = sum((square > 0).astype(np.uint8) for square in squares)
        area = np.bincount(np.maximum.reduce(squares).ravel(), np.maximum(pixels / 2.0 - 1, 0).ravel(), count + 1)
        small = area < smallest
        small[0] = False
        cleaned[place][small[numbers][1:-1, 1:-1]] = 0
    return cleaned


def category_map(mask: UInt8[np.ndarray, "_ _"], size: Size, labels: Labels) -> CategoryMap:
    """Category ids of a cleaned label mask at `size`, nearest pixel; unknown labels become background."""
    ids = labels.label_to_category[mask]
    rows, columns = (_nearest(old, new) for old, new in zip(mask.shape, reversed(size)))
    return ids[np.ix_(rows, columns)]


def unknown_labels(mask: UInt8[np.ndarray, "_ _"], labels: Labels) -> tuple[int, ...]:
    """The labels of a mask that are neither categories nor known mistakes."""
    there = np.flatnonzero(np.bincount(mask.ravel())).tolist()
    return tuple(sorted(set(there) - set(labels.labels.tolist()) - labels.mistakes.keys()))


def segment_records(categories: CategoryMap, labels: Labels) -> list[dict[str, Any]]:
    """The published records of a frame's segments: one per class, without background."""
    from scipy import ndimage

    areas = np.bincount(categories.ravel(), minlength=len(labels.categories))
    records = []
    for category, place in enumerate(ndimage.find_objects(categories), start=1):
        if place is None:
            continue
        rows, columns = place
        records.append(
            {
                "id": category * TRAINING_ID_STEP,
                "category_id": category,
                "area": int(areas[category]),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "isthing": 0,
                "iscrowd": 0,
                "rgb2idcolor": labels.categories[category].color_id,
            }
        )
    return records


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` positions the one of `old` that OpenCV's nearest neighbour takes."""
    return np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(int), old - 1)
