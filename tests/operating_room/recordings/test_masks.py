"""Reduction of label maps and colours of class pictures, against the rule spelled out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plain_masks import plain_reduction

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.masks import reduce_labels


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(8, 33), st.integers(8, 33)), elements=st.integers(0, 29)),
    st.sampled_from([3, 8]),
)
def test_the_rarest_label_of_a_cell_wins(labels: np.ndarray, size: int) -> None:
    np.testing.assert_array_equal(reduce_labels(labels, size), plain_reduction(labels, size))


def test_rows_beyond_the_last_cell_count_nowhere() -> None:
    labels = np.zeros((65, 64), np.uint8)
    labels[:2, :2] = [[3, 3], [5, 3]]
    labels[64] = 5  # would make 5 more frequent than 3
    assert reduce_labels(labels)[0, 0] == 5
    assert reduce_labels(np.asfortranarray(labels))[0, 0] == 5


def test_too_small_a_map_is_refused() -> None:
    with pytest.raises(UserError, match="40x31 px cannot be reduced to 32x32"):
        reduce_labels(np.zeros((31, 40), np.uint8))


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 24)))
def test_colours_to_labels_and_back(numbers: np.ndarray) -> None:
    labels = mmor().labels
    colors = np.vstack([labels.colors, np.array([[1, 2, 3]], np.uint8)])  # the last is of no category
    picture = colors[numbers]
    expected = np.where(numbers < len(labels.categories), numbers, 0)
    transparent = np.dstack([picture, numbers])
    for given_picture in (picture, transparent, np.asfortranarray(picture), picture[::-1][::-1]):
        np.testing.assert_array_equal(labels.colors_to_categories(given_picture), expected)
        np.testing.assert_array_equal(labels.colors_to_labels(given_picture), labels.labels[expected])
