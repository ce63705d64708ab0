"""CTVIS: the contrastive loss that trains the re-identification embeddings.

Stage-1 specification, section 5.2; Ying et al., "CTVIS: Consistent Training for Online Video Instance Segmentation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from panoptic_segmentation.model.losses import Losses
from panoptic_segmentation.model.matching import Draws, LossSettings, Match, full_precision


@dataclass
class _Track:
    """What the memory knows of one object after some frame."""

    seen: list[Float[Tensor, " width"]] = field(default_factory=list)  # its embeddings in earlier frames
    fused: Float[Tensor, " width"] | None = None

    def add(self, embedding: Float[Tensor, " width"]) -> None:
        """Fuse a new embedding in, the more the more similar it is to those seen before."""
        if self.fused is None:
            self.fused = embedding
        else:
            similarity = F.cosine_similarity(embedding[None], torch.stack(self.seen), dim=-1).mean().clamp(min=0)
            self.fused = (1 - similarity) * self.fused + similarity * embedding
        self.seen.append(embedding)


def contrastive_losses(
    reid: Float[Tensor, "frames queries width"],
    matches: Sequence[Match],
    present: Bool[Tensor, "objects frames"],
    settings: LossSettings,
    draws: Draws,
) -> Losses:
    """`loss_reid` and `loss_aux_reid` of one clip (section 5.2).

    Each object of each frame after the first is an anchor: near to what the clip has seen of it, far from the other
    queries of the frame before.

    Args:
        matches: the query of each object, per frame.
    """
    reid = full_precision(reid)
    frames, queries, _ = reid.shape
    query_of = [{i: query for query, i in match.pairs} for match in matches]
    # More objects than queries leave some unmatched: they count as absent.
    here = [[now and i in query_of[t] for t, now in enumerate(row)] for i, row in enumerate(present.tolist())]
    tracks = [_Track() for _ in here]
    # An anchor has a past if the object was seen before it; whether the positive is its mean or its last is tossed.
    coins = iter(draws.coins(sum(max(0, sum(row) - 1) for row in here)))
    anchors, positives, before, own = [], [], [], []  # per item; `own`: the object's query in the frame before, or -1
    for t in range(frames):
        for i, track in enumerate(tracks):
            if t == 0 or not here[i][t]:
                continue
            if track.fused is not None:
                positive = track.fused if next(coins) else track.seen[-1]
            else:
                later = next((u for u in range(t + 1, frames) if here[i][u]), None)
                if later is None:
                    continue
                positive = reid[later, query_of[later][i]]
            anchors.append(reid[t, query_of[t][i]])
            positives.append(positive)
            before.append(t - 1)
            own.append(query_of[t - 1][i] if here[i][t - 1] else -1)
        for i, track in enumerate(tracks):
            if here[i][t]:
                track.add(reid[t, query_of[t][i]])
    if not anchors:
        nothing = 0 * reid.sum()
        return {"loss_reid": nothing, "loss_aux_reid": nothing}
    anchor, positive, others = torch.stack(anchors), torch.stack(positives), reid[_sent(before, reid)]
    negative = torch.arange(queries, device=reid.device) != _sent(own, reid)[:, None]
    closeness = (anchor[:, None] * others).sum(-1) - (anchor * positive).sum(-1, keepdim=True)
    closeness = closeness.masked_fill(~negative, -torch.inf)
    contrast = torch.cat((torch.zeros_like(closeness[:, :1]), closeness), dim=1).logsumexp(1)
    far = F.cosine_similarity(anchor[:, None], others, dim=-1).square() * negative
    near = (F.cosine_similarity(anchor, positive, dim=-1) - 1).square()
    cosine = (near + far.sum(1)) / (1 + negative.sum(1))
    return {
        "loss_reid": settings.reid_weight * contrast.mean(),
        "loss_aux_reid": settings.reid_cosine_weight * cosine.mean(),
    }


def _sent(numbers: list[int], to: Tensor) -> Int[Tensor, " numbers"]:
    """Numbers on the device of a tensor, which is not waited for."""
    return torch.tensor(numbers).to(to.device, non_blocking=True)
