"""The transformer decoder: learnable queries become classes, masks and embeddings through masked attention.

Stage-1 specification, section 4.4; Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation";
the re-identification head is that of Ying et al., "CTVIS: Consistent Training for Online Video Instance Segmentation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segmentation.model.layers import (
    MLP,
    CrossAttentionLayer,
    FeedForwardLayer,
    SelfAttentionLayer,
    he_uniform,
)
from panoptic_segmentation.model.pixel_decoder import LEVELS, sine_position


@dataclass(frozen=True)
class Prediction:
    """What one set of queries says about a batch of pictures."""

    logits: Float[Tensor, "frames queries classes"]  # the last class is "no object"
    masks: Float[Tensor, "frames queries h w"]  # logits, at the mask stride


@dataclass(frozen=True)
class DecoderOutput:
    """The last layer's prediction, its query embeddings, and the predictions before it."""

    last: Prediction
    queries: Float[Tensor, "frames queries width"]  # the last states, normalised
    queries_raw: Float[Tensor, "frames queries width"]  # the last states, not normalised
    reid: Float[Tensor, "frames queries width"]  # re-identification embeddings
    auxiliary: list[Prediction]  # from the learnable queries, then after every layer but the last; empty unless asked


def blocked_cells(
    masks: Float[Tensor, "frames queries h w"], size: tuple[int, int]
) -> Bool[Tensor, "frames queries cells"]:
    """Where masked attention must not look: mask logits resized to `size` that lie below zero.

    (The sigmoid of a logit is below 0.5 where the logit is below 0.)
    """
    small = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return small.flatten(2) < 0


class TransformerDecoder(nn.Module):
    """Queries, decoder layers, and the heads that are applied before the first layer and after each."""

    def __init__(self, classes: int, queries: int, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList([SelfAttentionLayer(width, heads) for _ in range(depth)])
        self.transformer_cross_attention_layers = nn.ModuleList(
            [CrossAttentionLayer(width, heads) for _ in range(depth)]
        )
        self.transformer_ffn_layers = nn.ModuleList([FeedForwardLayer(width, hidden) for _ in range(depth)])
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = nn.Embedding(queries, width)
        self.query_embed = nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.mask_embed = MLP(width, width)
        self.reid_embed = MLP(width, width)
        self.reid_embed.apply(he_uniform)

    def forward(
        self,
        mask_features: Float[Tensor, "frames width h w"],
        maps: Sequence[Float[Tensor, "frames width _ _"]],
        auxiliary: bool,
    ) -> DecoderOutput:
        """Decode the pixel decoder's output; keep the earlier layers' predictions if `auxiliary`."""
        frames = len(mask_features)
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        values = [
            m.flatten(2).transpose(1, 2) + embed for m, embed in zip(maps, self.level_embed.weight)
        ]  # frames, cells, width
        keys = [v + sine_position(*size, v.shape[-1], like=v).flatten(1).T for v, size in zip(values, sizes)]
        position = self.query_embed.weight[None]
        x = self.query_feat.weight.expand(frames, -1, -1)
        earlier: list[Prediction] = []
        layers = zip(
            self.transformer_cross_attention_layers, self.transformer_self_attention_layers, self.transformer_ffn_layers
        )
        for i, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = i % LEVELS
            prediction = self._predict(x, mask_features)
            if auxiliary:
                earlier.append(prediction)
            with torch.no_grad():
                blocked = blocked_cells(prediction.masks, sizes[level])
                blocked = blocked & ~blocked.all(dim=-1, keepdim=True)  # a query that sees nothing sees everything
            x = cross_attention(x, x + position, keys[level], values[level], blocked)
            x = feed_forward(self_attention(x, position))
        normed = self.decoder_norm(x)
        return DecoderOutput(
            last=self._predict(x, mask_features),
            queries=normed,
            queries_raw=x,
            reid=self.reid_embed(normed),
            auxiliary=earlier,
        )

    def _predict(
        self, x: Float[Tensor, "frames queries width"], mask_features: Float[Tensor, "frames width h w"]
    ) -> Prediction:
        normed = self.decoder_norm(x)
        masks = torch.einsum("fqc,fchw->fqhw", self.mask_embed(normed), mask_features)
        return Prediction(self.class_embed(normed), masks)
