"""The temporal refiner: looks at the tracker's states of a whole video at once (stage-1 specification, section 7).

Zhang et al., "DVIS: Decoupled Video Instance Segmentation Framework" and "DVIS++".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from panoptic_segmentation.model.layers import MLP, CrossAttentionLayer, FeedForwardLayer, SelfAttentionLayer


@dataclass(frozen=True)
class VideoPrediction:
    """One class decision per query for a whole video, and what makes its masks."""

    logits: Float[Tensor, "queries classes"]  # the last class is "no object"
    mask_embeddings: Float[Tensor, "frames queries mask_width"]

    def masks(self, mask_features: Float[Tensor, "frames mask_width h w"]) -> Float[Tensor, "frames queries h w"]:
        """Mask logits over the segmenter's mask features of all frames."""
        return torch.einsum("fqc,fchw->fqhw", self.mask_embeddings, mask_features)


@dataclass(frozen=True)
class RefinerOutput:
    """The last layer's prediction, its states, and the predictions of the layers before it."""

    last: VideoPrediction
    queries: Float[Tensor, "frames queries width"]  # the last states, normalised
    auxiliary: list[VideoPrediction]  # empty unless asked


class Refiner(nn.Module):
    """Attention over time, convolution over time, attention over queries, attention to the frame, feed-forward."""

    def __init__(self, classes: int, width: int, mask_width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.transformer_time_self_attention_layers = nn.ModuleList(
            [SelfAttentionLayer(width, heads) for _ in range(depth)]
        )
        self.conv_short_aggregate_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv1d(width, width, 5, padding="same", padding_mode="replicate"),
                    nn.ReLU(),
                    nn.Conv1d(width, width, 3, padding="same", padding_mode="replicate"),
                )
                for _ in range(depth)
            ]
        )
        self.conv_norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.transformer_obj_self_attention_layers = nn.ModuleList(
            [SelfAttentionLayer(width, heads) for _ in range(depth)]
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            [CrossAttentionLayer(width, heads) for _ in range(depth)]
        )
        self.transformer_ffn_layers = nn.ModuleList([FeedForwardLayer(width, hidden) for _ in range(depth)])
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.mask_embed = MLP(width, mask_width)
        self.activation_proj = nn.Linear(width, 1)
        for convolution in self.conv_short_aggregate_layers.modules():
            if isinstance(convolution, nn.Conv1d):
                nn.init.xavier_uniform_(convolution.weight)

    def forward(
        self,
        states: Float[Tensor, "frames queries width"],
        embeddings_raw: Float[Tensor, "frames queries width"],
        auxiliary: bool = False,
    ) -> RefinerOutput:
        """Refine the tracker's `states` of a video with the segmenter's `embeddings_raw` (in the segmenter's order)."""
        x = states
        predictions: list[VideoPrediction] = []
        depth = len(self.transformer_ffn_layers)
        for i in range(depth):
            over_time = self.transformer_time_self_attention_layers[i](x.transpose(0, 1))  # queries, frames, width
            near = self.conv_short_aggregate_layers[i](over_time.transpose(1, 2)).transpose(1, 2)
            x = self.conv_norms[i](over_time + near).transpose(0, 1)
            x = self.transformer_obj_self_attention_layers[i](x)
            x = self.transformer_cross_attention_layers[i](x, x, embeddings_raw, embeddings_raw)
            x = self.transformer_ffn_layers[i](x)
            if auxiliary or i == depth - 1:
                predictions.append(self._predict(self.decoder_norm(x)))
        return RefinerOutput(predictions[-1], self.decoder_norm(x), predictions[:-1])

    def _predict(self, normed: Float[Tensor, "frames queries width"]) -> VideoPrediction:
        shares = self.activation_proj(normed).softmax(0)
        logits = self.class_embed((shares * normed).sum(0))
        return VideoPrediction(logits, self.mask_embed(normed))
