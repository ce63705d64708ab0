"""The three video models on the frame segmenter, and how each is trained.

CTVIS trains the segmenter; the online model trains a tracker on the frozen segmenter; the offline model trains a
refiner on the frozen segmenter and tracker (stage-1 specification, sections 5.2, 6.3, 7). `forward` is a training step:
frames and annotations in, weighted loss terms out. Inference is in `panoptic_segmentation.inference.video`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from panoptic_segmentation.model.losses import Clip, Losses, set_losses
from panoptic_segmentation.model.matching import Draws, LossSettings, Match, Objects, match_clip, match_pictures
from panoptic_segmentation.model.refiner import Refiner, VideoPrediction
from panoptic_segmentation.model.reid import contrastive_losses
from panoptic_segmentation.model.segmenter import Segmenter, SegmenterConfig
from panoptic_segmentation.model.tracker import Tracker
from panoptic_segmentation.model.transformer_decoder import Prediction

Clips = Float[Tensor, "clips frames 3 height width"]  # RGB, 0..255; pad smaller clips with PIXEL_MEAN


def match_clips(
    prediction: Prediction,
    pictures: Sequence[Sequence[Objects]],
    present: Sequence[Bool[Tensor, "_ frames"]],
    settings: LossSettings,
    draws: Sequence[Draws],
) -> list[Match]:
    """`match_clip` for several clips, whose frames are the prediction's pictures one clip after the other.

    Args:
        pictures: the objects of each clip's frames.
        present: one per clip, as are `draws`.
    """
    length = len(pictures[0])
    parts = [Prediction(*part) for part in zip(prediction.logits.split(length), prediction.masks.split(length))]
    return [
        found
        for part, objects, here, draw in zip(parts, pictures, present, draws)
        for found in match_clip(part, objects, here, settings, draw)
    ]


@dataclass(frozen=True)
class VideoConfig:
    """The size of the tracker and of the refiner; the defaults are the published ones."""

    heads: int = 8
    hidden: int = 2048
    depth: int = 6


SMALL_VIDEO = VideoConfig(heads=4, hidden=256, depth=2)


class CTVIS(nn.Module):
    """The segmenter, trained on clips: set losses in each frame, contrastive losses across frames."""

    def __init__(self, segmenter: SegmenterConfig) -> None:
        super().__init__()
        self.segmenter = Segmenter(segmenter)

    def forward(self, frames: Clips, clips: Sequence[Clip], settings: LossSettings, draws: Sequence[Draws]) -> Losses:
        """Loss terms of a batch of clips, averaged over the clips' frames (contrastive ones: over the clips).

        Args:
            draws: one per clip.
        """
        length = frames.shape[1]
        per_picture = [draw for draw in draws for _ in range(length)]
        output = self.segmenter(frames.flatten(0, 1), auxiliary=True)
        last = Prediction(output.logits, output.masks)
        pictures = [picture for clip in clips for picture in clip.pictures(output.padded_size)]
        losses = set_losses(
            last,
            output.auxiliary,
            pictures,
            lambda layer: match_pictures(layer, pictures, settings, per_picture),
            settings,
            per_picture,
        )
        matches = match_pictures(last, pictures, settings, per_picture)  # with points of its own, as published
        terms = [
            contrastive_losses(reid, matches[i * length : (i + 1) * length], clip.present, settings, draw)
            for i, (reid, clip, draw) in enumerate(zip(output.reid.split(length), clips, draws))
        ]
        for name in ("loss_reid", "loss_aux_reid"):
            losses[name] = torch.stack([term[name] for term in terms]).mean()
        return losses


class OnlineDVIS(nn.Module):
    """A tracker on a frozen segmenter (DVIS++ online)."""

    def __init__(self, segmenter: SegmenterConfig, video: VideoConfig) -> None:
        super().__init__()
        self.segmenter = Segmenter(segmenter).requires_grad_(False)
        width = segmenter.width
        self.tracker = Tracker(segmenter.classes, 2 * width, width, video.heads, video.hidden, video.depth)
        self.train()

    def train(self, mode: bool = True) -> OnlineDVIS:
        """Switch the tracker only: the segmenter stays in evaluation mode."""
        super().train(mode)
        self.segmenter.eval()
        return self

    def forward(
        self, frames: Clips, clips: Sequence[Clip], settings: LossSettings, draws: Sequence[Draws], guided: bool
    ) -> Losses:
        """Loss terms of a batch of clips, frames as pictures.

        Args:
            draws: one per clip.
            guided: assign objects by the segmenter's prediction (first half of the training), else by each layer's.
        """
        last, auxiliary, pictures, matches = [], [], [], []
        length = frames.shape[1]
        for clip_frames, clip, draw in zip(frames, clips, draws):
            with torch.no_grad():
                seen = self.segmenter(clip_frames)
            tracked = self.tracker(seen.embeddings, seen.embeddings_raw, seen.mask_features, auxiliary=True, noise=draw)
            last.append(tracked.last)
            auxiliary.append(tracked.auxiliary)
            pictures.append(clip.pictures(seen.padded_size))
            if guided:
                rows = torch.arange(len(clip_frames), device=frames.device)[:, None]
                ordered = Prediction(seen.logits[rows, tracked.orders], seen.masks[rows, tracked.orders])
                matches += match_clip(ordered, pictures[-1], clip.present, settings, draw)

        def match(layer: Prediction) -> list[Match]:
            if guided:
                return matches
            return match_clips(layer, pictures, [clip.present for clip in clips], settings, draws)

        return set_losses(
            _join(last),
            [_join(layers) for layers in zip(*auxiliary)],
            [picture for clip in pictures for picture in clip],
            match,
            settings,
            [draw for draw in draws for _ in range(length)],
        )


class OfflineDVIS(nn.Module):
    """A refiner on a frozen segmenter and tracker (DVIS++ offline)."""

    def __init__(self, segmenter: SegmenterConfig, video: VideoConfig) -> None:
        super().__init__()
        online = OnlineDVIS(segmenter, video).requires_grad_(False)
        self.segmenter, self.tracker = online.segmenter, online.tracker
        width = segmenter.width
        self.refiner = Refiner(segmenter.classes, 2 * width, width, video.heads, video.hidden, video.depth)
        self.train()

    def train(self, mode: bool = True) -> OfflineDVIS:
        """Switch the refiner only: segmenter and tracker stay in evaluation mode."""
        super().train(mode)
        self.segmenter.eval()
        self.tracker.eval()
        return self

    def forward(
        self, frames: Clips, clips: Sequence[Clip], settings: LossSettings, draws: Sequence[Draws], guided: bool
    ) -> Losses:
        """Loss terms of a batch of clips, each clip as one picture of its frames on top of each other.

        Args:
            settings: `points` is the number for a clip: the published 12544 times the number of frames.
            draws: one per clip.
            guided: assign objects by the tracker's prediction (first half of the training), else by each layer's.
        """
        last, auxiliary, pictures, matches = [], [], [], []
        for clip_frames, clip, draw in zip(frames, clips, draws):
            with torch.no_grad():
                seen = self.segmenter(clip_frames)
                tracked = self.tracker(seen.embeddings, seen.embeddings_raw, seen.mask_features)
            refined = self.refiner(tracked.states, seen.embeddings_raw, auxiliary=True)
            last.append(_stack_frames(refined.last, seen.mask_features))
            auxiliary.append([_stack_frames(layer, seen.mask_features) for layer in refined.auxiliary])
            pictures.append(clip.stacked(seen.padded_size))
            if guided:
                masks = tracked.last.masks.transpose(0, 1).flatten(1, 2)
                guide = Prediction(tracked.last.logits.mean(0)[None], masks[None])
                matches += match_pictures(guide, pictures[-1:], settings, [draw])
        return set_losses(
            _join(last),
            [_join(layers) for layers in zip(*auxiliary)],
            pictures,
            lambda layer: matches if guided else match_pictures(layer, pictures, settings, draws),
            settings,
            draws,
        )


def _stack_frames(video: VideoPrediction, mask_features: Float[Tensor, "frames mask_width h w"]) -> Prediction:
    """A clip's prediction as that of one picture: its frames on top of each other."""
    masks = video.masks(mask_features).transpose(0, 1).flatten(1, 2)
    return Prediction(video.logits[None], masks[None])


def _join(predictions: Sequence[Prediction]) -> Prediction:
    """Predictions of several clips as one batch."""
    return Prediction(torch.cat([p.logits for p in predictions]), torch.cat([p.masks for p in predictions]))
