"""What tests of trainings share."""

from __future__ import annotations

from pathlib import Path

import pytest

from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.training.train import train
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, prepared ground truth and a finished run, to be copied from."""
    root = tmp_path_factory.mktemp("train")
    write_take(root / "data", 7)
    train(TINY, Dataset(root / "data"), root / "run", root / "prepared")
    return root
