"""Label masks are cleaned, become categories and are told in records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from panoptic_segmentation.data.label_masks import category_map, clean, segment_records

LABELS = mmor().labels


def mask_of(*rows: str) -> np.ndarray:
    """A label mask, one digit per pixel; `.` is background."""
    return np.array([[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.uint8)


def test_lines_and_small_squares_are_erased() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[1, 1:29] = 3  # a line encloses nothing, however long
    mask[3:7, 1:5] = 3  # contour of 3 x 3 px
    mask[10:14, 1:6] = 3  # contour of 3 x 4 px
    cleaned = clean(mask)
    assert (cleaned > 0).sum() == 20
    assert (cleaned[10:14, 1:6] == 3).all()


def test_what_a_small_contour_encloses_goes_with_it() -> None:
    mask = mask_of("......", ".1111.", ".1221.", ".1221.", ".1111.", "......")
    assert not clean(mask).any()
    wide = np.pad(mask[1:5, 1:5], 3, constant_values=1)
    assert (clean(wide)[3:7, 3:7] == mask_of("1111", "1..1", "1..1", "1111")).all()  # the 2s have contours of their own


def test_only_outer_contours_count() -> None:
    mask = np.full((9, 9), 1, np.uint8)
    mask[2:7, 2:7] = 0
    mask[4, 4] = 1  # alone in the hole of a large region of its label
    assert (clean(mask) == mask).all()


def test_diagonal_neighbours_belong_together() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[1:5, 1:5] = mask[5:9, 5:9] = 7  # two contours of 9 px^2, joined at a corner
    assert (clean(mask) == mask).all()


@given(st.integers(0, 10_000))
def test_cleaning_erases_only_and_nothing_more_the_second_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 4), int)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.1] = 2
    cleaned = clean(mask)
    assert set(np.unique(cleaned[cleaned != mask])) <= {0}
    assert (clean(cleaned, smallest=0) == cleaned).all()


def test_labels_become_categories_and_unknown_ones_background() -> None:
    mask = np.array([[0, 29], [14, 200]], np.uint8)
    assert category_map(mask, (4, 2), LABELS).tolist() == [[0, 0, 23, 23], [0, 0, 0, 0]]


def test_records_of_a_frame() -> None:
    categories = np.zeros((6, 8), np.uint8)
    categories[1:3, 2:7] = 5
    (record,) = segment_records(categories, LABELS)
    assert record["id"] == 50
    assert record["area"] == 10
    assert record["bbox"] == [2, 1, 5, 2]
    assert record["rgb2idcolor"] == LABELS.categories[5].color_id
    assert segment_records(np.zeros((2, 2), np.uint8), LABELS) == []
