"""Predicting takes and comparing the files with the ground truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from operating_room.dataset import Dataset
from operating_room.errors import UserError
from panoptic_segmentation import predictions
from panoptic_segmentation.checkpoints import ModelCard, build_model, save_model, save_published
from panoptic_segmentation.evaluate import evaluate
from panoptic_segmentation.ground_truth import Video, find_videos, prepare
from panoptic_segmentation.overlap import read_ids
from panoptic_segmentation.predict import load, predict
from tests.panoptic_segmentation.test_ground_truth import TAKE, write_take
from tests.panoptic_segmentation.test_panoptic_train import TINY

CANVAS = TINY.test.canvas
TRUTH = "mmor_ground_truth_train"


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    return find_videos(write_take(tmp_path / "data", 9), [TAKE], length=6)


def new_model(path: Path, kind: str = "ctvis") -> Path:
    model = build_model(kind, TINY.segmenter, TINY.video)
    card = ModelCard(kind, TINY.segmenter, TINY.video, json.loads(json.dumps(vars(TINY.test))))
    save_model(path, model, card)
    return path


@pytest.mark.parametrize("kind", ["ctvis", "online", "offline"])
def test_every_kind_of_model_writes_the_published_files(tmp_path: Path, videos: list[Video], kind: str) -> None:
    path = new_model(tmp_path / "model.safetensors", kind)
    path = predict(*load(path), videos, tmp_path / "out", "train", path)
    file = json.loads(path.read_text())
    assert [video["video_id"] for video in file["annotations"]] == [video.video_id for video in videos]
    frame = file["annotations"][0]["annotations"][0]
    with Image.open(predictions.picture_path(tmp_path / "out", videos[0].video_id, frame["file_name"])) as image:
        assert (image.mode, image.size) == ("RGBA", CANVAS)
    quality = evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    assert 0 <= quality.vpq <= 100
    report = json.loads((tmp_path / "out" / "inference" / "vpq_train.json").read_text())
    assert report["frames"] == 13
    assert report["vpq"] == quality.vpq
    assert 0 <= report["stq"]["stq"] <= 1


def test_an_interrupted_prediction_goes_on(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin)
    first = predict(model, settings, videos, tmp_path / "out", "train", origin).read_bytes()
    kept, lost = (
        predictions.picture_path(tmp_path / "out", videos[i].video_id, videos[i].pictures()[1].name) for i in (0, 1)
    )
    time = kept.stat().st_mtime_ns
    lost.unlink()
    assert predict(model, settings, videos, tmp_path / "out", "train", origin).read_bytes() == first
    assert lost.exists()
    assert kept.stat().st_mtime_ns == time


def test_predictions_of_two_models_do_not_mix(tmp_path: Path, videos: list[Video]) -> None:
    one, other = new_model(tmp_path / "one.safetensors"), new_model(tmp_path / "other.safetensors")
    predict(*load(one), videos[:1], tmp_path / "out", "train", one)
    with pytest.raises(UserError, match="another model"):
        predict(*load(other), videos[:1], tmp_path / "out", "train", other)
    model, settings = load(one)
    with pytest.raises(UserError, match="another model or setting"):
        predict(model, replace(settings, score_threshold=0.5), videos[:1], tmp_path / "out", "train", one)


def test_published_checkpoints_need_a_configuration(tmp_path: Path, videos: list[Video]) -> None:
    path = tmp_path / "model_final.pth"
    save_published(path, build_model("ctvis", TINY.segmenter, TINY.video))
    with pytest.raises(UserError, match="give the configuration"):
        load(path)
    predict(*load(path, TINY), videos[:1], tmp_path / "out", "train", path)


def test_all_frames_can_be_predicted_and_evaluated(tmp_path: Path, videos: list[Video]) -> None:
    everything = find_videos(Dataset(tmp_path / "data"), [TAKE], length=6, annotated=False)
    assert sum(len(video.frames) for video in everything) > sum(len(video.frames) for video in videos)
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin), everything, tmp_path / "out", "train", origin)
    evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    predict(*load(origin), everything[:1], tmp_path / "out", "train", origin)
    with pytest.raises(UserError, match="frames without prediction"):
        evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)


def test_the_truth_as_prediction_scores_100(tmp_path: Path, videos: list[Video]) -> None:
    prepare(videos, tmp_path / "prepared", TRUTH, CANVAS)
    done = []
    for video in videos:
        frames = []
        for picture, path in zip(video.pictures(), video.prepared(tmp_path / "prepared")):
            ids = (read_ids(path) // 10).astype(np.int32)
            labels = [(int(c), int(c)) for c in np.unique(ids) if c]
            frames.append(predictions.write_frame(tmp_path / "out", video.video_id, picture.name, ids, labels, CANVAS))
        done.append(predictions.write_video(tmp_path / "out", video.video_id, frames))
    predictions.write_split(tmp_path / "out", "train", done)
    assert evaluate(videos[:1], tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS).windows[4].average[
        "pq"
    ] == pytest.approx(1)


def test_what_is_missing_is_named(tmp_path: Path, videos: list[Video]) -> None:
    with pytest.raises(UserError, match=r"pred_val\.json: no such file"):
        evaluate(videos, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)
    origin = new_model(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no frame to predict"):
        predict(*load(origin), [], tmp_path / "out", "val", origin)
    videos[0].pictures()[3].write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match=videos[0].pictures()[3].name):
        predict(*load(origin), videos, tmp_path / "out", "val", origin)
