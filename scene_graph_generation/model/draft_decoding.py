"""Greedy generation in few passes: guesses are checked many at once, and kept as far as the model says the same.

The fast path beside `decoding.generate`, with the same tokens as far as scores do not depend on how many tokens are
scored at once: in float32 rounding decides only where two scores are equal to six digits; in 16 bits it decides here as
it does between two sizes of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from operating_room.errors import UserError
from scene_graph_generation.inputs.example import Example, Merged
from scene_graph_generation.inputs.grammar import Grammar
from scene_graph_generation.model.decoding import CACHE, MAX_NEW_TOKENS, NO_NUMBERS
from scene_graph_generation.model.drafts import FIRST, Said, next_reach
from scene_graph_generation.model.mm2sg import MM2SG


@dataclass(frozen=True)
class Generated:
    """What a batch of questions was answered, and what it cost."""

    ids: list[list[int]]  # of each, without the end
    passes: int  # of the language model over the batch, that over the questions included
    drafted: int  # tokens that were guessed, of all answers
    accepted: int  # of these the ones that the model says, too


@dataclass
class _Answer:
    """An answer as far as it is said."""

    said: Said | None
    grammar: Grammar | None
    ids: list[int] = field(default_factory=list)
    state: int = Grammar.begin
    reach: int = FIRST
    has_ended: bool = False  # by itself
    is_over: bool = False  # or cut off

    def guess(self, most: int) -> list[int]:
        """What may follow, of `most` tokens in all: as in an answer before, or what the grammar forces."""
        count = 0 if self.is_over else min(self.reach, most - len(self.ids) - 1)
        found = [] if self.said is None else self.said.guess(self.ids, count)
        if self.grammar is None:
            return found
        return found[: len(self.states(found)) - 1] or self.grammar.forced(self.state, count)

    def states(self, guess: Sequence[int]) -> list[int]:
        """The grammar's state now and behind each token of a guess, as far as these may come."""
        states = [self.state]
        for token in guess:
            following = None if self.grammar is None else self.grammar.after(states[-1], token)
            if following is None:
                break
            states.append(following)
        return states

    def take(self, guess: Sequence[int], best: Sequence[int], end_ids: Collection[int], most: int) -> int:
        """Go on by what the model says behind each token of a guess; returns how many of these it says, too."""
        if self.is_over:
            return 0
        accepted = 0
        while accepted < len(guess) and best[accepted] == guess[accepted] and guess[accepted] not in end_ids:
            accepted += 1
        new = [*guess[:accepted], best[accepted]]
        self.has_ended = new[-1] in end_ids
        new = new[:-1] if self.has_ended else new
        self.state = self.states(new)[-1]
        self.ids += new
        self.is_over = self.has_ended or len(self.ids) >= most
        self.reach = next_reach(self.reach, len(guess), accepted)
        return accepted


@torch.no_grad()
def decode(
    model: MM2SG,
    examples: Sequence[Example],
    end_ids: Collection[int],
    max_new_tokens: int = MAX_NEW_TOKENS,
    said: Sequence[Said | None] | None = None,
    grammar: Grammar | None = None,
) -> Generated:
    """The most likely token after the other, for each sample up to and without the first of `end_ids`.

    Samples that are over leave the batch when half of it is. Nothing is guessed for a model whose cache cannot give
    entries back (one that looks back over a window, or has a state).

    Args:
        said: the answers before, of the take that each sample is of; None: no such guesses.
        grammar: what answers may be. One that is cut off at `max_new_tokens` loses its last triplet if that is not
            whole, and is closed, which may make it some tokens longer than that.

    Raises:
        UserError: a score is no number.
    """
    answers = [_Answer(history, grammar) for history in said or [None] * len(examples)]
    gives_back = _gives_back(model.language)
    batch = _Batch(model.language, model.embed(examples, side="left"), list(answers), gives_back)
    passes = drafted = accepted = 0
    while max_new_tokens > 0 and not all(answer.is_over for answer in answers):
        rows = batch.rows
        guesses = [row.guess(max_new_tokens) if gives_back else [] for row in rows]
        best = batch.best(guesses)
        found = [row.take(*pair, end_ids, max_new_tokens) for row, *pair in zip(rows, guesses, best)]
        batch.settle(found)
        passes, drafted, accepted = passes + 1, drafted + sum(map(len, guesses)), accepted + sum(found)
    ids = [answer.ids if grammar is None or answer.has_ended else grammar.close(answer.ids) for answer in answers]
    return Generated(ids, passes, drafted, accepted)


class _Batch:
    """Samples with the language model's cache of what they are asked and have said, but for the last token of each.

    A guess that was rejected stays in the cache as long as another sample needs its place, and is masked.
    """

    def __init__(self, language: PreTrainedModel, prompt: Merged, rows: list[_Answer], gives_back: bool) -> None:
        self.rows = rows
        self._language, self._prompt, self._gives_back = language, prompt, gives_back
        self._mask: Bool[Tensor, "rows places"] = prompt.attention_mask  # of what is in the cache
        self._lengths = prompt.attention_mask.sum(1, keepdim=True)
        self._cache: Any = None
        self._guessed = 0  # places of the longest guess, the last ones of the cache

    def best(self, guesses: Sequence[Sequence[int]]) -> list[list[int]]:
        """The most likely token behind what each sample has said, and behind each token of its guess."""
        begins, width = self._cache is None, max(map(len, guesses))
        new = [[*([] if begins or row.is_over else row.ids[-1:]), *guess] for row, guess in zip(self.rows, guesses)]
        size = width + (not begins)
        # In one piece: a GPU is waited for with each that is sent or fetched.
        sent = [
            [*ids, *[0] * (size - len(ids)), len(ids), max(0, len(row.ids) - 1)] for row, ids in zip(self.rows, new)
        ]
        ids, counts, fed = torch.tensor(sent).to(self._mask.device).split((size, 1, 1), dim=1)
        places = torch.arange(size, device=ids.device)
        self._mask = torch.cat((self._mask, places < counts), dim=1)
        # Filled up with the place of the last token: those behind may be more than the model has positions for.
        positions = self._lengths + fed + places.minimum((counts - 1).clamp(min=0))
        asked: dict[str, Any] = {"input_ids": ids, CACHE: self._cache}
        if begins:
            guessed = self._language.get_input_embeddings()(ids)
            asked = {"inputs_embeds": torch.cat((self._prompt.embeddings, guessed), dim=1)}
            positions = torch.cat((self._prompt.position_ids, positions), dim=1)
        output = self._language(
            **asked, attention_mask=self._mask, position_ids=positions, use_cache=True, logits_to_keep=width + 1
        )
        self._cache, self._guessed = output[CACHE], width
        scores = output.logits
        finite, best = scores.isfinite().all(), self._allowed(scores, guesses).argmax(-1)
        *tokens, is_finite = torch.cat((best.flatten(), finite.long()[None])).tolist()
        if not is_finite:
            raise UserError(NO_NUMBERS)
        return [tokens[start : start + width + 1] for start in range(0, len(tokens), width + 1)]

    def settle(self, accepted: Sequence[int]) -> None:
        """Drop from the cache what was guessed in vain, and the samples that are over once they are half of all."""
        if not self._gives_back:
            return
        last = self._guessed - max(accepted)
        if last:
            self._cache.crop(-last)
            self._mask = self._mask[:, :-last]
        if rejected := max(accepted) - min(accepted):
            places = torch.arange(rejected, device=self._mask.device)
            kept = torch.tensor(accepted).to(self._mask.device)[:, None] - min(accepted)
            self._mask[:, -rejected:] &= places < kept
        running = [place for place, row in enumerate(self.rows) if not row.is_over]
        if 0 < 2 * len(running) <= len(self.rows):
            chosen = torch.tensor(running).to(self._mask.device)
            self._cache.batch_select_indices(chosen)
            self._mask, self._lengths = self._mask[chosen], self._lengths[chosen]
            self.rows = [self.rows[place] for place in running]

    def _allowed(
        self, scores: Float[Tensor, "rows _ vocabulary"], guesses: Sequence[Sequence[int]]
    ) -> Float[Tensor, "rows _ vocabulary"]:
        """With nothing left of what the grammar does not allow."""
        grammar = self.rows[0].grammar
        if grammar is None:
            return scores
        device, vocabulary = scores.device, scores.shape[-1]
        free = torch.ones(vocabulary, dtype=torch.bool, device=device)
        masks = []
        for row, guess in zip(self.rows, guesses):
            known = [grammar.allowed_on(state, device, vocabulary) for state in row.states(guess)]
            masks.append(torch.stack([*known, *[free] * (scores.shape[1] - len(known))]))
        return scores.masked_fill(~torch.stack(masks), -torch.inf)


def _gives_back(language: PreTrainedModel) -> bool:
    """Whether entries can be taken out of the cache: of full attention in all layers, and nothing else."""
    if getattr(language, "_is_stateful", False):
        return False
    layers = DynamicCache(config=language.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
