"""Predicting takes."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from computing.machine import seeded
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_ids
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import Share
from panoptic_segmentation.config.config_keys import CAUSAL, WHOLE_VIDEO
from panoptic_segmentation.config.settings import save_config
from panoptic_segmentation.data.videos import Video, find_videos, first_frames
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.blends import write_blends
from panoptic_segmentation.inference.predict import export_masks, load, predict, read_test_config, segment_video
from panoptic_segmentation.scores.evaluate import evaluate
from panoptic_segmentation.weights.checkpoints import ModelCard, build_model, save_model, save_published
from tests.operating_room.published import index_place
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

CANVAS = TINY.test.canvas
TRUTH = "mmor_ground_truth_train"


def new_model(path: Path, kind: str = "ctvis") -> Path:
    """A model with random weights that are the same in every run, and others under another name."""
    with seeded(sum(path.name.encode())):
        model = build_model(kind, TINY.segmenter, TINY.video)
    card = ModelCard(kind, TINY.segmenter, TINY.video, json.loads(json.dumps(vars(TINY.test))))
    save_model(path, model, card)
    return path


@pytest.mark.parametrize("kind", ["ctvis", "online", "offline", "encoder_only"])
def test_every_kind_of_model_writes_the_published_files(tmp_path: Path, videos: list[Video], kind: str) -> None:
    path = new_model(tmp_path / "model.safetensors", kind)
    path = predict(*load(path, mmor()), videos, tmp_path / "out", "train", path)
    file = json.loads(path.read_text())
    assert [video["video_id"] for video in file["annotations"]] == [video.video_id for video in videos]
    frame = file["annotations"][0]["annotations"][0]
    with Image.open(predictions.picture_path(tmp_path / "out", videos[0].video_id, frame["file_name"])) as image:
        assert (image.mode, image.size) == ("RGBA", CANVAS)
    quality = evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    assert 0 <= quality.classes.vpq <= 100
    assert quality.instances is not None
    assert quality.instances.vpq <= quality.classes.vpq + 1e-6
    assert "STQ" in str(quality)
    report = json.loads((tmp_path / "out" / "inference" / "vpq_train.json").read_text())
    assert report["frames"] == 13
    assert report["vpq"] == quality.classes.vpq
    assert report["instances"]["vpq"] == quality.instances.vpq
    assert sorted(map(int, report["windows"])) == [1, 2, 4, 6, 8]
    assert 0 <= report["stq"]["stq"] <= 1


def test_what_is_missing_is_named(tmp_path: Path, videos: list[Video]) -> None:
    with pytest.raises(UserError, match=r"pred_val\.json: no such file"):
        evaluate(videos, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)
    origin = new_model(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no frame to predict"):
        predict(*load(origin, mmor()), [], tmp_path / "out", "val", origin)
    videos[0].pictures()[3].write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match=rf"2 of 3 videos are not in it.*{videos[0].pictures()[3].name}"):
        predict(*load(origin, mmor()), videos, tmp_path / "out", "val", origin)
    kept = json.loads(predictions.split_path(tmp_path / "out", "val").read_text())
    assert [video["video_id"] for video in kept["annotations"]] == [videos[2].video_id]


@pytest.mark.parametrize("kind", ["ctvis", "online", "offline", "encoder_only"])
@pytest.mark.parametrize("task", [CAUSAL, WHOLE_VIDEO])
def test_predictions_that_are_no_numbers_are_no_empty_pictures(
    tmp_path: Path, videos: list[Video], kind: str, task: str
) -> None:
    """As of a model that overflows in float16: finite weights, but not what they make of a picture."""
    origin = new_model(tmp_path / "model.safetensors", kind)
    model, settings = load(origin, mmor())
    model.segmenter.pixel_mean.fill_(torch.inf)
    first = first_frames(videos[:1], 1)  # nothing is followed from frame to frame
    with pytest.raises(UserError, match=r"predictions are not finite.*float16.*--dtype"):
        predict(model, replace(settings, task=task), first, tmp_path / "out", "val", origin)
    assert not predictions.video_path(tmp_path / "out", videos[0].video_id).exists()


def test_a_video_that_is_left_out_is_in_no_prediction_file(tmp_path: Path, videos: list[Video]) -> None:
    """Of a first try it was, but its pictures are no longer those."""
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    for name in ("val", "try"):
        predict(model, settings, first_frames(videos, 2), tmp_path / "out", name, origin)
    videos[0].pictures()[-1].write_bytes(b"no picture")
    with pytest.raises(UserError, match="2 of 3 videos are not in it"):
        predict(model, settings, videos, tmp_path / "out", "val", origin)
    for name, there in (("val", [videos[2].video_id]), ("try", [])):
        found = json.loads(predictions.split_path(tmp_path / "out", name).read_text())["annotations"]
        assert [video["video_id"] for video in found if video["annotations"]] == there


def test_frames_of_one_video_have_one_shape(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    Image.new("RGB", (10, 40)).save(videos[2].pictures()[-1])
    with pytest.raises(UserError, match=r"2 of 3 videos .* has other proportions"):
        predict(*load(origin, mmor()), videos, tmp_path / "out", "val", origin)


def test_a_full_disk_stops_with_the_path_and_keeps_what_is_done(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the full disk: the system refuses to write the rest of a picture."""
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    # The copy of the domain is larger than the pictures, which are to be the first that have no room.
    monkeypatch.setattr("panoptic_segmentation.inference.predict.store_domain", lambda *_: None)
    predict(model, settings, videos[:1], tmp_path / "out", "val", origin)
    size = max(path.stat().st_size for path in (tmp_path / "out").rglob("*.json"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 600), hard))
    try:
        with pytest.raises(UserError, match=r"out2/inference/pan_.*cannot be written.*check free space"):
            predict(model, replace(settings, canvas=(640, 480)), videos[1:], tmp_path / "out2", "val", origin)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out2").rglob("*partial*"))
    assert not predictions.video_path(tmp_path / "out2", videos[1].video_id).exists()
    assert predictions.read_video(tmp_path / "out", videos[0].video_id, [p.name for p in videos[0].pictures()])


@pytest.mark.parametrize("task", [WHOLE_VIDEO, CAUSAL])
@pytest.mark.parametrize("kind", ["ctvis", "online", "offline", "encoder_only"])
def test_predictions_in_16_bits_are_nearly_those_in_32_and_do_not_mix(
    tmp_path: Path, videos: list[Video], kind: str, task: str
) -> None:
    origin = new_model(tmp_path / "model.safetensors", kind)
    colors = []
    for dtype in ("float32", "bfloat16"):
        config = read_test_config(origin, None, ["TEST.DTYPE", dtype, "MODEL.MASK_FORMER.TEST.TASK", task])
        model, settings = load(origin, mmor(), config)
        predict(model, settings, videos, tmp_path / dtype, "val", origin)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        pictures = [
            predictions.picture_path(tmp_path / dtype, v.video_id, p.name) for v in videos for p in v.pictures()
        ]
        colors.append(np.stack([read_ids(path) for path in pictures]))
    assert (colors[0] == colors[1]).mean() > 0.95
    with pytest.raises(UserError, match=r"made with TEST\.DTYPE 'float32' \(now 'bfloat16'\); choose another folder"):
        predict(model, settings, videos, tmp_path / "float32", "val", origin)


def test_a_format_that_the_device_lacks_is_named_before_anything_is_written(
    tmp_path: Path, videos: list[Video]
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    with pytest.raises(UserError, match="float16 needs a GPU"):
        predict(model, replace(settings, dtype="float16"), videos, tmp_path / "out", "val", origin)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"TEST\.DTYPE is 'half'; expected float32 or bfloat16 or float16"):
        read_test_config(origin, None, ["TEST.DTYPE", "half"])


@pytest.mark.parametrize("kind", ["ctvis", "online", "encoder_only"])
def test_published_scores_are_of_the_whole_video(tmp_path: Path, videos: list[Video], kind: str) -> None:
    origin = new_model(tmp_path / "model.safetensors", kind)
    model, settings = load(origin, mmor())
    path = predict(model, replace(settings, task=WHOLE_VIDEO), videos[:1], tmp_path / "whole", "val", origin)
    frames = json.loads(path.read_text())["annotations"][0]["annotations"]
    assert len(frames) == len(videos[0].frames)
    numbers = {segment["instance_id"]: segment["category_id"] for f in frames for segment in f["segments_info"]}
    for frame in frames:  # one class per object over the whole video
        assert all(numbers[s["instance_id"]] == s["category_id"] for s in frame["segments_info"])


def test_nothing_found_is_an_empty_picture(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, replace(settings, score_threshold=1.0), videos, tmp_path / "out", "val", origin)
    with Image.open(
        predictions.picture_path(tmp_path / "out", videos[0].video_id, videos[0].pictures()[0].name)
    ) as image:
        assert not np.asarray(image)[..., :3].any()
    assert evaluate(videos, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS).classes.vpq == 0


@torch.inference_mode()
def test_a_running_mean_carries_scores_on(tmp_path: Path, videos: list[Video]) -> None:
    model, settings = load(new_model(tmp_path / "model.safetensors"), mmor())
    frames = 255 * torch.rand(3, 3, 32, 42, generator=torch.Generator().manual_seed(0))
    alone = list(segment_video(model, settings, [frames], 24))
    mean = list(segment_video(model, replace(settings, running_mean=True), [frames], 24))
    assert [s.score for s in alone[0].segments] == [s.score for s in mean[0].segments]
    assert [s.score for s in alone[2].segments] != [s.score for s in mean[2].segments]


def test_masks_for_scene_graphs_never_look_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_take(tmp_path / "data", 9)
    folder = tmp_path / "models"
    folder.mkdir()
    save_published(folder / "model_final.pth", build_model("ctvis", TINY.segmenter, TINY.video))
    save_config(replace(TINY, test=replace(TINY.test, task=WHOLE_VIDEO)), folder / "config.yaml")
    paths = list(export_masks(folder, None, Dataset(tmp_path / "data"), tmp_path / "out"))
    assert [path.name for path in paths] == ["pred_train.json"]
    settings = json.loads((tmp_path / "out" / "inference" / "model.json").read_text())["settings"]
    assert settings["task"] == "causal"
    assert "future" not in capsys.readouterr().err
    new_model(tmp_path / "offline.safetensors", "offline")
    list(export_masks(tmp_path / "offline.safetensors", None, Dataset(tmp_path / "data"), tmp_path / "out2"))
    shown = capsys.readouterr()
    assert "looks into the future" in shown.err
    assert "mask features of a whole video" in shown.out


def test_a_damaged_index_costs_no_other_take(tmp_path: Path) -> None:
    for name in ("001_PKA", "002_PKA"):
        write_take(tmp_path / "data", 4, mmor().find_take(name))
    index_place(tmp_path / "data" / "MM-OR_data", TAKE).write_text('{"a": ')
    dataset, told = Dataset(tmp_path / "data"), list[str]()
    with pytest.raises(UserError, match=r"001_PKA\.json"):
        find_videos(dataset, dataset.takes())  # for a training
    videos = find_videos(dataset, dataset.takes(), left_out=told)
    assert [video.video_id for video in videos] == ["002_PKA_1"]
    assert [line.split(":")[0] for line in told] == ["take 001_PKA is left out"]
    with pytest.raises(UserError, match="take 001_PKA is left out"):
        find_videos(dataset, [TAKE], left_out=[])
    path, found = new_model(tmp_path / "model.safetensors"), []
    with pytest.raises(UserError, match="take 001_PKA is left out"):
        found.extend(export_masks(path, None, dataset, tmp_path / "masks"))
    assert [file.name for file in found] == ["pred_val.json"]
    assert list(export_masks(path, None, dataset, tmp_path / "masks", share=Share(0, 2, together=False)))


def test_blends_show_the_masks(tmp_path: Path, videos: list[Video]) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos[:1], tmp_path / "out", "val", origin)
    write_blends(videos[:1], tmp_path / "out")
    picture = predictions.picture_path(tmp_path / "out", videos[0].video_id, videos[0].pictures()[0].name)
    blend = picture.parent / "blend" / f"{picture.stem}.jpg"
    with Image.open(blend) as image:
        assert image.size == CANVAS
    kept = blend.stat()
    write_blends(videos[:1], tmp_path / "out")
    assert (blend.stat().st_mtime_ns, blend.stat().st_ino) == (kept.st_mtime_ns, kept.st_ino)


def test_blends_follow_a_prediction_that_is_older(tmp_path: Path, videos: list[Video]) -> None:
    """Predictions of another machine, brought by `rsync -a`, were shown with the masks of those before."""
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos[:1], tmp_path / "out", "val", origin)
    write_blends(videos[:1], tmp_path / "out")
    picture = predictions.picture_path(tmp_path / "out", videos[0].video_id, videos[0].pictures()[0].name)
    blend = picture.parent / "blend" / f"{picture.stem}.jpg"
    before = blend.read_bytes()
    Image.new("RGBA", CANVAS, (255, 0, 0, 255)).save(picture)
    os.utime(picture, (1_000_000_000, 1_000_000_000))
    write_blends(videos[:1], tmp_path / "out")
    assert blend.read_bytes() != before


def test_pictures_are_looked_at_video_by_video(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes of all pictures of all takes were asked for before the first word: millions, on a network disk."""
    asked: list[int] = []
    sizes_of, done = predictions.sizes_of, []
    monkeypatch.setattr(predictions, "sizes_of", lambda pictures: asked.append(len(done)) or sizes_of(pictures))
    write_video = predictions.write_video
    monkeypatch.setattr(predictions, "write_video", lambda *of: done.append(of) or write_video(*of))
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos, tmp_path / "out", "val", origin)
    assert asked == list(range(len(videos)))


def test_an_odd_picture_costs_its_video_alone(
    tmp_path: Path, videos: list[Video], capsys: pytest.CaptureFixture[str]
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    Image.fromarray(np.zeros((5000, 1, 3), np.uint8)).save(videos[0].pictures()[0])
    with pytest.raises(UserError, match="1 of 3 videos are not in it"):
        predict(*load(origin, mmor()), videos, tmp_path / "out", "train", origin)
    first, second = (path.name for path in videos[0].pictures()[:2])
    assert f"{second}: has other proportions than the frames before it, from {first} on" in capsys.readouterr().err
