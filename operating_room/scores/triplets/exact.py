"""Open generation: whole triplets right or wrong, nothing given; and how often a predicate is said against is true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from operating_room.domain.language import Language
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores import bootstrap
from operating_room.scores.scoring import named_entities, predicate_report, predicted_graph, true_graph
from operating_room.scores.triplets.timelines import proper

DEFINITIONS = {
    "exact": "open generation: a predicted triplet is right if exactly it is true in that second; nothing is given, "
    "invented entities cost; `micro` over all triplets, `macro` over the predicates with true triplets, without `none`",
    "counts": "of each predicate: triplets that are true, predicted and both, with precision, recall, F1 and their "
    "intervals; predicted / true is how well a rare predicate is calibrated",
    "given": "predicates over given pairs: the entities of the true graph are given, and the predicate of each of "
    "their ordered pairs is asked, `none` included: macro F1 as in `macro`",
    "given_named": "the same over the pairs of those true entities that the prediction names at all: a true triplet "
    "with an entity that is never named costs nothing, as newer work counts (TopoOR leaves out undetected entities)",
}
COUNTED = ("true", "predicted", "right")
_RATIOS = ("precision", "recall", "f1-score")


@dataclass(frozen=True)
class Exact:
    """Counts of whole triplets by predicate, in stretches of time for the intervals."""

    names: tuple[str, ...]  # the predicates
    blocks: Int64[np.ndarray, "blocks names counted"]  # see COUNTED

    @cached_property
    def counts(self) -> Int64[np.ndarray, "names counted"]:
        """Of all timepoints."""
        return self.blocks.sum(axis=0)

    @cached_property
    def ratios(self) -> Float64[np.ndarray, "names ratios"]:
        """Precision, recall and F1 of each predicate; 0/0 is 0."""
        return _ratios(self.counts)

    @property
    def micro(self) -> dict[str, float | int]:
        """Over all triplets."""
        total = self.counts.sum(axis=0)
        return {**_named(_RATIOS, _ratios(total)), "support": int(total[0])}

    @property
    def macro(self) -> dict[str, float | int]:
        """Mean over the predicates with support."""
        there = self.counts[:, 0] > 0
        mean = self.ratios[there].mean(axis=0) if there.any() else np.zeros(3)
        return {**_named(_RATIOS, mean), "support": int(self.counts[:, 0].sum())}

    @cached_property
    def intervals(self) -> dict[str, dict[str, bootstrap.Interval]]:
        """Of precision, recall and F1 of each predicate and of `micro`, where there is something to divide by.

        A single block has none: every draw of it is the same.
        """
        if len(self.blocks) < 2:
            return {}
        weights = bootstrap.draws(len(self.blocks))
        sums = np.tensordot(weights, self.blocks, axes=1)
        sums = np.concatenate([sums, sums.sum(axis=1, keepdims=True)], axis=1)
        ratios = _ratios(sums)
        ratios[sums[..., 1] == 0, 0] = np.nan
        ratios[sums[..., 0] == 0, 1] = np.nan
        ratios[sums[..., :2].sum(axis=-1) == 0, 2] = np.nan
        return {
            name: {key: told for key, column in zip(_RATIOS, values.T) if (told := bootstrap.percentiles(column))}
            for name, values in zip((*self.names, "micro"), ratios.transpose(1, 0, 2))
        }

    def to_json(self) -> dict[str, Any]:
        """All scores with support and intervals."""
        predicates = {
            name: {**_named(COUNTED, counts, int), **_named(_RATIOS, ratios), "intervals": self.intervals.get(name, {})}
            for name, counts, ratios in zip(self.names, self.counts, self.ratios)
        }
        micro = {**self.micro, "intervals": self.intervals.get("micro", {})}
        return {"micro": micro, "macro": self.macro, "predicates": predicates}


def exact_scores(
    samples: Sequence[Sample],
    predictions: Mapping[str, Iterable[Triplet]],
    language: Language,
    times: Mapping[str, float] | None = None,
) -> Exact:
    """Compare whole triplets; for `times` see `bootstrap.block_sums`.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    index = language.predicate_index
    counts = np.zeros((len(samples), len(language.predicates), len(COUNTED)), np.int64)
    for row, sample in zip(counts, samples):
        true, found = set(true_graph(sample, language)), proper(predictions[sample.sample_id], language)
        for column, triplets in enumerate((true, found, true & found)):
            for triplet in triplets:
                row[index[triplet.predicate], column] += 1
    blocks = bootstrap.block_sums(samples, counts, times)
    return Exact(language.predicates, blocks)


def given_named(
    samples: Sequence[Sample], predictions: Mapping[str, Iterable[Triplet]], language: Language
) -> dict[str, float | int]:
    """Macro scores over the pairs of true entities that are named in the prediction, as in `predicates`.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    total = predicate_report([], [], [], language)
    for sample in samples:
        true, found = true_graph(sample, language), predicted_graph(predictions[sample.sample_id], language)
        both = sorted((named_entities(true, language) & named_entities(found, language)) - {-1})
        total += predicate_report(true, found, both, language)
    return total.macro


def _ratios(counts: Int64[np.ndarray, "*shape counted"]) -> Float64[np.ndarray, "*shape ratios"]:
    true, predicted, right = np.moveaxis(counts, -1, 0)
    pairs = (right, predicted), (right, true), (2 * right, true + predicted)
    return np.stack([part / np.maximum(whole, 1) for part, whole in pairs], axis=-1)


def _named(names: Sequence[str], values: Iterable[Any], kind: type = float) -> dict[str, Any]:
    return {name: kind(value) for name, value in zip(names, values)}
