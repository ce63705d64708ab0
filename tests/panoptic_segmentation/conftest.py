"""What tests of stage 1 share."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_segmentation.data.videos import Video, find_videos
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    return find_videos(write_take(tmp_path / "data", 9), [TAKE], length=6)
