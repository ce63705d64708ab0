"""The training loss: cross entropy in which frequent tokens count less (stage-2 specification, section 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scene_graph_generation.inputs.example import IGNORED

UNKNOWN_SHARE = 0.01  # weight of a token without frequency, as a share of the smallest weight


def token_weights(
    frequencies: Mapping[str, int], names: Mapping[str, int], vocabulary: int
) -> Float[Tensor, " vocabulary"]:
    """1 / (ln frequency + 1) for each token with a frequency, a hundredth of the smallest weight for all others.

    Args:
        frequencies: token text -> count in the answers.
        names: token text -> id.
        vocabulary: number of ids that the model scores.
    """
    counts = torch.tensor(list(frequencies.values()), dtype=torch.float64)
    known = 1 / (counts.log() + 1)
    weights = torch.full((vocabulary,), float(known.min()) * UNKNOWN_SHARE)
    ids = [names[name] for name in frequencies if name in names]
    values = [weight for name, weight in zip(frequencies, known) if name in names]
    if ids:
        weights[ids] = torch.stack(values).float()
    return weights


def answer_frequencies(labels: Iterable[list[int]], times: Iterable[int], names: Mapping[str, int]) -> dict[str, int]:
    """How often each token is an answer token, the end token included.

    Args:
        labels: of different answers.
        times: how many samples have each of them.
        names: token text -> id.
    """
    texts = {token: name for name, token in names.items()}
    counts = Counter[int]()
    for answer, often in zip(labels, times):
        for token in answer:
            if token != IGNORED:
                counts[token] += often
    return {texts[token]: count for token, count in counts.items()}


def weighted_loss(
    logits: Float[Tensor, "samples length vocabulary"],
    labels: Int[Tensor, "samples length"],
    weights: Float[Tensor, " vocabulary"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of each position's score for the next label: sum(w * loss) / sum(w) over supervised tokens."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), weights, ignore_index=IGNORED)


def answer_loss(
    logits: Float[Tensor, "answers vocabulary"],
    labels: Int[Tensor, " answers"],
    weights: Float[Tensor, " vocabulary"] | None = None,
) -> Float[Tensor, ""]:
    """The same as `weighted_loss` of scores for supervised tokens only: what `MM2SG` gives in training."""
    return F.cross_entropy(logits.float(), labels, weights)
