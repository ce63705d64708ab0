"""Masks second by second: the same as those of whole videos, in the memory of one frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from computing.machine import seeded
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.config.settings import InferenceSettings
from panoptic_segmentation.data.pictures import Picture, resize_for_test, resize_station
from panoptic_segmentation.inference.live import LiveSegmenter
from panoptic_segmentation.inference.predict import segment_video
from panoptic_segmentation.model.encoder_only.segmenter import EncoderOutput
from panoptic_segmentation.model.segmenter import SegmenterOutput, small_segmenter
from panoptic_segmentation.model.video_models import SMALL_VIDEO
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model

MMOR = mmor().collection("MMOR")
LABELS = mmor().labels
CATEGORIES = len(LABELS.categories)
# Nothing is certain to random weights.
SETTINGS = InferenceSettings(shortest=32, canvas=(64, 48), score_threshold=0.0, overlap_threshold=0.0, window=1)
CAMERAS = ("1", "4", "5", "simstation0")


def new_model(kind: str) -> VideoModel:
    with seeded(0):
        model = build_model(kind, small_segmenter(CATEGORIES), SMALL_VIDEO).eval()
    for name, parameter in model.named_parameters():
        if "class_embed" in name or "class_predictor" in name:
            parameter.data *= 30  # queries of many classes
    return model


def pictures(frames: int) -> dict[str, list[Picture]]:
    """Of four cameras, the last two with other shapes; a frame may be as the one before."""
    draw = np.random.default_rng(0)
    sizes = dict(zip(CAMERAS, [(48, 64), (48, 64), (48, 48), (40, 64)]))
    return {
        name: [np.kron(draw.integers(0, 256, (4, 4, 3)), np.ones((*(n // 4 for n in size), 1))).astype(np.uint8)] * 2
        + [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(frames - 2)]
        for name, size in sizes.items()
    }


def as_videos(model: VideoModel, settings: InferenceSettings, frames: dict[str, list[Picture]]) -> dict[str, Any]:
    """The labels of each camera's frames, video by video."""
    found = {}
    for name, seen in frames.items():
        station = name.startswith("simstation")
        sized = [
            resize_for_test(resize_station(one, settings.canvas) if station else one, settings.shortest) for one in seen
        ]
        windows = [torch.tensor(one).permute(2, 0, 1)[None].float() for one in sized]
        with torch.inference_mode():
            found[name] = [r.categories(CATEGORIES)[0] for r in segment_video(model, settings, windows, CATEGORIES)]
    return found


@pytest.mark.parametrize("running_mean", [False, True])
@pytest.mark.parametrize("kind", ["ctvis", "online", "encoder_only"])
def test_second_by_second_is_as_video_by_video(kind: str, running_mean: bool) -> None:
    settings = replace(SETTINGS, at_canvas=True, running_mean=running_mean)
    model, frames = new_model(kind), pictures(4)
    expected = as_videos(model, settings, frames)
    segmenter = LiveSegmenter(model, settings, MMOR, LABELS)
    seen = set()
    for second in range(4):
        found = segmenter.step({name: frames[name][second] for name in CAMERAS})
        assert list(found) == list(CAMERAS)
        for name, labels in found.items():
            assert labels.shape == (48, 64)
            same = labels == LABELS.labels[expected[name][second].numpy()]
            assert same.mean() > 0.995  # a batch rounds otherwise than a single picture
            seen.add(labels.tobytes())
    assert len(seen) > 8  # there was something to compare


@pytest.mark.parametrize("kind", ["online", "encoder_only"])
def test_a_camera_that_was_away_goes_on_where_it_was(kind: str) -> None:
    model, frames = new_model(kind), pictures(4)
    whole, parts = (LiveSegmenter(model, SETTINGS, MMOR, LABELS) for _ in range(2))
    for second in range(4):
        alone = whole.step({"4": frames["4"][second]})["4"]
        others = {name: frames[name][second] for name in CAMERAS if second != 2 or name == "4"}
        assert (parts.step(others)["4"] == alone).mean() > 0.995
    assert whole.step({}) == {}


def test_a_camera_may_change_its_size() -> None:
    segmenter, frames = LiveSegmenter(new_model("ctvis"), SETTINGS, MMOR, LABELS), pictures(2)
    for name in ("4", "5", "4"):
        assert segmenter.step({"4": frames[name][0]})["4"].shape == (48, 64)


def test_the_offline_model_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"OfflineDVIS looks at whole videos .* choose a CTVIS, online or encoder"):
        LiveSegmenter(new_model("offline"), SETTINGS, MMOR, LABELS)


def cramp(patch: pytest.MonkeyPatch, model: VideoModel, room: int) -> VideoModel:
    """The model on a GPU that has room for so many pictures."""
    usual = model.segmenter.forward

    def forward(frames: Tensor, *queries: Tensor) -> SegmenterOutput | EncoderOutput:
        if len(frames) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(frames, *queries)  # ty: ignore[invalid-argument-type]

    patch.setattr(model.segmenter, "forward", forward)
    return model


@pytest.mark.parametrize("kind", ["ctvis", "encoder_only"])
def test_a_small_gpu_takes_fewer_cameras_at_once_and_says_so_once(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    frames, told = pictures(3), []
    usual = LiveSegmenter(new_model(kind), SETTINGS, MMOR, LABELS)
    cramped = LiveSegmenter(cramp(monkeypatch, new_model(kind), 1), SETTINGS, MMOR, LABELS, told.append)
    for second in range(3):
        now = {name: frames[name][second] for name in CAMERAS}
        for name, labels in cramped.step(now).items():
            assert (labels == usual.step({name: now[name]})[name]).all()
    (line,) = told
    assert "too little memory for 3 cameras at once" in line


def test_no_room_for_one_picture_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cramp(monkeypatch, new_model("ctvis"), 0)
    with pytest.raises(UserError, match=r"one picture; choose a smaller INPUT.MIN_SIZE_TEST"):
        LiveSegmenter(model, SETTINGS, MMOR, LABELS).step({"1": pictures(2)["1"][0]})


@pytest.mark.parametrize("kind", ["ctvis", "online", "encoder_only"])
def test_numbers_have_the_format_of_the_settings(kind: str) -> None:
    settings, frames = replace(SETTINGS, dtype="bfloat16"), pictures(2)
    model = new_model(kind)
    seen: list[torch.dtype] = []
    model.segmenter.register_forward_hook(lambda module, given, output: seen.append(output.masks.dtype))
    LiveSegmenter(model, settings, MMOR, LABELS).step({"4": frames["4"][0]})
    assert set(seen) == {torch.bfloat16}
    with pytest.raises(UserError, match="float16 needs a GPU"):
        LiveSegmenter(model, replace(SETTINGS, dtype="float16"), MMOR, LABELS)


def test_a_gpu_that_others_fill_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("ctvis")

    def full(*_: Any) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other call.")

    monkeypatch.setattr(model.segmenter, "forward", full)
    with pytest.raises(UserError, match="too little memory to segment one picture"):
        LiveSegmenter(model, SETTINGS, MMOR, LABELS).step({"4": pictures(2)["4"][0]})
