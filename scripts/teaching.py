"""For benchmarks without trained models: a language model that says what it is told, at the cost of its size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from operating_room.graphs.scene_graph import Sample, target_text
from scene_graph_generation.model.decoding import CACHE

END = 2  # the token that ends an answer


def lessons(graphs: Sequence[Sample]) -> list[list[int]]:
    """Graphs as token ids with the end, in pieces of up to four letters.

    An annotated graph of a real take has 111 of them on average, about as many as of Llama's tokens (108).
    """
    texts = [re.findall(r" ?\w{1,4}|[^\w\s]", target_text(sorted(sample.triplets))) for sample in graphs]
    number = {piece: 3 + place for place, piece in enumerate(sorted({piece for text in texts for piece in text}))}
    return [[*(number[piece] for piece in text), END] for text in texts]


class Taught(nn.Module):
    """A language model whose scores are altered so that each sample of a batch says its lesson."""

    def __init__(self, language: nn.Module) -> None:
        super().__init__()
        self.inner = language
        self.config = language.config
        self.lessons: Sequence[Sequence[int]] = ()  # the answers of the next batch, with the end
        self._said: list[tuple[int, Sequence[int]]] = []  # of each row: length of its question, its answer

    def get_input_embeddings(self) -> nn.Module:
        """Of the model inside."""
        return self.inner.get_input_embeddings()  # ty: ignore[not-callable]

    def forward(self, position_ids: Tensor, attention_mask: Tensor, **others: Any) -> Any:
        """As the model inside; at each position the next token of the answer has the best score."""
        output = self.inner(position_ids=position_ids, attention_mask=attention_mask, **others)
        kept = output.logits.shape[1]
        if "inputs_embeds" in others:
            begins = (position_ids[:, -kept] + 1).tolist()
            self._said = list(zip(begins, self.lessons, strict=True))
            self._follow(output[CACHE])
        for row, (begin, lesson) in enumerate(self._said):
            for place, position in enumerate(position_ids[row, -kept:].tolist()):
                output.logits[row, place, lesson[min(max(0, position + 1 - begin), len(lesson) - 1)]] = 1e4
        return output

    def _follow(self, cache: Any) -> None:
        """Rows leave the batch where they leave the cache."""
        select = cache.batch_select_indices

        def both(chosen: Tensor) -> None:
            select(chosen)
            self._said = [self._said[row] for row in chosen.tolist()]

        cache.batch_select_indices = both
