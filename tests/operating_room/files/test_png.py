"""PNG files of our own are read by everybody else's readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from operating_room.files.png import write_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_picture_comes_back(tmp_path: Path, channels: int, mode: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    write_png(tmp_path / "new" / "a.png", picture)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)
