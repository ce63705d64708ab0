"""Which breaches of sterility predicted graphs tell, and of the others what is missed: person, contact or state.

The sterility rule is applied to the true and to the predicted graphs of a take; both are compared second by second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operating_room.graphs.scene_graph import Sample, Triplet, by_take
from operating_room.scores.sterility import SterilityRule, find_breaches

# Why a breach is missed, the first that holds:
REASONS = {
    "person": "one of the two is in no predicted triplet of that second",
    "contact": "both are there, but in no relation that carries germs",
    "state": "the contact is there, but the predicted graphs have not opened the patient, or have closed already",
}


@dataclass(frozen=True)
class BreachRecall:
    """How many pairs of entities break sterility, counted second by second; their predicates may differ."""

    true: int
    predicted: int
    found: int  # both
    missed: Mapping[str, int]  # by `REASONS`

    @property
    def recall(self) -> float:
        """0/0 is 0."""
        return self.found / self.true if self.true else 0.0

    @property
    def precision(self) -> float:
        """0/0 is 0."""
        return self.found / self.predicted if self.predicted else 0.0

    def to_json(self) -> dict[str, Any]:
        """As in results files."""
        rates = {"recall": self.recall, "precision": self.precision}
        return {**vars(self), "missed": dict(self.missed), **rates, "reasons": REASONS}

    def __str__(self) -> str:
        missed = ", ".join(f"{count} for the {reason}" for reason, count in self.missed.items() if count)
        told = f"pairs that break sterility: {self.found} of {self.true} found (recall {self.recall:.3f}), "
        told += f"{self.found} of {self.predicted} predicted are right (precision {self.precision:.3f})"
        return f"{told}; missed: {missed}" if missed else told


def breach_recall(truth: Sequence[Sample], predicted: Sequence[Sample], rule: SterilityRule) -> BreachRecall:
    """Compare the breaches of predicted graphs with those of the true ones.

    Args:
        truth: whole takes in order of time, entity names with underscores.
        predicted: the same timepoints.
        rule: what is sterile, and which predicates carry germs.

    Raises:
        KeyError: a timepoint has no predicted graph.
    """
    graphs = {sample.sample_id: sample.triplets for sample in predicted}
    counts: Counter[str] = Counter()
    for of_take in by_take(truth).values():
        said = [graphs[sample.sample_id] for sample in of_take]
        true = find_breaches((sample.triplets for sample in of_take), rule)
        for graph, broken, told in zip(said, true, find_breaches(said, rule)):
            are, tell = _pairs(broken), _pairs(told)
            counts["true"] += len(are)
            counts["predicted"] += len(tell)
            counts["found"] += len(are & tell)
            counts.update(_reason(pair, graph, rule) for pair in are - tell)
    missed = {reason: counts[reason] for reason in REASONS}
    return BreachRecall(counts["true"], counts["predicted"], counts["found"], missed)


def _pairs(triplets: Iterable[Triplet]) -> set[frozenset[str]]:
    """Who touches what, whoever is the subject."""
    return {frozenset((triplet.subject, triplet.object)) for triplet in triplets}


def _reason(pair: frozenset[str], graph: Iterable[Triplet], rule: SterilityRule) -> str:
    graph = tuple(graph)
    if not pair <= {name for triplet in graph for name in (triplet.subject, triplet.object)}:
        return "person"
    return "state" if pair in _pairs(t for t in graph if t.predicate in rule.predicates) else "contact"
