"""Predicting where there is little memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.config.config_keys import CAUSAL, WHOLE_VIDEO
from panoptic_segmentation.data.videos import Video
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.predict import load, predict
from tests.panoptic_segmentation.inference.test_predict import new_model


@pytest.mark.parametrize("full", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.2 GiB"), None])
def test_a_gpu_whose_memory_is_full_is_one_line(
    tmp_path: Path, videos: list[Video], full: torch.OutOfMemoryError | None
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    predict(model, settings, videos[:1], tmp_path / "out", "val", origin)

    def fills(*_: object) -> None:
        raise full or RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")

    model.segmenter.register_forward_pre_hook(fills)
    with pytest.raises(UserError, match=r"to segment video 001_PKA_1_part1 \(CUDA.*WINDOW_SIZE") as told:
        predict(model, settings, videos, tmp_path / "out", "val", origin)
    assert "\n" not in str(told.value)
    assert predictions.video_path(tmp_path / "out", videos[0].video_id).exists()


def test_the_memory_of_the_offline_model_is_that_of_the_pictures(
    tmp_path: Path, videos: list[Video], capsys: pytest.CaptureFixture[str]
) -> None:
    origin, (video, *_) = new_model(tmp_path / "model.safetensors", "offline"), videos
    model, settings = load(origin, mmor())
    told = []
    for folder, size in (("narrow", (320, 240)), ("wide", (320, 180))):
        for path in video.pictures():  # cut off: their size is known, and nothing is computed
            Image.new("RGB", size).save(path)
            path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError, match="1 of 1 videos are not in it"):
            predict(model, replace(settings, shortest=720, longest=1333), [video], tmp_path / folder, "val", origin)
        told += [line for line in capsys.readouterr().out.splitlines() if "GB" in line]
    assert [line.split(": ")[1] for line in told] == ["0.1 GB for 6 frames", "0.2 GB for 6 frames"]


def test_the_offline_model_asks_for_the_memory_of_all_processes_of_the_machine(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = new_model(tmp_path / "model.safetensors", "offline")
    asked: list[int] = []
    monkeypatch.setattr("panoptic_segmentation.inference.predict.require_memory", lambda n, *_, **__: asked.append(n))
    predict(*load(origin, mmor()), videos, tmp_path / "alone", "train", origin)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    predict(*load(origin, mmor()), videos, tmp_path / "four", "train", origin)
    assert asked[1] == 4 * asked[0] > 0


def test_the_published_task_asks_for_the_memory_of_a_whole_video(
    tmp_path: Path, videos: list[Video], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = new_model(tmp_path / "model.safetensors")
    model, settings = load(origin, mmor())
    monkeypatch.setattr("computing.machine.free_memory", lambda *_: 100)
    with pytest.raises(UserError, match=r"keeps the masks of a whole video, .* 0.0 GB free; give .* causal"):
        predict(model, replace(settings, task=WHOLE_VIDEO), videos, tmp_path / "whole", "train", origin)
    assert not (tmp_path / "whole").exists()
    predict(model, replace(settings, task=CAUSAL), videos, tmp_path / "causal", "train", origin)
    assert "whole video" not in capsys.readouterr().out
    monkeypatch.setattr("panoptic_segmentation.inference.predict.beside_device", lambda *_: 0)  # a GPU has room for all
    predict(model, replace(settings, task=WHOLE_VIDEO), videos, tmp_path / "whole", "train", origin)
    assert "TASK vps keeps the masks of a whole video: 0.0 GB for" in capsys.readouterr().out
