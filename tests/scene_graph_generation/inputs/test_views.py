"""Pictures as views: what CLIP expects, cheaper than the plain way and equal to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from operating_room.errors import UserError
from scene_graph_generation.inputs import views
from scene_graph_generation.inputs.views import (
    MEAN,
    PAD_COLOR,
    STD,
    ViewReader,
    normalise_views,
    prepare_file,
    prepare_view,
)
from tests.operating_room.tiny_dataset import picture, write


def plain_view(image: np.ndarray, size: int) -> torch.Tensor:
    """The published way: the whole square is resized."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(Image.fromarray(image), ((side - width) // 2, (side - height) // 2))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)


@settings(deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(1, 120), st.sampled_from([0, 1, 255]), st.integers(0, 2**32)
)
@example(1, 200, 28, 0, 0)
@example(200, 1, 28, 0, 0)
@example(1, 1, 336, 0, 0)
@example(1, 2, 336, 255, 0)
@example(150, 200, 336, 0, 0)  # smaller than the view
@example(150, 200, 200, 0, 0)  # no columns to resize
@example(1536, 2048, 336, 0, 0)  # as recorded
@example(1535, 2047, 336, 0, 0)
@example(1, 4000, 28, 0, 0)
def test_columns_first_gives_the_same_bits(height: int, width: int, size: int, extreme: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if extreme:  # the filter overshoots most where black and white meet
        image = ((image > 127) * 255).astype(np.uint8)
    assert torch.equal(prepare_view(image, size), plain_view(image, size))


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "PNG")]
)
def test_files_are_prepared_as_their_pixels(tmp_path: Path, mode: str, form: str) -> None:
    path = tmp_path / "a.file"
    Image.fromarray(random_picture(40, 60)).convert(mode).save(path, form)
    with Image.open(path) as stored:
        pixels = np.asarray(stored.convert("RGB"))
    assert torch.equal(prepare_file(path, 28), plain_view(pixels, 28))


def random_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (40, 61), (50, 50)])
def test_views_are_what_clip_expects(size: tuple[int, int]) -> None:
    image = random_picture(*size)
    side = max(size)
    square = np.full((side, side, 3), PAD_COLOR, np.uint8)
    top, left = ((side - extent) // 2 for extent in size)
    square[top : top + size[0], left : left + size[1]] = image
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(square, return_tensors="pt").pixel_values[0]
    assert torch.allclose(normalise_views(prepare_view(image, 28)[None])[0], expected, atol=1e-6)


def test_missing_views_are_black_and_no_view_is_the_mean_color() -> None:
    read = ViewReader(28)
    black = read.shown(read([None]))
    expected = -torch.tensor(MEAN) / torch.tensor(STD)
    assert torch.allclose(black[0, :, 14, 14], expected, atol=1e-5)
    assert black[0, :, 0, 14].abs().max() < 0.05  # 2048x1536 is padded above and below
    no_view = read.shown(read([]))
    assert no_view.shape == (1, 3, 28, 28)
    assert not no_view.any()


def test_kept_views_are_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", picture())
    kept, fresh = ViewReader(28, keep=True), ViewReader(28)
    first = kept([path])
    path.unlink()
    assert torch.equal(kept([path, path])[1:], first)
    with pytest.raises(UserError, match=r"a\.jpg"):
        fresh([path])


def test_black_views_do_not_make_others_stay(tmp_path: Path) -> None:
    """Review: after the first missing camera every picture of every timepoint was kept, and read from there."""
    path, read = write(tmp_path / "a.jpg", picture()), ViewReader(28)
    first = read([None, path])
    write(path, picture(pixels=np.zeros((48, 64, 3), np.uint8)))
    assert not torch.equal(read([None, path])[1], first[1])
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jpg"):
        read([path])


def test_kept_views_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "KEPT_BYTES", 2 * 3 * 28 * 28)
    read = ViewReader(28, keep=True)
    paths = [write(tmp_path / f"{i}.jpg", picture()) for i in range(3)]
    read(paths)
    for path in paths:
        path.unlink()
    read(paths[:2])
    with pytest.raises(UserError, match=r"2\.jpg"):
        read(paths)


@pytest.mark.parametrize("size", [(1, 17_000), (17_000, 1)])
def test_a_line_of_pixels_is_no_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    """Padded to a square, 50 kB would be 900 MB, and the longest line of so many pixels as a camera has terabytes."""
    path = tmp_path / "line.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(UserError, match=r"line\.png: .*17000"):
        prepare_file(path, 28)
