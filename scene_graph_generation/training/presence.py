"""Which triplets hold, told from visual tokens: the head that teaches the visual path, and its score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

HEADS = 4


class PresenceHead(nn.Module):
    """Which triplets hold, told from visual tokens: each triplet has a query that attends to all tokens."""

    def __init__(self, triplets: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.normalise = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.readout = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.full((triplets,), -2.0))

    def forward(self, tokens: Sequence[Float[Tensor, "_ width"]]) -> Float[Tensor, "samples triplets"]:
        """Logits; samples may have different numbers of tokens."""
        padded = self.normalise(nn.utils.rnn.pad_sequence(list(tokens), batch_first=True))
        counts = torch.tensor([len(sample) for sample in tokens]).to(padded.device, non_blocking=True)
        absent = torch.arange(padded.shape[1], device=padded.device) >= counts[:, None]
        queries = self.queries.expand(len(tokens), -1, -1)
        found, _ = self.attention(queries, padded, padded, key_padding_mask=absent, need_weights=False)
        return (found * self.readout).sum(-1) + self.bias


def f1_of(said: Bool[Tensor, "samples triplets"], true: Bool[Tensor, "samples triplets"]) -> dict[str, float]:
    """F1 over all triplets together, and the mean over those that hold somewhere."""
    both, either = (said & true).sum(0).double(), said.sum(0).double() + true.sum(0).double()
    there = true.any(0)
    each = (2 * both / either.clamp(min=1))[there]
    return {
        "f1": float(2 * both.sum() / either.sum().clamp(min=1)),
        "mean_f1": float(each.mean()) if len(each) else 0.0,
    }
