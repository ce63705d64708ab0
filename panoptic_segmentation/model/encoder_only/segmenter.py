"""A segmenter that is a vision transformer and little else, with a memory of one set of queries per camera.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model" (EoMT): the last blocks also hold the queries, and
masks are products of queries with enlarged patch tokens. Over time ("VidEoMT", CVPR 2026) the queries of a frame are
the learned ones plus a linear map of what the frame before made of them: an object keeps the number of its query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segmentation.model.encoder_only.vit import EPSILON, Grid, VisionTransformer
from panoptic_segmentation.model.segmenter import PIXEL_MEAN, PIXEL_STD, SegmenterConfig
from panoptic_segmentation.model.transformer_decoder import Prediction, blocked_cells

# Of the published sizes: width, heads, blocks before the queries come, blocks that hold them.
_SIZES = {"small": (384, 6, 9, 3), "base": (768, 12, 9, 3), "large": (1024, 16, 20, 4)}


def published_encoder_only(size: Literal["small", "base", "large"]) -> SegmenterConfig:
    """EoMT of a published size: patches of 16 px, 200 queries, position embeddings of 640x640 px."""
    width, heads, before, joint = _SIZES[size]
    return SegmenterConfig(
        classes=124,
        queries=200,
        width=width,
        heads=heads,
        encoder_layers=before,
        decoder_layers=joint,
        decoder_hidden=4 * width,
    )


@dataclass(frozen=True)
class EncoderOutput:
    """What the segmenter says about one frame of each camera."""

    logits: Float[Tensor, "cameras queries classes"]  # the last class is "no object"
    masks: Float[Tensor, "cameras queries h w"]  # logits at the mask stride, over the padded picture
    queries: Float[Tensor, "cameras queries width"]  # of each camera's next frame
    image_size: tuple[int, int]  # height and width before padding, px
    padded_size: tuple[int, int]  # height and width after padding, px


class Enlarge(nn.Module):
    """Twice as many cells in each direction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, x: Float[Tensor, "pictures width h w"]) -> Float[Tensor, "pictures width twice_h twice_w"]:
        """Each cell as four."""
        x = self.conv2(F.gelu(self.conv1(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaskHead(nn.Module):
    """Queries as mask embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "pictures queries width"]) -> Float[Tensor, "pictures queries width"]:
        """Transform each query on its own."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class Heads(nn.Module):
    """Learned queries, their way to the next frame, and what is read from tokens."""

    def __init__(self, classes: int, queries: int, width: int, enlargements: int) -> None:
        super().__init__()
        self.query = nn.Embedding(queries, width)
        self.query_updater = nn.Linear(width, width)
        self.upscale = nn.ModuleList([Enlarge(width) for _ in range(enlargements)])
        self.mask_head = MaskHead(width)
        self.class_predictor = nn.Linear(width, classes + 1)
        # Without memory to begin with: an image segmenter's weights go on as they were.
        nn.init.zeros_(self.query_updater.weight)
        nn.init.zeros_(self.query_updater.bias)

    def forward(
        self, queries: Float[Tensor, "pictures queries width"], patches: Float[Tensor, "pictures width rows columns"]
    ) -> Prediction:
        """Classes and masks, of normalised tokens."""
        for enlarge in self.upscale:
            patches = enlarge(patches)
        masks = torch.einsum("pqc,pchw->pqhw", self.mask_head(queries), patches)
        return Prediction(self.class_predictor(queries), masks)


class EncoderSegmenter(nn.Module):
    """One frame of each camera after the other; what a camera remembers is the queries of its next frame."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(
            config.patch, config.grid, config.registers, config.width, config.heads, config.decoder_hidden,
            depth=config.encoder_layers, joint=config.decoder_layers,
        )  # fmt: skip
        enlargements = (config.patch // config.mask_stride).bit_length() - 1
        self.heads = Heads(config.classes, config.queries, config.width, enlargements)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def normalise(self, frames: Float[Tensor, "frames 3 height width"]) -> Float[Tensor, "frames 3 padded_h padded_w"]:
        """Subtract the mean, divide by the deviation, pad with zeros at the right and bottom to whole patches."""
        images = (frames - self.pixel_mean) / self.pixel_std
        height, width = frames.shape[-2:]
        return F.pad(images, (0, -width % self.config.patch, 0, -height % self.config.patch))

    def first_queries(self, cameras: int) -> Float[Tensor, "cameras queries width"]:
        """The queries of a first frame: the learned ones."""
        return self.heads.query.weight.expand(cameras, -1, -1)

    def forward(
        self, frames: Float[Tensor, "cameras 3 height width"], queries: Float[Tensor, "cameras queries channels"]
    ) -> EncoderOutput:
        """Segment one frame (RGB, 0..255) of each camera."""
        images = self.normalise(frames)
        tokens, grid = self.encoder(images)
        (prediction,), following = self.look(tokens, grid, queries)
        sizes = (frames.shape[-2], frames.shape[-1]), (images.shape[-2], images.shape[-1])
        return EncoderOutput(prediction.logits, prediction.masks, following, *sizes)

    def look(
        self,
        tokens: Float[Tensor, "cameras tokens channels"],
        grid: Grid,
        queries: Float[Tensor, "cameras queries channels"],
        masked: Sequence[Bool[Tensor, "cameras queries"] | None] = (),
    ) -> tuple[list[Prediction], Float[Tensor, "cameras queries channels"]]:
        """The last blocks, which hold queries and tokens.

        Args:
            tokens: what `encoder` made of the frames, with their grid.
            masked: in training, for each of these blocks: the queries that see only their own mask; None is none.

        Returns:
            the prediction, in training after those before each of these blocks; and the queries of the next frame.
        """
        count = queries.shape[1]
        x = torch.cat((queries, tokens), dim=1)
        predictions = []
        for i, layer in enumerate(self.encoder.layers[self.encoder.depth :]):
            allowed = None
            if masked:
                predictions.append(self._predict(x, count, grid))
                if (chosen := masked[i]) is not None:
                    allowed = _allowed(predictions[-1].masks, chosen, grid, x.shape[1])
            x = layer(x, allowed)
        predictions.append(self._predict(x, count, grid))
        return predictions, self.heads.query_updater(x[:, :count]) + self.heads.query.weight

    def _predict(self, x: Float[Tensor, "cameras tokens width"], count: int, grid: Grid) -> Prediction:
        normed = self.encoder.norm(x)
        patches = normed[:, count + self.encoder.prefix :].transpose(1, 2).unflatten(-1, grid)
        return self.heads(normed[:, :count], patches)


def _allowed(
    masks: Float[Tensor, "cameras queries h w"], chosen: Bool[Tensor, "cameras queries"], grid: Grid, tokens: int
) -> Bool[Tensor, "cameras tokens tokens"]:
    """Who sees whom where the chosen queries see only the patches of their own mask; all else is seen by all."""
    blocked = blocked_cells(masks.detach(), grid) & chosen[..., None]
    queries, cells = blocked.shape[1:]
    allowed = torch.ones(len(masks), tokens, tokens, dtype=torch.bool, device=masks.device)
    allowed[:, :queries, tokens - cells :] = ~blocked
    return allowed
