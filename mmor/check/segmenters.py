"""Self-test of the video models: inference and a training step, small or at the published size."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from computing.machine import autocast, seeded, wait_for
from mmor.check.measure import Outcome
from panoptic_segmentation.config.settings import Rates
from panoptic_segmentation.inference.video import causal_frames, offline_video
from panoptic_segmentation.model import matching
from panoptic_segmentation.model.encoder_only.segmenter import published_encoder_only
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.model.matching import Draws, LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OfflineDVIS, VideoConfig
from panoptic_segmentation.training.optimizer import parameter_groups
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model

SEED = 7
OBJECTS = 8  # in each clip of a training step


@dataclass(frozen=True)
class Size:
    """How large the models and their pictures are."""

    segmenter: SegmenterConfig
    video: VideoConfig
    height: int  # px
    width: int
    frames: int  # of a clip of inference
    clip: int  # frames of a CTVIS clip in training
    points: int  # of the losses
    encoder: SegmenterConfig  # the encoder-only one


# Frozen statistics, so that a training step on the CPU and on a GPU see the same.
SMALL = Size(
    replace(small_segmenter(24), norm="frozen"), SMALL_VIDEO, 64, 96, frames=4, clip=2, points=256,
    encoder=replace(small_segmenter(24), patch=8, grid=(8, 12)),
)  # fmt: skip
PUBLISHED = Size(
    SegmenterConfig(), VideoConfig(), 720, 960, frames=3, clip=10, points=LossSettings.points,
    encoder=published_encoder_only("small"),
)  # fmt: skip


def make_model(kind: str, size: Size, device: torch.device) -> VideoModel:
    """A model with random weights; small ones are drawn on the CPU, so that they are the same everywhere."""
    segmenter = size.encoder if kind == "encoder_only" else size.segmenter
    if size is SMALL:
        with seeded(SEED):
            return build_model(kind, segmenter, size.video).to(device)
    with seeded(SEED, device), device:
        return build_model(kind, segmenter, size.video)


def pictures(size: Size, frames: int, device: torch.device) -> Tensor:
    """Smooth random pictures, 0..255: noise of a 16th of the size, scaled up."""
    draw = torch.Generator().manual_seed(SEED)
    coarse = 255 * torch.rand(frames, 3, size.height // 16, size.width // 16, generator=draw)
    return torch.nn.functional.interpolate(coarse, (size.height, size.width), mode="bilinear").to(device)


def inference(model: VideoModel, size: Size, dtype: torch.dtype | None) -> Outcome:
    """Segment a clip; the numbers are class and mask logits, sorted over the queries, whose order is free."""
    device = next(model.parameters()).device
    model.eval()
    windows = [pictures(size, size.frames, device)]
    with torch.no_grad(), autocast(device, dtype):
        wait_for(device)
        start = time.perf_counter()
        if isinstance(model, OfflineDVIS):
            video = offline_video(model, windows)
            logits, masks = video.refined_logits[None], torch.stack(list(video.masks()))
        else:
            frames = list(causal_frames(model, windows))
            logits, masks = torch.stack([f.logits for f in frames]), torch.stack([f.masks for f in frames])
        wait_for(device)
        each = (time.perf_counter() - start) / size.frames
    return Outcome((logits.float().sort(1).values, masks.float().sort(1).values), f"{each * 1000:.0f} ms a frame", each)


def training_step(
    model: VideoModel,
    size: Size,
    dtype: torch.dtype | None,
    update: bool = False,
    matched: list[matching.Pairs] | None = None,
) -> Outcome:
    """Forward and backward pass on one clip; the numbers are the loss and the norm of the gradient.

    Args:
        update: step the optimiser, too, whose state counts in the memory.
        matched: see `matched_alike`; None: whatever is cheapest.
    """
    device = next(model.parameters()).device
    model.train()
    frames = pictures(size, size.clip, device)
    step = losses_of(model, frames, random_clip(size, device), size)
    optimizer = torch.optim.AdamW(parameter_groups(model, Rates())) if update else None
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=dtype == torch.float16)
    with autocast(device, dtype), matched_alike([] if matched is None else matched):
        loss = step()
    scaler.scale(loss).backward()
    factor = scaler.get_scale() if dtype == torch.float16 else 1.0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.stack([gradient.float().norm() for gradient in gradients]).norm() / factor
    if optimizer is not None:
        scaler.step(optimizer)
        scaler.update()
    return Outcome((loss.detach(), norm), f"loss {loss.item():.2f}")


@contextmanager
def matched_alike(matched: list[matching.Pairs]) -> Generator[None]:
    """Objects get the queries that `matched` says, one assignment after the other; then the cheapest, noted there.

    To a model with random weights all queries cost nearly the same. Rounding then decides which is the cheapest, and
    another one has another loss and gradient: what differs is no error of the machine.
    """
    usual, known = matching.cheapest, iter(tuple(matched))

    def chosen(costs: Float[np.ndarray, "rows columns"]) -> matching.Pairs:
        pairs = next(known, None)
        if pairs is None:
            pairs = usual(costs)
            matched.append(pairs)
        return pairs

    vars(matching)["cheapest"] = chosen
    try:
        yield
    finally:
        vars(matching)["cheapest"] = usual


def losses_of(model: VideoModel, frames: Tensor, clip: Clip, size: Size) -> Callable[[], Tensor]:
    """A training step's loss, guided or with all of masked attention, as at the start of a training."""
    scale = size.clip if isinstance(model, OfflineDVIS) else 1  # its clips are one picture each
    settings = LossSettings(points=size.points * scale)
    arguments = () if isinstance(model, CTVIS) else (0.0,) if isinstance(model, EncoderOnly) else (True,)

    def loss() -> Tensor:
        draws = Draws(torch.Generator().manual_seed(SEED))  # of the CPU: the same numbers on every device
        terms = model(frames[None], [clip], settings, [draws], *arguments)
        return torch.stack(list(terms.values())).sum()

    return loss


def random_clip(size: Size, device: torch.device) -> Clip:
    """Rectangles that stay where they are."""
    draw = torch.Generator().manual_seed(SEED)
    masks = torch.zeros(OBJECTS, size.clip, size.height, size.width, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, edge // 2, (), generator=draw)) for edge in (size.height, size.width))
        mask[:, top : top + size.height // 3, left : left + size.width // 3] = True
    classes = torch.arange(OBJECTS) + 1
    return Clip(classes.to(device), masks.to(device), torch.ones(OBJECTS, size.clip, dtype=torch.bool, device=device))
