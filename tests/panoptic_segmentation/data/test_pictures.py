"""Sizes and resizing of pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segmentation.data.pictures import edge_size, resize_for_test, resize_station


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1536, 2048), (720, 960)),
        ((1080, 1920), (720, 1280)),
        ((480, 640), (720, 960)),
        ((700, 2000), (467, 1333)),
        ((149, 298), (667, 1333)),  # 666.5 px, and 236.5 below: rounded up as published, by its order of operations
        ((407, 2294), (237, 1333)),
    ],
)
def test_published_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert edge_size(*size) == expected


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_limits_hold_for_any_picture(height: int, width: int) -> None:
    new = edge_size(height, width)
    assert max(new) <= 1333
    assert min(new) <= 720
    assert max(new) == 1333 or min(new) == 720


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (720, 960, 3), dtype=np.uint8)
    assert resize_for_test(picture) is picture


def test_one_colour_stays_one_colour() -> None:
    picture = np.full((37, 51, 3), (7, 130, 255), np.uint8)
    for new in (resize_for_test(picture, 20, 40), resize_station(picture, (64, 48)), resize_station(picture, (20, 9))):
        assert (new == picture[0, 0]).all()


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 60), st.integers(1, 60))
def test_station_resize_is_bilinear_within_rounding(height: int, width: int, new_height: int, new_width: int) -> None:
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    y = np.clip((np.arange(new_height) + 0.5) * height / new_height - 0.5, 0, height - 1)
    x = np.clip((np.arange(new_width) + 0.5) * width / new_width - 0.5, 0, width - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (y - top)[:, None, None], (x - left)[None, :, None]
    wide = picture.astype(float)
    upper = wide[top][:, left] * (1 - across) + wide[top][:, right] * across
    lower = wide[bottom][:, left] * (1 - across) + wide[bottom][:, right] * across
    expected = upper * (1 - down) + lower * down
    assert np.abs(resize_station(picture, (new_width, new_height)) - expected).max() <= 1.5
