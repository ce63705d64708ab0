"""The training loss: cross entropy in which frequent tokens count less (stage-2 specification, section 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.graphs.prompts import IMAGE_MARK
from scene_graph_generation.inputs.example import IGNORED
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.samples.survey import Survey

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


def loss_weights(path: Path | None, known: Survey, tokens: Tokens, vocabulary: int) -> Tensor:
    """Weight of each token id in the loss.

    Args:
        path: JSON of token text -> count in the answers; None: counted here. The published file leaves out the token
            that ends an answer, which made it count a hundred times less than any other: it counts once per answer.
        known: of what is trained on, with answers if there is no file.
        tokens: the model's tokenizer.
        vocabulary: ids that the model scores.

    Raises:
        UserError: the file is damaged, or of another tokenizer.
    """
    names = tokens.names()
    if path is None:
        asked = tokens.conversation(IMAGE_MARK)
        answers = (tokens.encode(asked, answer)[1] for answer in known.answers)
        times = np.bincount(known.answer_numbers, minlength=len(known.answers)).tolist()
        return token_weights(answer_frequencies(answers, times, names), names, vocabulary)
    return token_weights({tokens.end_token: len(known.lengths), **read_frequencies(path, names)}, names, vocabulary)


def read_frequencies(path: Path, names: Mapping[str, int]) -> dict[str, int]:
    """Token text -> count in the answers.

    Args:
        path: of the JSON.
        names: of the model's tokenizer, token text -> id.

    Raises:
        UserError: the file is damaged, or of another tokenizer.
    """
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(
        isinstance(count, (int, float)) and count >= 1 for count in counts.values()
    ):
        raise UserError(f"{path}: expected an object of token texts and their counts, 1 or more; copy or make it again")
    if 2 * len(counts.keys() & names.keys()) < max(len(counts), 1):  # commas and short words are in every tokenizer
        raise UserError(f"{path}: most of its tokens are unknown to the model's tokenizer; it is of another one")
    return counts
