"""One draw for a clip: pictures and masks stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from panoptic_segmentation.config.settings import ClipSettings
from panoptic_segmentation.data.augmentation import draw_augmentation

PLAIN = ClipSettings(shortest=(24,), longest=1333)


def halves(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a dark left and a bright right half, and its categories 1 and 2."""
    categories = np.ones((height, width), np.uint8)
    categories[:, width // 2 :] = 2
    return np.repeat((categories * 100)[..., None], 3, axis=2), categories


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_pictures_and_masks_stay_together(seed: int, crop: bool, jitter: bool) -> None:
    settings = replace(PLAIN, crop=crop, crop_size=(20, 26), color_jitter=jitter)
    augmentation = draw_augmentation(48, 64, settings, np.random.default_rng(seed))
    picture, categories = halves(48, 64)
    picture, categories = augmentation.picture(picture), augmentation.categories(categories)
    assert picture.shape[:2] == categories.shape == ((20, 26) if crop else (24, 32))
    dark, bright = (picture[categories == c].mean() if (categories == c).any() else None for c in (1, 2))
    assert dark is None or bright is None or dark < bright


def test_sizes_are_drawn_from_the_list_and_limited() -> None:
    settings = ClipSettings(shortest=(480, 512), longest=600)
    rng = np.random.default_rng(0)
    sizes = {draw_augmentation(1536, 2048, settings, rng).size for _ in range(20)}
    assert sizes == {(450, 600)}
    sizes = {draw_augmentation(1536, 2048, replace(settings, longest=1333), rng).size for _ in range(20)}
    assert sizes == {(480, 640), (512, 683)}


def test_half_of_the_clips_are_flipped_and_colours_stay_without_jitter() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(24, 32, PLAIN, rng) for _ in range(200)]
    assert 70 < sum(draw.flip for draw in draws) < 130
    picture, _ = halves(24, 32)
    for draw in draws[:4]:
        assert (draw.picture(picture) == (picture[:, ::-1] if draw.flip else picture)).all()
    assert (draws[0].gain == 1).all()
