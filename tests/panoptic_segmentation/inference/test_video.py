"""Inference on videos: windows, identities, the offline model's scores and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from computing.machine import autocast
from panoptic_segmentation.inference.panoptic import Sizes
from panoptic_segmentation.inference.video import (
    FramePrediction,
    OfflineVideo,
    beside_device,
    causal_frames,
    ctvis_frames,
    kept_bytes,
    mean_logits,
    offline_video,
    online_frames,
    refined_probabilities,
    waiting,
)
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.refiner import VideoPrediction
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OfflineDVIS, OnlineDVIS


def _frames(count: int) -> Tensor:
    return 255 * torch.rand(count, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def _same(a: list[FramePrediction], b: list[FramePrediction]) -> None:
    for mine, other in zip(a, b, strict=True):
        torch.testing.assert_close(mine.logits, other.logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(mine.masks, other.masks, rtol=1e-3, atol=1e-3)


def test_windows_do_not_change_ctvis_also_beyond_fifty_frames() -> None:
    torch.manual_seed(0)
    model, frames = CTVIS(small_segmenter(4)).eval(), _frames(52)
    _same(list(ctvis_frames(model, frames.split(50))), list(ctvis_frames(model, frames.split(7))))


def test_windows_do_not_change_the_online_model() -> None:
    torch.manual_seed(0)
    model, frames = OnlineDVIS(small_segmenter(4), SMALL_VIDEO).eval(), _frames(5)
    _same(list(online_frames(model, [frames])), list(online_frames(model, frames.split(2))))


def test_causal_models_do_not_look_ahead() -> None:
    torch.manual_seed(0)
    frames = _frames(4)
    ctvis, online = CTVIS(small_segmenter(4)).eval(), OnlineDVIS(small_segmenter(4), SMALL_VIDEO).eval()
    _same(list(ctvis_frames(ctvis, frames.split(1)))[:2], list(ctvis_frames(ctvis, frames[:2].split(1))))
    _same(list(online_frames(online, frames.split(1)))[:2], list(online_frames(online, frames[:2].split(1))))


def test_a_repeated_frame_keeps_its_queries() -> None:
    torch.manual_seed(0)
    model, frame = CTVIS(small_segmenter(4)).eval(), _frames(1)
    first, second = ctvis_frames(model, [frame, frame])
    torch.testing.assert_close(first.masks, second.masks)
    torch.testing.assert_close(mean_logits([first, second]), first.logits)
    assert first.sizes.output == (32, 48)


def test_offline_windows_and_masks() -> None:
    torch.manual_seed(0)
    model, frames = OfflineDVIS(small_segmenter(4), SMALL_VIDEO).eval(), _frames(5)
    whole, parts = offline_video(model, [frames]), offline_video(model, frames.split(2))
    torch.testing.assert_close(whole.refined_logits, parts.refined_logits, rtol=1e-3, atol=1e-4)
    masks = torch.stack(list(parts.masks()))
    assert masks.shape == (5, 30, 16, 32)
    torch.testing.assert_close(torch.stack(list(whole.masks())), masks, rtol=1e-3, atol=1e-3)


def test_no_object_is_left_to_the_refiner() -> None:
    refined, tracked = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 9.0]])
    found = refined_probabilities(refined, tracked)
    torch.testing.assert_close(found, refined.softmax(-1))
    swapped = refined_probabilities(tracked, refined)
    assert swapped[0, 2] == tracked.softmax(-1)[0, 2]
    assert swapped[0, 0] == refined.softmax(-1)[0, 0]


def test_memory_that_waits_for_the_end_of_a_video_is_foretold() -> None:
    with torch.device("meta"):
        published = OfflineDVIS(SegmenterConfig(), SMALL_VIDEO), CTVIS(SegmenterConfig())
    assert [kept_bytes(model, 200, 720, 960) for model in published] == [200 * n * 184 * 240 * 4 for n in (256, 100)]
    small = replace(small_segmenter(4), patch=8)
    offline, models, frames = (
        OfflineDVIS(small, SMALL_VIDEO).eval(),
        (CTVIS(small), EncoderOnly(small)),
        _frames(3)[:, :, :24],
    )
    for products in (None, torch.bfloat16):
        with autocast(frames.device, products):
            video = offline_video(offline, [frames])
            assert sum(x.nbytes for x in video.mask_features) == kept_bytes(offline, 3, 24, 48, products)
            for model in models:
                masks = [frame.masks for frame in causal_frames(model.eval(), [frames])]
                assert sum(mask.nbytes for mask in masks) == kept_bytes(model, 3, 24, 48, products), type(model)


def test_the_offline_model_s_masks_are_made_on_its_own_device() -> None:
    """Mask features wait in main memory; the meta device stands for a GPU: whatever mixes it with the CPU raises."""
    waiting = torch.randn(2, 8, 4, 4)
    logits = torch.zeros(4, 6, device="meta")
    prediction = VideoPrediction(logits, torch.zeros(2, 4, 8, device="meta"))
    video = OfflineVideo(logits, logits, prediction, [waiting], Sizes((16, 16), (16, 16), (16, 16)))
    assert [(mask.device.type, mask.shape) for mask in video.masks()] == [("meta", (4, 4, 4))] * 2


def test_what_waits_stays_on_a_device_that_has_room() -> None:
    """The meta device stands for a GPU; it has no numbers that could be brought to main memory."""
    there = torch.zeros(3, device="meta")
    assert waiting(there, room=0) is there
    with pytest.raises(NotImplementedError, match="meta"):
        waiting(there, room=10**18)
    here = torch.zeros(3)
    assert waiting(here, room=10**18) is here


def test_main_memory_must_have_what_the_device_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU that has 12 GB free, of which 8 stay so."""
    monkeypatch.setattr("panoptic_segmentation.inference.video.free_memory", lambda _: 12 * 10**9)
    gpu = torch.device("meta")
    assert [beside_device(kept * 10**9, gpu, room=8 * 10**9) for kept in (3, 4, 10)] == [0, 0, 6 * 10**9]
    assert beside_device(10**9, gpu, room=13 * 10**9) == 10**9
    assert beside_device(10**9, torch.device("cpu")) == 10**9
