"""Prediction files in the published form."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_ids
from panoptic_segmentation.inference import predictions

LABELS = mmor().labels


def test_a_frame(tmp_path: Path) -> None:
    ids = np.zeros((4, 6), np.int32)
    ids[1:3, 2:5] = 2
    ids[0, 0] = 3
    labels = [(1, 4), (2, 9), (3, 40)]  # without pixels here, ordinary, of a class beyond the 24
    record = predictions.write_frame(
        tmp_path, "001_PKA_1", "camera01_colorimage-000100.jpg", ids, labels, (12, 8), LABELS
    )
    assert record["file_name"] == "camera01_colorimage-000100.jpg"
    (segment,) = record["segments_info"]
    assert segment == {
        "bbox": [2, 1, 2, 1],
        "area": 6,
        "category_id": 9,
        "iscrowd": 0,
        "id": LABELS.categories[9].color_id,
    }
    with Image.open(tmp_path / "inference" / "pan_pred" / "001_PKA_1" / "camera01_colorimage-000100.png") as image:
        assert (image.mode, image.size) == ("RGBA", (12, 8))
        pixels = np.asarray(image)
    assert pixels[2, 4].tolist() == [*LABELS.colors[9].tolist(), 255]
    assert pixels[0, 0].tolist() == [0, 0, 0, 255]


def test_nothing_predicted_is_a_black_picture(tmp_path: Path) -> None:
    record = predictions.write_frame(tmp_path, "v", "a.jpg", np.zeros((4, 6), np.int32), [], (6, 4), LABELS)
    assert record["segments_info"] == []
    assert not np.asarray(Image.open(predictions.picture_path(tmp_path, "v", "a.jpg")).convert("RGB")).any()


def test_a_video_counts_as_done_when_all_of_it_is_there(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    assert predictions.read_video(tmp_path, "v", names) is None
    ids = np.ones((4, 6), np.int32)
    frames = [predictions.write_frame(tmp_path, "v", name, ids, [(1, 3)], (6, 4), LABELS) for name in names]
    assert predictions.read_video(tmp_path, "v", names) is None
    video = predictions.write_video(tmp_path, "v", frames)
    assert predictions.read_video(tmp_path, "v", names) == video
    assert predictions.read_video(tmp_path, "v", names[:1]) == video  # a first try after the whole loses nothing
    assert predictions.read_video(tmp_path, "v", names[1:]) is None
    predictions.picture_path(tmp_path, "v", "b.jpg").unlink()
    assert predictions.read_video(tmp_path, "v", names) is None
    assert predictions.write_split(tmp_path, "train_small", [video]).name == "pred_train_small.json"


@pytest.mark.parametrize("damage", ["[]", "null", "{", '{"annotations": [1]}', '{"annotations": [], "video_id": "v"}'])
def test_a_video_with_damaged_records_is_not_there(tmp_path: Path, damage: str) -> None:
    frames = [predictions.write_frame(tmp_path, "v", "a.jpg", np.ones((4, 6), np.int32), [(1, 3)], (6, 4), LABELS)]
    predictions.write_video(tmp_path, "v", frames)
    assert predictions.read_video(tmp_path, "v", ["a.jpg"]) is not None
    predictions.video_path(tmp_path, "v").write_text(damage)
    assert predictions.read_video(tmp_path, "v", ["a.jpg"]) is None


@pytest.mark.parametrize("find", [predictions.picture_path, predictions.instance_path])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_video_with_a_damaged_picture_is_not_there(
    tmp_path: Path, find: Callable[[Path, str, str], Path], damage: str
) -> None:
    ids = np.ones((4, 6), np.int32)
    frames = [
        predictions.write_frame(tmp_path, "v", name, ids, [(1, 3)], (6, 4), LABELS, {1: 1})
        for name in ("a.jpg", "b.jpg")
    ]
    predictions.write_video(tmp_path, "v", frames)
    assert predictions.read_video(tmp_path, "v", ["a.jpg", "b.jpg"]) is not None
    path = find(tmp_path, "v", "b.jpg")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # within the pixels
    path.write_bytes({"cut": data[:-30], "flipped": data}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    assert predictions.read_video(tmp_path, "v", ["a.jpg", "b.jpg"]) is None


def test_a_prediction_file_keeps_what_others_have_put_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = ({"video_id": name, "annotations": []} for name in "ab")
    path = predictions.write_split(tmp_path, "test", [one])
    predictions.write_split(tmp_path, "test", [other])
    again = {**one, "annotations": [{"file_name": "x.jpg", "segments_info": []}]}
    predictions.write_split(tmp_path, "test", [again])
    assert json.loads(path.read_text()) == {"annotations": [again, other]}
    path.write_text('{"annotations": ')
    predictions.write_split(tmp_path, "test", [other])
    assert json.loads(path.read_text()) == {"annotations": [other]}
    assert "pred_test.json: was damaged" in capsys.readouterr().err


def test_what_others_put_into_a_prediction_file_at_the_same_time_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two commands for two takes: each reads the file, and writes it with its own."""
    read = predictions.read_json

    def slowly(path: Path) -> object:
        content = read(path)
        time.sleep(0.05)
        return content

    predictions.write_split(tmp_path, "test", [{"video_id": "first", "annotations": [{}]}])
    monkeypatch.setattr(predictions, "read_json", slowly)
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(predictions.write_split, tmp_path, "test", [{"video_id": f"{number}", "annotations": [{}]}])
        pool.submit(predictions.begin_videos, tmp_path, ["first"])
    content = json.loads(predictions.split_path(tmp_path, "test").read_text())
    there = [video["video_id"] for video in content["annotations"] if video["annotations"]]
    assert sorted(there) == ["0", "1", "2", "3"]


def test_a_picture_smaller_than_the_network_lists_what_it_shows(tmp_path: Path) -> None:
    ids = np.zeros((8, 8), np.int32)
    ids[2:6, 2:6] = 1
    ids[0, 0] = 2  # between the pixels that are taken
    ids[7, 7] = 3  # one of two segments of a class
    ids[0:2, 4:8] = 4
    labels = [(1, 3), (2, 5), (3, 7), (4, 7)]
    record = predictions.write_frame(tmp_path, "v", "a.jpg", ids, labels, (4, 4), LABELS, {n: n for n in range(1, 5)})
    listed = {segment["id"] for segment in record["segments_info"]}
    shown = set(np.unique(read_ids(predictions.picture_path(tmp_path, "v", "a.jpg"))).tolist()) - {0}
    assert listed == shown
    numbers = set(np.unique(read_ids(predictions.instance_path(tmp_path, "v", "a.jpg"))).tolist()) - {0}
    assert {segment["instance_id"] for segment in record["segments_info"]} == numbers
    assert 2 not in numbers
    assert next(s["area"] for s in record["segments_info"] if s["instance_id"] == 1) == 16  # px of the network


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=40)
def test_every_record_has_a_pixel_and_every_colour_a_record(seed: int, width: int, height: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 6, (7, 9)).astype(np.int32)
    with TemporaryDirectory() as folder:
        output, labels = Path(folder), [(n, 2 * n) for n in range(1, 6)]
        record = predictions.write_frame(output, "v", "a.jpg", ids, labels, (width, height), LABELS)
        shown = set(np.unique(read_ids(predictions.picture_path(output, "v", "a.jpg"))).tolist()) - {0}
    assert {segment["id"] for segment in record["segments_info"]} == shown


def test_segments_of_soft_masks() -> None:
    masks = np.zeros((3, 1, 1, 4), np.float32)
    masks[0, 0, 0] = [0.9, 0.6, 0.2, 0.0]
    masks[1, 0, 0] = [0.0, 0.4, 0.9, 0.4]
    ids, labels = predictions.segments_of_masks(masks, np.array([0.5, 0.9, 0.9]), np.array([7, 8, 9]))
    # The second pixel goes to the second instance, whose mask is below 0.5 there; the last one to nobody.
    assert ids.tolist() == [[[1, 0, 2, 0]]]
    assert labels == [(1, 7), (2, 8)]


def test_objects_beyond_the_numbers_of_a_picture_are_without_one(tmp_path: Path) -> None:
    ids = np.ones((4, 6), np.int32)
    ids[2:] = 256
    found = [(1, 3), (256, 4)]
    frames = [predictions.write_frame(tmp_path, "v", "a.jpg", ids, found, (6, 4), LABELS, {1: 1})]
    assert ["instance_id" in segment for segment in frames[0]["segments_info"]] == [True, False]
    video = predictions.write_video(tmp_path, "v", frames)
    assert predictions.read_video(tmp_path, "v", ["a.jpg"]) == video
    with Image.open(predictions.instance_path(tmp_path, "v", "a.jpg")) as picture:
        assert np.unique(np.asarray(picture)).tolist() == [0, 1]
