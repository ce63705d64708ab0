"""Prediction files in the published form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from operating_room.categories import CATEGORIES, COLORS
from operating_room.errors import UserError
from panoptic_segmentation import predictions


def test_a_frame(tmp_path: Path) -> None:
    ids = np.zeros((4, 6), np.int32)
    ids[1:3, 2:5] = 2
    ids[0, 0] = 3
    labels = [(1, 4), (2, 9), (3, 40)]  # without pixels here, ordinary, of a class beyond the 24
    record = predictions.write_frame(tmp_path, "001_PKA_1", "camera01_colorimage-000100.jpg", ids, labels, (12, 8))
    assert record["file_name"] == "camera01_colorimage-000100.jpg"
    (segment,) = record["segments_info"]
    assert segment == {"bbox": [2, 1, 2, 1], "area": 6, "category_id": 9, "iscrowd": 0, "id": CATEGORIES[9].color_id}
    with Image.open(tmp_path / "inference" / "pan_pred" / "001_PKA_1" / "camera01_colorimage-000100.png") as image:
        assert (image.mode, image.size) == ("RGBA", (12, 8))
        pixels = np.asarray(image)
    assert pixels[2, 4].tolist() == [*COLORS[9].tolist(), 255]
    assert pixels[0, 0].tolist() == [0, 0, 0, 255]


def test_nothing_predicted_is_a_black_picture(tmp_path: Path) -> None:
    record = predictions.write_frame(tmp_path, "v", "a.jpg", np.zeros((4, 6), np.int32), [], (6, 4))
    assert record["segments_info"] == []
    assert not np.asarray(Image.open(predictions.picture_path(tmp_path, "v", "a.jpg")).convert("RGB")).any()


def test_a_video_counts_as_done_when_all_of_it_is_there(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    assert predictions.read_video(tmp_path, "v", names) is None
    ids = np.ones((4, 6), np.int32)
    frames = [predictions.write_frame(tmp_path, "v", name, ids, [(1, 3)], (6, 4)) for name in names]
    assert predictions.read_video(tmp_path, "v", names) is None
    video = predictions.write_video(tmp_path, "v", frames)
    assert predictions.read_video(tmp_path, "v", names) == video
    assert predictions.read_video(tmp_path, "v", names[:1]) is None
    predictions.picture_path(tmp_path, "v", "b.jpg").unlink()
    assert predictions.read_video(tmp_path, "v", names) is None
    assert predictions.write_split(tmp_path, "train_small", [video]).name == "pred_train_small.json"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = predictions.video_path(tmp_path, "v")
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"v\.json: is no record"):
        predictions.read_video(tmp_path, "v", [])


def test_segments_of_soft_masks() -> None:
    masks = np.zeros((3, 1, 1, 4), np.float32)
    masks[0, 0, 0] = [0.9, 0.6, 0.2, 0.0]
    masks[1, 0, 0] = [0.0, 0.4, 0.9, 0.4]
    ids, labels = predictions.segments_of_masks(masks, np.array([0.5, 0.9, 0.9]), np.array([7, 8, 9]))
    # The second pixel goes to the second instance, whose mask is below 0.5 there; the last one to nobody.
    assert ids.tolist() == [[[1, 0, 2, 0]]]
    assert labels == [(1, 7), (2, 8)]
