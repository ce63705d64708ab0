"""The referring tracker: carries query states from frame to frame (stage-1 specification, section 6.1 and 6.2).

Zhang et al., "DVIS: Decoupled Video Instance Segmentation Framework" and "DVIS++".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from panoptic_segmentation.model.layers import (
    MLP,
    CrossAttentionLayer,
    FeedForwardLayer,
    SelfAttentionLayer,
    he_uniform,
)
from panoptic_segmentation.model.matching import Draws, align, follow
from panoptic_segmentation.model.transformer_decoder import Prediction

NOISE_RATIO = 0.5  # share of the training frames that start from mixed-up queries


@dataclass(frozen=True)
class TrackerState:
    """What one frame hands to the next, also across windows."""

    states: Float[Tensor, "queries width"]  # after the last layer
    embeddings: Float[Tensor, "queries width"]  # the segmenter's, normalised, in the tracker's order


@dataclass(frozen=True)
class TrackerOutput:
    """The tracker's view of a window of frames; the same query is the same object in all of them."""

    last: Prediction
    states: Float[Tensor, "frames queries width"]  # after the last layer, not normalised
    references: Float[Tensor, "frames queries width"]
    orders: Int[Tensor, "frames queries"]  # the segmenter's query that each of the tracker's starts from
    auxiliary: list[Prediction]  # of the layers before the last; empty unless asked
    state: TrackerState


class Tracker(nn.Module):
    """Cross-attention to the frame's queries, self-attention, feed-forward; six times in each frame."""

    def __init__(self, classes: int, width: int, mask_width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList([SelfAttentionLayer(width, heads) for _ in range(depth)])
        self.transformer_cross_attention_layers = nn.ModuleList(
            [CrossAttentionLayer(width, heads) for _ in range(depth)]
        )
        self.transformer_ffn_layers = nn.ModuleList([FeedForwardLayer(width, hidden) for _ in range(depth)])
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(2 * width, classes + 1)
        self.mask_embed = MLP(width, mask_width)
        self.ref_proj = MLP(width, width)
        self.ref_proj.apply(he_uniform)
        self.mask_feature_proj = nn.Conv2d(mask_width, mask_width, 1)

    def forward(
        self,
        embeddings: Float[Tensor, "frames queries width"],
        embeddings_raw: Float[Tensor, "frames queries width"],
        mask_features: Float[Tensor, "frames mask_width h w"],
        state: TrackerState | None = None,
        auxiliary: bool = False,
        noise: Draws | None = None,
    ) -> TrackerOutput:
        """Track through a window of frames.

        Args:
            embeddings: the segmenter's [normalised state | re-identification], used to align frames.
            embeddings_raw: the segmenter's [raw state | re-identification], used as start and as keys and values.
            state: of the window before; None at the start of a video.
            auxiliary: predict from the layers before the last too, for the loss.
            noise: mixes queries up in half of the frames, for training.
        """
        layers, references, orders = [], [], []
        # Noise decides in each frame who is followed; without it that is known beforehand.
        followed = [] if noise is not None else list(follow(None if state is None else state.embeddings, embeddings))
        for t, (normed, raw) in enumerate(zip(embeddings, embeddings_raw)):
            if state is None:
                order = torch.arange(len(normed), device=normed.device)
                states, reference = self._first_frame(raw)
            else:
                if noise is None:
                    order, start = followed[t], raw[followed[t]]
                else:
                    order, start = _next_start(state, normed, raw, noise)
                reference = self.ref_proj(state.states)
                states = self._frame(start, reference, raw)
            state = TrackerState(states[-1], normed[order])
            layers.append(states)
            references.append(reference)
            orders.append(order)
        assert state is not None, "a window has at least one frame"
        reference = torch.stack(references)
        by_layer = [torch.stack(states) for states in zip(*layers)]
        features = self.mask_feature_proj(mask_features)
        return TrackerOutput(
            last=self._predict(by_layer[-1], reference, features),
            states=by_layer[-1],
            references=reference,
            orders=torch.stack(orders),
            auxiliary=[self._predict(states, reference, features) for states in by_layer[:-1]] if auxiliary else [],
            state=state,
        )

    def _first_frame(
        self, raw: Float[Tensor, "queries width"]
    ) -> tuple[list[Float[Tensor, "queries width"]], Float[Tensor, "queries width"]]:
        """States after each layer, and the reference of the class head; each layer refers to the one before."""
        reference = self.ref_proj(raw)
        states = [raw]
        for layer in range(len(self.transformer_ffn_layers)):
            states.append(self._layer(layer, states[-1], self.ref_proj(states[-1]), raw))
        return states[1:], reference

    def _frame(
        self,
        start: Float[Tensor, "queries width"],
        reference: Float[Tensor, "queries width"],
        raw: Float[Tensor, "queries width"],
    ) -> list[Float[Tensor, "queries width"]]:
        """States after each layer."""
        states = [start]
        for layer in range(len(self.transformer_ffn_layers)):
            states.append(self._layer(layer, states[-1], reference, raw))
        return states[1:]

    def _layer(
        self,
        layer: int,
        state: Float[Tensor, "queries width"],
        reference: Float[Tensor, "queries width"],
        raw: Float[Tensor, "queries width"],
    ) -> Float[Tensor, "queries width"]:
        cross_attention = self.transformer_cross_attention_layers[layer]
        x = cross_attention(state[None], reference[None], raw[None], raw[None])
        x = self.transformer_self_attention_layers[layer](x)
        return self.transformer_ffn_layers[layer](x)[0]

    def _predict(
        self,
        states: Float[Tensor, "frames queries width"],
        reference: Float[Tensor, "frames queries width"],
        features: Float[Tensor, "frames mask_width h w"],
    ) -> Prediction:
        normed = self.decoder_norm(states)
        logits = self.class_embed(torch.cat((reference, normed), dim=-1))
        return Prediction(logits, torch.einsum("fqc,fchw->fqhw", self.mask_embed(normed), features))


def _next_start(
    state: TrackerState,
    normed: Float[Tensor, "queries width"],
    raw: Float[Tensor, "queries width"],
    noise: Draws,
) -> tuple[Int[Tensor, " queries"], Float[Tensor, "queries width"]]:
    """Order and start states of a frame: aligned to the frame before, or mixed up (section 6.2)."""
    if float(noise.uniform(1)) >= NOISE_RATIO:
        order = align(state.embeddings, normed)
        return order, raw[order]
    # Decided on the CPU, which then has nobody to wait for.
    queries = len(raw)
    shuffle, share = noise.permutation(queries), noise.uniform(queries).to(raw.dtype)
    order = without_duplicates(torch.where(share >= 0.5, torch.arange(queries), shuffle))
    order, shuffle, share = (tensor.to(raw.device, non_blocking=True) for tensor in (order, shuffle, share))
    return order, share[:, None] * raw + (1 - share[:, None]) * raw[shuffle]


def without_duplicates(order: Int[Tensor, " queries"]) -> Int[Tensor, " queries"]:
    """Make a permutation of `order`: the second and later users of a query get, in turn, the queries nobody uses.

    The published code keeps the duplicates; the next frame's alignment then has exact ties, is decided by rounding, and
    loses queries for the rest of the clip (section 12).
    """
    used: set[int] = set()
    result = order.tolist()
    free = iter(sorted(set(range(len(result))) - set(result)))
    for k, query in enumerate(result):
        if query in used:
            result[k] = next(free)
        used.add(query)
    return torch.tensor(result)
