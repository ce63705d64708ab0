"""Layers that the transformer decoder, the tracker and the refiner share, under their published parameter names.

All are post-norm without dropout: `LayerNorm(x + f(x))` (stage-1 specification, sections 4.4, 6.1 and 7).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with the parameters of `torch.nn.MultiheadAttention`.

    Written out because PyTorch's own copies the mask once per head; here one mask serves all heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.out_proj.apply(xavier_uniform)

    def forward(
        self,
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch keys width"],
        value: Float[Tensor, "batch keys width"],
        blocked: Bool[Tensor, "batch queries keys"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Attend from `query` to `key` and `value`, except where `blocked`."""
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases)
        )
        allowed = None if blocked is None else ~blocked[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out_proj(attended.transpose(1, 2).flatten(-2))


class SelfAttentionLayer(nn.Module):
    """Self-attention with residual; `position` is added to queries and keys, not to values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "batch queries width"], position: Float[Tensor, "#batch queries width"] | None = None
    ) -> Float[Tensor, "batch queries width"]:
        """Let all queries of a batch element see each other."""
        placed = x if position is None else x + position
        return self.norm(x + self.self_attn(placed, placed, x))


class CrossAttentionLayer(nn.Module):
    """Cross-attention; what is asked (`query`) may differ from what is updated (`x`), as in the tracker."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        query: Float[Tensor, "batch queries width"],
        key: Float[Tensor, "batch keys width"],
        value: Float[Tensor, "batch keys width"],
        blocked: Bool[Tensor, "batch queries keys"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Add to `x` what `query` finds in `key` and `value`."""
        return self.norm(x + self.multihead_attn(query, key, value, blocked))


class FeedForwardLayer(nn.Module):
    """Two linear layers with ReLU between, residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform each vector on its own."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class MLP(nn.Module):
    """Three linear layers with ReLU between: the mask, re-identification and reference heads."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        """Transform each vector on its own."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


def xavier_uniform(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases on a Linear or convolution (section 13); for `module.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def he_uniform(module: nn.Module) -> None:
    """He-uniform weights (fan in, a = 1), zero biases on a Linear or convolution (section 13); for `module.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
