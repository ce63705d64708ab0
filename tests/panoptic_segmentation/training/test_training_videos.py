"""What a training draws from: its videos and what is in their frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.domain.domain import mmor
from operating_room.work.repeats import repeat_factors
from panoptic_segmentation.training.train import training_videos
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


def test_what_is_rare_in_one_collection_alone_is_drawn_more_often(tmp_path: Path) -> None:
    # In 4D-OR tools are seen in hands only; the tables full of them in MM-OR must not make them common.
    write_take(tmp_path, 19)
    dataset = write_take(tmp_path, 3, mmor().find_take("001_4DOR"))
    config = replace(TINY, train_data=("hybridor_panoptic_train",))
    videos, classes = training_videos(config, dataset, tmp_path / "prepared")
    assert [video.take.name for video in videos] == ["001_PKA", "001_4DOR"]
    assert len(classes) == sum(len(video.frames) for video in videos) == 20
    factors = repeat_factors(classes, 0.9)
    assert (factors[:18] == 1).all()
    assert factors[18:] == pytest.approx(3)  # a patient of 4D-OR is in 2 of 20 frames
