"""One modality to features: the vision tower, and the encoders of sound, masks, gaze and hands.

Stage-2 specification, section 1; EgoExOR (arXiv 2505.24287). What `encode` is given are the inputs of several samples;
None is a sample without, which is only given where a batch mate's modality is to fill its place (published batching).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from scene_graph_generation.config.settings import MM2SGConfig, VisionConfig


def stand_out(positions: nn.Embedding) -> None:
    """Draw position embeddings as large as what they are added to.

    The library draws them with a standard deviation of 0.02, a few percent of the features beside them: a model trained
    from scratch then needs long to learn where anything is. Published weights replace them.
    """
    nn.init.normal_(positions.weight, std=0.5)


class VisionTower(nn.Module):
    """CLIP's vision transformer up to its feature layer, without the class token.

    Layers behind the feature layer are kept for the sake of the published files, but not computed.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )
        stand_out(self.clip.embeddings.position_embedding)
        self.computed_layers = config.layers + 1 + config.feature_layer

    def forward(self, views: Float[Tensor, "views 3 size size"]) -> Float[Tensor, "views tokens width"]:
        """Patch features of normalised views."""
        hidden = self.clip.pre_layrnorm(self.clip.embeddings(views))
        for layer in self.clip.encoder.layers[: self.computed_layers]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]


class MaskEncoder(nn.Module):
    """A 32x32 label map to one vector: label embedding, then five strided convolutions, ReLU after every one.

    Initialised for ReLU (He et al. 2015). PyTorch's default, which the published training starts from, lets five such
    layers shrink the differences between masks a thousandfold; a model trained from scratch then never uses them.
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        pooler = config.pooler
        self.embedding = nn.Embedding(config.labels, pooler.mask_embedding)
        widths = (pooler.mask_embedding, *pooler.mask_channels)
        convolutions = [
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1) for before, after in pairwise(widths)
        ]
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        self.convolutions = nn.ModuleList(convolutions)
        self.tokens = config.masks

    def forward(self, masks: UInt8[Tensor, "masks 32 32"]) -> Float[Tensor, "masks width"]:
        """Features of label maps; pixel values are raw labels, below `labels` of the settings."""
        hidden = self.embedding(masks.long()).permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            hidden = torch.relu(convolution(hidden))
        return hidden.flatten(1)

    def encode(self, masks: Sequence[UInt8[Tensor, "_ 32 32"] | None]) -> Float[Tensor, "samples tokens width"]:
        """Missing masks are zero vectors that do not go through the encoder.

        Raises:
            ValueError: there are more masks than tokens for them.
        """
        counts = [0 if sample is None else len(sample) for sample in masks]
        if max(counts) > self.tokens:
            raise ValueError(f"a sample has {max(counts)} masks, but there are {self.tokens} mask tokens")
        encoded = self(torch.cat([sample for sample in masks if sample is not None])).split(
            [count for count, sample in zip(counts, masks) if sample is not None]
        )
        present = iter(encoded)
        empty = encoded[0].new_zeros(0, encoded[0].shape[1])
        return torch.stack(
            [
                F.pad(empty if sample is None else next(present), (0, 0, 0, self.tokens - count))
                for sample, count in zip(masks, counts)
            ]
        )


class AudioProjection(nn.Linear):
    """The embedding of a second of sound to a token."""

    def encode(self, vectors: Sequence[Float[Tensor, " audio"] | None]) -> Float[Tensor, "samples 1 width"]:
        """A missing vector is zero and goes through the projection."""
        zero = self.weight.new_zeros(self.in_features)
        return self(torch.stack([zero if vector is None else vector.to(zero.dtype) for vector in vectors])).unsqueeze(1)


class BodyEncoder(nn.Module):
    """Numbers about a person, where they look or where their hands are, to a token (EgoExOR).

    Args:
        limits: of each number; more counts as so much, less than 0 or none (NaN) as 0, as published.
        config: of the model.
    """

    def __init__(self, limits: Sequence[float], config: MM2SGConfig) -> None:
        super().__init__()
        self.limits = tuple(limits)
        inner, width = config.pooler.body_width, config.vision.width
        self.mlp = nn.Sequential(nn.Linear(len(self.limits), inner), nn.ReLU(), nn.Linear(inner, width), nn.ReLU())

    def forward(self, people: Float[Tensor, "people numbers"]) -> Float[Tensor, "people width"]:
        """A token for each person."""
        most = torch.tensor(self.limits, dtype=people.dtype).to(people.device, non_blocking=True)
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(people.nan_to_num(0.0).clamp(min=0).minimum(most).to(dtype))

    def encode(self, samples: Sequence[Float[Tensor, "_ numbers"]]) -> tuple[Float[Tensor, "_ width"], ...]:
        """The tokens of each sample."""
        return self(torch.cat(list(samples))).split([len(sample) for sample in samples])
