"""The encoder-only segmenter: transformers' EoMT and VidEoMT are its oracles; stream and clip, training, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from computing.machine import seeded
from panoptic_segmentation.inference.video import encoder_only_frames
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly, masking
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.model.matching import Draws, LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.weights.checkpoints import load_checkpoint
from tests.panoptic_segmentation.strange_weights import SIZES, ours, write_eomt, write_videomt


def windows(frames: int, height: int = 64, width: int = 64, at_once: int = 2) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return list((255 * torch.rand(frames, 3, height, width, generator=draw)).split(at_once))


def test_a_frame_is_as_transformers_sees_it(tmp_path: Path) -> None:
    theirs = write_eomt(tmp_path)
    model = ours()
    report = load_checkpoint(tmp_path / "model.safetensors", model, complete=False)
    assert report.missing == ["heads.query_updater.weight", "heads.query_updater.bias"]
    assert report.unexpected == report.reshaped == []
    frames = torch.cat(windows(2))
    with torch.no_grad():
        found = model.segmenter(frames, model.segmenter.first_queries(2))
        expected = theirs(model.segmenter.normalise(frames))
    torch.testing.assert_close(found.masks, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits, expected.class_queries_logits, atol=1e-4, rtol=1e-4)
    assert found.masks.shape == (2, SIZES["num_queries"], 16, 16)
    assert found.masks.std() > 0.01


def test_five_frames_are_as_transformers_sees_them_and_a_stream_is_as_a_clip(tmp_path: Path) -> None:
    theirs = write_videomt(tmp_path)
    model = ours()
    report = load_checkpoint(tmp_path / "model.safetensors", model)
    assert report.missing == report.unexpected == report.reshaped == []
    frames = torch.cat(windows(5))
    with torch.no_grad():
        expected = theirs(model.segmenter.normalise(frames)[None])
        queries = model.segmenter.first_queries(1)
        stream = []
        for frame in frames.split(1):
            seen = model.segmenter(frame, queries)
            queries = seen.queries
            stream.append(seen)
    for at_once in (1, 2, 5):
        found = list(encoder_only_frames(model, windows(5, at_once=at_once)))
        for name, wanted in (("masks", expected.masks_queries_logits), ("logits", expected.class_queries_logits)):
            for i, frame in enumerate(found):
                torch.testing.assert_close(getattr(frame, name), wanted[i], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(getattr(stream[i], name)[0], wanted[i], atol=1e-4, rtol=1e-4)
    alone = model.segmenter(frames[4:], model.segmenter.first_queries(1))
    assert not torch.allclose(alone.masks, stream[4].masks, atol=1e-2)  # the frames before are remembered


def test_cameras_of_one_second_do_not_see_each_other() -> None:
    model = ours(memory=True)
    frames = torch.cat(windows(3))
    with torch.no_grad():
        queries = torch.cat(
            [model.segmenter(frame[None], model.segmenter.first_queries(1)).queries for frame in frames]
        )
        together = model.segmenter(frames, queries)
        for i in range(3):
            alone = model.segmenter(frames[i : i + 1], queries[i : i + 1])
            torch.testing.assert_close(together.masks[i], alone.masks[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.queries[i], alone.queries[0], atol=1e-4, rtol=1e-4)


def test_any_size_is_padded_to_whole_patches() -> None:
    (frame,) = encoder_only_frames(ours(), windows(1, 40, 70))
    assert frame.masks.shape == (SIZES["num_queries"], 48 // 4, 80 // 4)
    assert (frame.sizes.padded, frame.sizes.image) == ((48, 80), (40, 70))


def test_masked_attention_falls_block_by_block() -> None:
    assert masking(4, 0.0) == [1, 1, 1, 1]
    assert masking(4, 1.5 / 6) == [pytest.approx(0.5**0.9), 1, 1, 1]
    assert masking(4, 4.5 / 6) == [0, 0, 0, pytest.approx(0.5**0.9)]
    assert masking(4, 1.0) == [0, 0, 0, 0]


def batch(frames: int) -> tuple[Tensor, list[Clip]]:
    masks = torch.zeros(2, frames, 64, 64, dtype=torch.bool)
    masks[0, :, :32, :32] = masks[1, :, 40:, 20:] = True
    clip = Clip(torch.tensor([0, 1]), masks, torch.ones(2, frames, dtype=torch.bool))
    colours = torch.full((1, frames, 3, 64, 64), 100.0)
    colours[:, :, 0] += 100 * masks[0]
    colours[:, :, 1] += 100 * masks[1]
    return colours.expand(2, -1, -1, -1, -1), [clip, clip]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("done", [0.0, 0.4, 1.0])
def test_every_parameter_learns(done: float, dtype: torch.dtype | None) -> None:
    model = ours(memory=True).train()
    frames, clips = batch(3)
    draws = [Draws(torch.Generator().manual_seed(i)) for i in range(2)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        losses = model(frames, clips, LossSettings(points=64), draws, done)
    assert len(losses) == 3 * (SIZES["num_blocks"] + 1)
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_clip_is_trained_on_alike_in_whatever_batch() -> None:
    model, frames = ours(memory=True), torch.cat(windows(4)).unflatten(0, (2, 2))

    def masks(which: list[int], done: float) -> Tensor:
        draws = [Draws(torch.Generator().manual_seed(i)) for i in which]
        return model.layers(frames[which], draws, done)[0][-1].masks

    torch.testing.assert_close(masks([0, 1], 0.4)[2:], masks([1], 0.4), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(masks([0], 0.4), masks([0], 0.0), atol=1e-3)  # queries see less, and some of them
    assert not torch.allclose(masks([0], 0.4), masks([0], 1.0), atol=1e-3)


def test_a_query_comes_to_keep_its_object_over_a_clip() -> None:
    """After some steps on one clip the query that has an object in the first frame has it in the last."""
    with seeded(0):
        model = EncoderOnly(
            SegmenterConfig(classes=2, queries=4, width=32, heads=2, patch=8, grid=(8, 8), encoder_layers=1,
                            decoder_layers=2, decoder_hidden=64, mask_stride=4)
        )  # fmt: skip
    frames, clips = batch(3)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    first, last = [], []
    for step in range(60):
        draws = [Draws(torch.Generator().manual_seed(step)) for _ in clips]
        loss = torch.stack(list(model(frames, clips, LossSettings(points=128), draws, step / 60).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        (first if step < 5 else last).append(loss.item())
    assert sum(last[-5:]) < 0.5 * sum(first)
    found = list(encoder_only_frames(model.eval(), [frames[0]]))
    winners = [frame.logits.softmax(-1)[:, :2].argmax(0).tolist() for frame in found]
    assert winners[0] == winners[1] == winners[2]
    assert len(set(winners[0])) == 2
