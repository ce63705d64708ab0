"""The frame segmenter: pictures in; per query a class, a mask and embeddings out (stage-1 specification, section 4).

Every frame is segmented on its own; nothing here knows of time. Published parameter names are translated in
`panoptic_segmentation.weights.checkpoints`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from operating_room.errors import UserError
from panoptic_segmentation.model.backbone import BasicBlock, Bottleneck, FrozenBatchNorm, ResNet
from panoptic_segmentation.model.pixel_decoder import GROUPS, PixelDecoder
from panoptic_segmentation.model.transformer_decoder import Prediction, TransformerDecoder

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, on the 0..255 scale
PIXEL_STD = (58.395, 57.12, 57.375)
DIVISIBILITY = 32  # px; pictures are padded to a multiple of it, the stride of res5


@dataclass(frozen=True)
class SegmenterConfig:
    """The size of a segmenter; the defaults are the published one.

    Raises:
        UserError: a combination that cannot be built.
    """

    classes: int = 124  # without "no object"
    queries: int = 100
    block: Literal["bottleneck", "basic"] = "bottleneck"
    stem_width: int = 64
    widths: tuple[int, int, int, int] = (256, 512, 1024, 2048)  # channels of res2..res5
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    norm: Literal["frozen", "batch"] = "frozen"  # of the backbone
    mask_stride: int = 4  # px of the picture per mask cell: 4, or 2 with one step more, to the stem's features
    width: int = 256  # channels everywhere after the backbone
    heads: int = 8
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    decoder_layers: int = 9
    decoder_hidden: int = 2048
    patch: int = 16  # px; this and the following of the encoder-only segmenter, which has no backbone before its layers
    registers: int = 4  # tokens that only remember
    grid: tuple[int, int] = (40, 40)  # rows and columns of its position embeddings; for others they are interpolated

    def __post_init__(self) -> None:
        if self.mask_stride not in (2, 4):
            raise UserError(f"segmenter: mask_stride is {self.mask_stride}; it must be 2 or 4")
        if self.width % GROUPS or self.width % (4 * self.heads):
            raise UserError(
                f"segmenter: width {self.width} must be a multiple of {GROUPS} and of 4 x {self.heads} heads"
            )
        if self.patch not in (4, 8, 16, 32):
            raise UserError(f"segmenter: patch is {self.patch}; it must be 4, 8, 16 or 32")


def small_segmenter(classes: int) -> SegmenterConfig:
    """A segmenter of 0.8 M parameters that learns from nothing on a CPU within minutes.

    Masks at stride 2, since small instruments decide panoptic quality at 192x256 px. Ordinary batch normalisation:
    frozen statistics only make sense with pre-trained weights.
    """
    return SegmenterConfig(
        classes=classes,
        queries=30,
        block="basic",
        stem_width=24,
        widths=(24, 48, 96, 128),
        depths=(1, 1, 1, 1),
        norm="batch",
        mask_stride=2,
        width=64,
        heads=4,
        encoder_layers=2,
        encoder_hidden=256,
        decoder_layers=2,
        decoder_hidden=256,
    )


@dataclass(frozen=True)
class SegmenterOutput:
    """What the segmenter says about a batch of frames."""

    logits: Float[Tensor, "frames queries classes"]  # the last class is "no object"
    masks: Float[Tensor, "frames queries h w"]  # logits at the mask stride, over the padded picture
    queries: Float[Tensor, "frames queries width"]  # last decoder states, normalised
    queries_raw: Float[Tensor, "frames queries width"]  # last decoder states, not normalised
    reid: Float[Tensor, "frames queries width"]  # re-identification embeddings
    mask_features: Float[Tensor, "frames width h w"]
    auxiliary: list[Prediction]  # from the learnable queries and after every layer but the last; empty unless asked
    image_size: tuple[int, int]  # height and width before padding, px
    padded_size: tuple[int, int]  # height and width after padding, px

    @property
    def embeddings(self) -> Float[Tensor, "frames queries twice_width"]:
        """[normalised state | re-identification]: the published `pred_embds`."""
        return torch.cat((self.queries, self.reid), dim=-1)

    @property
    def embeddings_raw(self) -> Float[Tensor, "frames queries twice_width"]:
        """[raw state | re-identification]: the published `pred_embds_without_norm`."""
        return torch.cat((self.queries_raw, self.reid), dim=-1)


class Segmenter(nn.Module):
    """ResNet, pixel decoder and transformer decoder."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(
            block=Bottleneck if config.block == "bottleneck" else BasicBlock,
            stem_width=config.stem_width,
            widths=config.widths,
            depths=config.depths,
            norm=FrozenBatchNorm if config.norm == "frozen" else nn.BatchNorm2d,
        )
        channels = config.widths if config.mask_stride == 4 else (config.stem_width, *config.widths)
        self.pixel_decoder = PixelDecoder(
            channels, config.width, config.heads, config.encoder_hidden, config.encoder_layers
        )
        self.decoder = TransformerDecoder(
            config.classes, config.queries, config.width, config.heads, config.decoder_hidden, config.decoder_layers
        )
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def normalise(self, frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 padded_h padded_w"]:
        """Subtract the mean, divide by the deviation, pad with zeros at the right and bottom (section 4.1)."""
        images = (frames - self.pixel_mean) / self.pixel_std
        height, width = frames.shape[-2:]
        return F.pad(images, (0, -width % DIVISIBILITY, 0, -height % DIVISIBILITY))

    def forward(self, frames: Float[Tensor, "frames 3 height width"], auxiliary: bool = False) -> SegmenterOutput:
        """Segment RGB frames with values 0..255; `auxiliary` keeps the earlier layers' predictions for the loss."""
        images = self.normalise(frames)
        features = self.backbone(images)
        mask_features, maps = self.pixel_decoder(features if self.config.mask_stride == 2 else features[1:])
        decoded = self.decoder(mask_features, maps, auxiliary)
        return SegmenterOutput(
            logits=decoded.last.logits,
            masks=decoded.last.masks,
            queries=decoded.queries,
            queries_raw=decoded.queries_raw,
            reid=decoded.reid,
            mask_features=mask_features,
            auxiliary=decoded.auxiliary,
            image_size=(frames.shape[-2], frames.shape[-1]),
            padded_size=(images.shape[-2], images.shape[-1]),
        )
