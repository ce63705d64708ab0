"""Predicting into a folder that holds predictions: of the same model, of another one, damaged, of other pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.config.config_keys import WHOLE_VIDEO
from panoptic_segmentation.data.videos import Video, first_frames
from panoptic_segmentation.inference import predict as predict_module
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.predict import load, predict
from panoptic_segmentation.scores.evaluate import evaluate, predicted_size
from tests.panoptic_segmentation.inference.test_predict import CANVAS, TRUTH, new_model


def test_an_interrupted_prediction_goes_on(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
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
    predict(*load(one, mmor()), videos[:1], tmp_path / "out", "train", one)
    with pytest.raises(UserError, match=r"of another model, one\.safetensors; choose another folder") as caught:
        predict(*load(other, mmor()), videos[:1], tmp_path / "out", "train", other)
    assert "remove" not in str(caught.value)
    model, settings = load(one, mmor())
    changed = r"OBJECT_MASK_THRESHOLD 0\.0 \(now 0\.5\); choose another folder for these \(--out\), those stay"
    with pytest.raises(UserError, match=changed):
        predict(model, replace(settings, score_threshold=0.5), videos[:1], tmp_path / "out", "train", one)


@pytest.mark.parametrize("text", ["null", "[]", "{}", "{", '{"model": "x", "sha256": 1}', '{"settings": 3}'])
def test_a_folder_that_does_not_tell_its_model_is_left_alone(tmp_path: Path, videos: list[Video], text: str) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos[:1], tmp_path / "out", "train", origin)
    predictions.origin_path(tmp_path / "out").write_text(text)
    with pytest.raises(UserError, match=r"model\.json does not tell .*choose another folder"):
        predict(*load(origin, mmor()), videos[:1], tmp_path / "out", "train", origin)
    with pytest.raises(UserError, match=r"model\.json"):
        predicted_size(tmp_path / "out")


@pytest.mark.parametrize("kept", ["pan_pred", "pred_train.json"])
def test_predictions_of_another_program_are_left_alone(tmp_path: Path, videos: list[Video], kept: str) -> None:
    """As published: pictures and prediction file, and no word of their model."""
    origin, there = new_model(tmp_path / "model.safetensors"), tmp_path / "out" / "inference"
    predict(*load(origin, mmor()), videos, tmp_path / "out", "train", origin)
    for path in list(there.iterdir()):
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = sorted(there.rglob("*"))
    with pytest.raises(UserError, match=r"that do not tell their model \(no model\.json\); choose another folder"):
        predict(*load(origin, mmor()), videos, tmp_path / "out", "train", origin)
    assert sorted(there.rglob("*")) == before


def test_a_damaged_prediction_is_made_again(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, videos, tmp_path / "out", "train", origin)
    arguments = (videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    first = evaluate(*arguments)
    name = videos[0].pictures()[0].name
    damaged = [
        find(tmp_path / "out", videos[0].video_id, name)
        for find in (predictions.picture_path, predictions.instance_path)
    ]
    for path in damaged:
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        with pytest.raises(UserError, match=r"predict again"):
            evaluate(*arguments)
        predict(model, settings, videos, tmp_path / "out", "train", origin)
        assert path.read_bytes() == whole
        assert evaluate(*arguments) == first


def test_records_are_not_those_of_pictures_that_were_written_over(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first try, then the whole video, which is stopped: its first pictures are of the scores of other frames."""
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    settings = replace(settings, task=WHOLE_VIDEO)
    few = first_frames(videos[:1], 2)
    predict(model, settings, few, tmp_path / "out", "val", origin)
    written = predictions.write_frame

    def stops(output: Path, video_id: str, name: str, *rest: Any) -> dict[str, Any]:
        if name == videos[0].pictures()[2].name:
            raise KeyboardInterrupt
        return written(output, video_id, name, *rest)

    monkeypatch.setattr(predictions, "write_frame", stops)
    with pytest.raises(KeyboardInterrupt):
        predict(model, settings, videos[:1], tmp_path / "out", "val", origin)
    names = [picture.name for picture in few[0].pictures()]
    assert predictions.read_video(tmp_path / "out", videos[0].video_id, names) is None
    with pytest.raises(UserError, match="2 of 2 frames without prediction"):
        evaluate(few, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)


def test_other_pictures_of_the_same_names_are_predicted_anew(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras that were swapped and put right, pictures exported again: the masks of the ones before were kept."""
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, videos, tmp_path / "out", "train", origin)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for picture in videos[0].pictures():
        Image.fromarray(noise).save(picture)
    seen, written = list[str](), list[str]()
    looks, writes = predict_module.windows, predictions.write_json

    def counted(video: Video, *rest: Any) -> Any:
        seen.append(video.video_id)
        return looks(video, *rest)

    def noted(path: Path, *rest: Any, **more: Any) -> None:
        written.append(path.name)
        writes(path, *rest, **more)

    monkeypatch.setattr(predict_module, "windows", counted)
    predict(model, settings, videos, tmp_path / "out", "train", origin)
    assert seen == [
        video.video_id for video in videos if {*video.pictures()} & {*videos[0].pictures()}
    ]  # parts share one
    assert len(seen) < len(videos)
    seen.clear()
    # All are made anew: the file of the split is written once before and once after, however many videos it has.
    shutil.rmtree(tmp_path / "out" / "inference" / "pan_instances")
    monkeypatch.setattr(predictions, "write_json", noted)
    predict(model, settings, videos, tmp_path / "out", "train", origin)
    assert seen == [video.video_id for video in videos]
    assert written.count("pred_train.json") == 2


def test_predictions_of_before_there_were_formats_are_in_float32(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, videos[:1], tmp_path / "out", "val", origin)
    path = predictions.origin_path(tmp_path / "out")
    note = json.loads(path.read_text())
    assert note["settings"].pop("dtype") == "float32"
    path.write_text(json.dumps(note))
    predict(model, settings, videos[:1], tmp_path / "out", "val", origin)
