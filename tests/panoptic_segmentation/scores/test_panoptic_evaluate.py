"""Predictions on disk against the ground truth."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_ids
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.data.ground_truth import prepare
from panoptic_segmentation.data.videos import Video, find_videos, first_frames
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.predict import export_masks, load, predict
from panoptic_segmentation.scores import overlap_cache
from panoptic_segmentation.scores.evaluate import (
    evaluate,
    of_predicted_takes,
    predict_and_evaluate,
    predicted_size,
    scored_size,
)
from panoptic_segmentation.scores.overlap import read_overlaps
from tests.operating_room.published import index_place
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take
from tests.panoptic_segmentation.inference.test_predict import CANVAS, TRUTH, new_model
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


@pytest.mark.parametrize("canvas", [[[], 48], [48], "48x48", None, [0, 48], [1.5, 48], [True, 48]])
def test_a_damaged_size_is_named(tmp_path: Path, canvas: object) -> None:
    path = predictions.origin_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": {"canvas": canvas}}))
    with pytest.raises(UserError, match=r"model\.json: .*canvas|CANVAS"):
        predicted_size(tmp_path)


def test_predictions_are_scored_at_their_own_size(
    tmp_path: Path, videos: list[Video], capsys: pytest.CaptureFixture[str]
) -> None:
    assert scored_size(tmp_path / "foreign", (64, 48)) == (64, 48)
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos[:1], tmp_path / "out", "train", origin)
    assert scored_size(tmp_path / "out", None) == scored_size(tmp_path / "out", CANVAS) == CANVAS
    assert capsys.readouterr().err == ""
    assert scored_size(tmp_path / "out", (64, 48)) == CANVAS
    assert "--canvas 64x48: the predictions in" in capsys.readouterr().err


def test_predictions_of_another_program_need_their_size(tmp_path: Path) -> None:
    """Their folder has no model.json, and `predict`, which was said to make it, refuses to write there."""
    predictions.write_split(tmp_path, "val", [])
    with pytest.raises(UserError, match=r"model\.json: .* another program; give --canvas"):
        scored_size(tmp_path, None)


def test_damaged_overlaps_are_made_again(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez_compressed(tmp_path / "flipped.npz", key=np.array("k" * 5000))
    flipped = bytearray((tmp_path / "flipped.npz").read_bytes())
    at = flipped.index(b"key.npy") + 40
    flipped[at : at + 20] = b"\xff" * 20
    for data in ((tmp_path / "array.npy").read_bytes(), bytes(flipped), b"", b"PK", bytes(flipped[:60])):
        (tmp_path / "v.npz").write_bytes(data)
        assert overlap_cache._load(tmp_path / "v.npz", "v", "k") is None


def test_takes_can_be_predicted_one_after_the_other(
    tmp_path: Path, videos: list[Video], capsys: pytest.CaptureFixture[str]
) -> None:
    write_take(tmp_path / "data", 5, mmor().find_take("002_PKA"))
    dataset = Dataset(tmp_path / "data")
    both = find_videos(dataset, dataset.choose(None), length=6)
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, videos, tmp_path / "out", "train", origin)
    found = of_predicted_takes(both, tmp_path / "out", "train")
    assert found == videos
    assert "no prediction of them: 002_PKA" in capsys.readouterr().err
    others = [video for video in both if video not in videos]
    predict(model, settings, others, tmp_path / "out", "train", origin)
    assert of_predicted_takes(both, tmp_path / "out", "train") == both
    together = evaluate(both, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    predict(model, settings, both, tmp_path / "whole", "train", origin)
    assert evaluate(both, tmp_path / "whole", "train", tmp_path / "prepared", TRUTH, CANVAS) == together
    predict(model, settings, others, tmp_path / "out", "val", origin)
    with pytest.raises(UserError, match="no annotated take"):
        of_predicted_takes(videos, tmp_path / "out", "val")


def test_a_first_try_of_a_few_frames(tmp_path: Path, videos: list[Video]) -> None:
    few = first_frames(videos, 7)  # the parts have 6, 6 and 1 frames and share 3
    assert [(video.part, len(video.frames)) for video in few] == [(0, 6), (1, 4)]
    assert first_frames(videos, 6) == videos[:1]
    assert first_frames(videos, None) == first_frames(videos, 100) == videos
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, few, tmp_path / "out", "train", origin)
    evaluate(few, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    whole = predict(model, settings, videos, tmp_path / "out", "train", origin).read_bytes()
    kept = predictions.picture_path(tmp_path / "out", videos[0].video_id, videos[0].pictures()[0].name)
    time = kept.stat().st_mtime_ns
    assert predict(model, settings, few, tmp_path / "out", "train", origin).read_bytes() == whole
    assert kept.stat().st_mtime_ns == time
    evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)


def test_small_pictures_can_be_scored(tmp_path: Path, videos: list[Video]) -> None:
    """Segments that the network sees and a smaller picture does not."""
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    small = replace(settings, canvas=(4, 3), at_canvas=False)
    predict(model, small, videos, tmp_path / "out", "train", origin)
    evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, (4, 3))


def test_all_frames_can_be_predicted_and_evaluated(tmp_path: Path, videos: list[Video]) -> None:
    everything = find_videos(Dataset(tmp_path / "data"), [TAKE], length=6, annotated=False)
    assert sum(len(video.frames) for video in everything) > sum(len(video.frames) for video in videos)
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), everything, tmp_path / "out", "train", origin)
    found = evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    # One true part lies in two predicted ones, whose numbers have nothing to do with each other.
    assert found.instances is not None
    parts = ["part0 from frame 0", "part0 from frame 5", "part1", "part2"]
    assert [*found.instances.windows[4].per_video] == [f"001_PKA_1_{part}" for part in parts]
    predict(*load(origin, mmor()), everything[:1], tmp_path / "one", "train", origin)
    with pytest.raises(UserError, match="frames without prediction"):
        evaluate(videos, tmp_path / "one", "train", tmp_path / "prepared", TRUTH, CANVAS)


def test_the_truth_as_prediction_scores_100(tmp_path: Path, videos: list[Video]) -> None:
    prepare(videos, tmp_path / "prepared", TRUTH, CANVAS)
    done = []
    for video in videos:
        frames = []
        for picture, path in zip(video.pictures(), video.prepared(tmp_path / "prepared")):
            ids = (read_ids(path) // 10).astype(np.int32)
            labels = [(int(c), int(c)) for c in np.unique(ids) if c]
            frames.append(
                predictions.write_frame(
                    tmp_path / "out", video.video_id, picture.name, ids, labels, CANVAS, mmor().labels
                )
            )
        done.append(predictions.write_video(tmp_path / "out", video.video_id, frames))
    predictions.write_split(tmp_path / "out", "train", done)
    found = evaluate(videos[:1], tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    assert found.classes.windows[4].average["pq"] == pytest.approx(1)
    assert found.instances is None  # files of other programs have no instance numbers


def test_a_frame_that_comes_twice_must_say_the_same(tmp_path: Path, videos: list[Video]) -> None:
    """In a file that somebody has put together; the first one was taken."""
    one = {"bbox": [0, 0, 1, 1], "area": 4, "category_id": 1, "iscrowd": 0, "id": 1}
    frames = [{"segments_info": [one], "file_name": picture.name} for picture in videos[0].pictures()]
    video = {"video_id": videos[0].video_id, "annotations": frames}
    other = {**video, "annotations": [{**frames[2], "segments_info": []}]}
    predictions.split_path(tmp_path, "train").parent.mkdir(parents=True)
    predictions.split_path(tmp_path, "train").write_text(json.dumps({"annotations": [video, other]}))
    with pytest.raises(UserError, match=rf"pred_train\.json: video .* has frame {frames[2]['file_name']} twice"):
        evaluate(videos[:1], tmp_path, "train", tmp_path / "prepared", TRUTH, CANVAS)


def test_a_video_that_is_not_wholly_predicted_costs_no_other(tmp_path: Path, videos: list[Video]) -> None:
    """Nor the work of preparing ground truth that is not scored."""
    origin, scored = new_model(tmp_path / "model.safetensors"), (tmp_path / "out", "val", tmp_path / "prepared")
    predict(*load(origin, mmor()), first_frames(videos, 2), tmp_path / "out", "val", origin)
    with pytest.raises(UserError, match=r"no video wholly.*--limit.*video 001_PKA_1_part0 .* 4 of 6 frames"):
        evaluate(videos, *scored, TRUTH, CANVAS)
    assert not (tmp_path / "prepared").exists()
    videos[0].pictures()[0].write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match="1 of 3 videos are not in it"):
        predict(*load(origin, mmor()), videos, tmp_path / "new", "val", origin)
    found = evaluate(videos, tmp_path / "new", "val", tmp_path / "prepared", TRUTH, CANVAS)
    assert list(found.classes.windows[4].per_video) == [video.video_id for video in videos[1:]]
    (told,) = found.left_out
    assert "001_PKA_1_part0 is not scored: 3 of 6 frames without prediction, first camera01_colorimage-000100" in told
    written = json.loads((tmp_path / "new" / "inference" / "vpq_val.json").read_text())
    assert (written["videos"], written["left_out"]) == (2, [told])


def test_a_damaged_picture_costs_no_other_split(tmp_path: Path) -> None:
    """Whether masks are exported for stage 2, or a model is evaluated."""
    for name in ("001_PKA", "002_PKA"):
        write_take(tmp_path / "data", 4, mmor().find_take(name))
    (video,) = find_videos(Dataset(tmp_path / "data"), [mmor().find_take("001_PKA")])
    video.pictures()[1].write_bytes(b"no picture")
    path, found, scored = new_model(tmp_path / "model.safetensors"), [], []
    with pytest.raises(UserError, match=r"pred_train\.json: 1 of 1 videos"):
        found.extend(export_masks(path, None, Dataset(tmp_path / "data"), tmp_path / "masks"))
    assert [file.name for file in found] == ["pred_val.json"]
    test = ("mmor_panoptic_train", "mmor_panoptic_val")
    config = replace(TINY, weights=str(path), test_data=test)
    with pytest.raises(UserError, match=r"pred_train\.json: 1 of 1 videos"):
        scored.extend(predict_and_evaluate(config, Dataset(tmp_path / "data"), tmp_path / "out", tmp_path / "prepared"))
    assert len(scored) == 1
    assert (tmp_path / "out" / "inference" / "vpq_val.json").exists()


def test_a_damaged_mask_costs_no_other_split(tmp_path: Path) -> None:
    """The others were neither predicted nor scored."""
    for name in ("001_PKA", "002_PKA"):
        write_take(tmp_path / "data", 4, mmor().find_take(name))
    dataset, path = Dataset(tmp_path / "data"), new_model(tmp_path / "model.safetensors")
    (video,) = find_videos(dataset, [mmor().find_take("001_PKA")])
    video.masks()[1].write_bytes(b"no picture")
    config = replace(TINY, weights=str(path), test_data=("mmor_panoptic_train", "mmor_panoptic_val"))
    scored = []
    with pytest.raises(UserError, match=r"train: is predicted and not scored: .*masks cannot be used"):
        scored.extend(predict_and_evaluate(config, dataset, tmp_path / "out", tmp_path / "prepared"))
    assert len(scored) == 1
    assert (tmp_path / "out" / "inference" / "vpq_val.json").exists()


def test_a_split_that_is_not_there_costs_no_other(tmp_path: Path) -> None:
    """Nor does one whose takes cannot be looked into."""
    dataset, path = write_take(tmp_path / "data", 4), new_model(tmp_path / "model.safetensors")
    test = ("mmor_panoptic_val", "hybridor_panoptic_train")
    config, folders = replace(TINY, weights=str(path), test_data=test), (tmp_path / "out", tmp_path / "prepared")
    scored = []
    with pytest.raises(UserError, match=r"data: has no annotated frame of the split val; .*DATASETS\.TEST"):
        scored.extend(predict_and_evaluate(config, dataset, *folders))
    assert len(scored) == 1
    assert (tmp_path / "out" / "inference" / "vpq_train.json").exists()
    write_take(tmp_path / "data", 4, mmor().find_take("002_PKA"))
    index_place(tmp_path / "data" / "MM-OR_data", TAKE).write_text("[")
    with pytest.raises(UserError, match=r"^train: is not predicted: .*001_PKA\.json"):
        scored.extend(predict_and_evaluate(config, Dataset(tmp_path / "data"), *folders))
    assert len(scored) == 2
    assert (tmp_path / "out" / "inference" / "vpq_val.json").exists()


def test_an_interrupted_evaluation_goes_on(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos, tmp_path / "out", "val", origin)
    arguments = (videos, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)
    first = evaluate(*arguments)
    read: list[str] = []

    def counting(truth: dict[str, Any], *rest: Any) -> Any:
        read.extend(video["video_id"] for video in truth["annotations"])
        return read_overlaps(truth, *rest)

    monkeypatch.setattr(overlap_cache, "read_overlaps", counting)
    assert evaluate(*arguments) == first
    assert read == []
    (tmp_path / "out" / "inference" / "overlaps" / "classes" / f"{videos[1].video_id}.npz").write_bytes(b"half")
    predictions.instance_path(tmp_path / "out", videos[2].video_id, videos[2].pictures()[0].name).touch()
    assert evaluate(*arguments) == first
    assert read == [videos[1].video_id, videos[2].video_id]


def test_published_files_alone_are_scored_without_instances(
    tmp_path: Path, videos: list[Video], capsys: pytest.CaptureFixture[str]
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    predict(*load(origin, mmor()), videos, tmp_path / "out", "train", origin)
    whole = evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    shutil.rmtree(tmp_path / "out" / "inference" / "pan_instances")
    copied = evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS)
    assert (copied.instances, copied.classes) == (None, whole.classes)
    assert "not scored by instance" in capsys.readouterr().err
    path = predictions.split_path(tmp_path / "out", "train")
    content = json.loads(path.read_text())
    segments = [s for v in content["annotations"] for f in v["annotations"] for s in f["segments_info"]]
    del segments[0]["instance_id"]
    path.write_text(json.dumps(content))
    assert evaluate(videos, tmp_path / "out", "train", tmp_path / "prepared", TRUTH, CANVAS).instances is None
    assert "some records have no instance_id" in capsys.readouterr().err


def of_two_takes(folder: Path) -> list[Video]:
    """Videos of two takes with the truth as their prediction in `out`, prepared in `prepared`."""
    for name in ("001_PKA", "002_PKA"):
        write_take(folder / "data", 4, mmor().find_take(name))
    dataset = Dataset(folder / "data")
    videos, done = find_videos(dataset, dataset.takes()), []
    prepare(videos, folder / "prepared", TRUTH, CANVAS)
    for video in videos:
        frames: list[dict[str, Any]] = []
        for picture, path in zip(video.pictures(), video.prepared(folder / "prepared")):
            ids = (read_ids(path) // 10).astype(np.int32)
            labels = [(int(c), int(c)) for c in np.unique(ids) if c]
            where = folder / "out", video.video_id, picture.name
            frames.append(predictions.write_frame(*where, ids, labels, CANVAS, mmor().labels))
        done.append(predictions.write_video(folder / "out", video.video_id, frames))
    predictions.write_split(folder / "out", "val", done)
    return videos


def test_a_damaged_mask_costs_no_other_video(tmp_path: Path) -> None:
    """One mask of a split of 30 takes cost the scores of all."""
    videos = of_two_takes(tmp_path)
    videos[0].masks()[1].write_bytes(b"no picture")
    found = evaluate(videos, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)
    assert list(found.classes.windows[4].per_video) == [video.video_id for video in videos[1:]]
    (told,) = found.left_out
    assert f"video {videos[0].video_id} is not scored: {videos[0].masks()[1]}" in told


def test_scores_of_other_takes_are_not_replaced_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = of_two_takes(tmp_path)
    for chosen in (videos, videos, videos[:1]):
        assert "are replaced" not in capsys.readouterr().err
        evaluate(chosen, tmp_path / "out", "val", tmp_path / "prepared", TRUTH, CANVAS)
    assert (
        "vpq_val.json: the scores that stood in it, with those of 002_PKA_MMOR, are replaced" in capsys.readouterr().err
    )
