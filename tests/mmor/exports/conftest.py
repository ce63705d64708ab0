"""Takes whose masks leave for other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmor.exports.coco_panoptic import export_coco_panoptic
from mmor.exports.cvat import export_cvat
from operating_room.domain.domain import mmor
from operating_room.files.readers import read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from tests.operating_room.tiny_dataset import MMOR_NAME, picture, write, write_dataset

EXPORTS = {"coco": export_coco_panoptic, "cvat": export_cvat}


def recorded(root: Path, take: str = MMOR_NAME) -> RecordedTake:
    """A take, as if it were looked at for the first time."""
    dataset = Dataset(root)
    return dataset.take(dataset.domain.find_take(take))


def masks_of(take: RecordedTake) -> dict[Path, bytes]:
    """The labels of every mask of a take."""
    found = [mask for timepoint in take.timepoints for mask in timepoint.several("label_masks").values()]
    return {path: read_label_mask(path).tobytes() for path in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with masks that use every label, the mistake of annotators among them."""
    write_dataset(tmp_path / "data")
    labels = [*mmor().labels.labels.tolist(), *mmor().labels.mistakes]
    draw = np.random.default_rng(0)
    for mask in (tmp_path / "data").rglob("*export_*/*.png"):
        pixels = draw.choice(np.array(labels, np.uint8), (6, 8)).repeat(8, 0).repeat(8, 1)
        write(mask, picture("PNG", pixels))
    return tmp_path / "data"
