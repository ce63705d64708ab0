"""The encoder-only segmenter as a video model, and how it is trained.

As the other video models: `forward` is a training step, inference is in `panoptic_segmentation.inference.video`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from panoptic_segmentation.model.encoder_only.segmenter import EncoderSegmenter
from panoptic_segmentation.model.losses import Clip, Losses, set_losses
from panoptic_segmentation.model.matching import Draws, LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.model.transformer_decoder import Prediction
from panoptic_segmentation.model.video_models import match_clips

_POWER = 0.9  # of the fall of masked attention


def masking(blocks: int, done: float) -> list[float]:
    """How probably a query sees only its own mask, for each block that holds queries: 1 falling to 0, one by one.

    The published steps for four blocks, as shares of the training: the first falls from 1/6 to 2/6, the last from 4/6
    to 5/6.

    Args:
        done: share of the training that is over, 0..1.
    """
    falls = (min(max(done * (blocks + 2) - 1 - block, 0.0), 1.0) for block in range(blocks))
    return [(1 - fall) ** _POWER for fall in falls]


class EncoderOnly(nn.Module):
    """One query keeps one object over a clip: who it is shows in the number."""

    def __init__(self, segmenter: SegmenterConfig) -> None:
        super().__init__()
        self.segmenter = EncoderSegmenter(segmenter)

    def forward(
        self,
        frames: Float[Tensor, "clips frames 3 height width"],
        clips: Sequence[Clip],
        settings: LossSettings,
        draws: Sequence[Draws],
        done: float,
    ) -> Losses:
        """Loss terms of a batch of clips, frames as pictures; objects are assigned once for a clip, anew per layer.

        Args:
            draws: one per clip.
            done: share of the training that is over, see `masking`.
        """
        layers, following, padded_size = self.layers(frames, draws, done)
        pictures = [clip.pictures(padded_size) for clip in clips]
        losses = set_losses(
            layers[-1],
            layers[:-1],
            [picture for clip in pictures for picture in clip],
            lambda layer: match_clips(layer, pictures, [clip.present for clip in clips], settings, draws),
            settings,
            [draw for draw in draws for _ in range(frames.shape[1])],
        )
        # Several processes wait for a gradient of every parameter, and clips of one frame have none for the updater.
        losses["loss_ce"] = losses["loss_ce"] + 0 * following.sum()
        return losses

    def layers(
        self, frames: Float[Tensor, "clips frames 3 height width"], draws: Sequence[Draws], done: float
    ) -> tuple[list[Prediction], Float[Tensor, "clips queries channels"], tuple[int, int]]:
        """Predictions before each block with queries and after the last, frames as pictures, in training.

        Returns:
            besides, the queries of the frames after the last ones, and the padded size in px.
        """
        segmenter, config = self.segmenter, self.segmenter.config
        images = segmenter.normalise(frames.flatten(0, 1))
        tokens, grid = segmenter.encoder(images)  # all frames at once: they know nothing of each other yet
        queries, by_frame = segmenter.first_queries(len(frames)), []
        for of_frame in tokens.unflatten(0, frames.shape[:2]).unbind(1):
            masked = [
                torch.stack([draw.uniform(config.queries) for draw in draws]).to(frames.device, non_blocking=True)
                < probability
                if probability
                else None
                for probability in masking(config.decoder_layers, done)
            ]
            predictions, queries = segmenter.look(of_frame, grid, queries, masked)
            by_frame.append(predictions)
        layers = [
            Prediction(
                torch.stack([one.logits for one in frames_of], dim=1).flatten(0, 1),
                torch.stack([one.masks for one in frames_of], dim=1).flatten(0, 1),
            )
            for frames_of in zip(*by_frame)
        ]
        return layers, queries, (images.shape[-2], images.shape[-1])
