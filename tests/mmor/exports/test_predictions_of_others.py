"""Predicted masks that were made for another domain: their colours would be other classes here, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmor.exports.coco_panoptic import export_coco_panoptic
from mmor.exports.cvat import export_cvat
from mmor.viewer.takes import open_shown
from operating_room.domain.domain import bundled, mmor
from operating_room.domain.stored import store_domain
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import MMOR_NAME, picture, write, write_dataset


def test_masks_of_another_domain_are_not_shown_and_leave_for_no_tool(tmp_path: Path) -> None:
    """Every pixel was background, and would have come back as the annotation."""
    dataset, made = Dataset(write_dataset(tmp_path / "data")), tmp_path / "made" / "inference"
    recorded = dataset.take(take := mmor().find_take(MMOR_NAME))
    color = mmor().labels.categories[1].color
    for timepoint in recorded.timepoints:
        mask = made / "pan_pred" / f"{MMOR_NAME}_1" / f"{timepoint.views['1'].stem}.png"
        write(mask, picture("PNG", np.full((6, 8, 3), color, np.uint8)))
    write(made / "model.json", {"about": "a model"})
    assert export_cvat(recorded, tmp_path / "cvat", made / "pan_pred").is_dir()
    assert open_shown(dataset, take, masks=[tmp_path / "made"]).masks
    store_domain(made, bundled("egoexor"))
    for export in (export_coco_panoptic, export_cvat):
        with pytest.raises(UserError, match=r"made/inference: was made for another domain .* egoexor"):
            export(recorded, tmp_path / "out", made / "pan_pred")
    for given in (tmp_path / "made", made, made / "pan_pred"):
        with pytest.raises(UserError, match=r"made/inference: was made for another domain"):
            open_shown(dataset, take, masks=[given])
