"""Hallucinations: predicted triplets about what is not in the true graph of that second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operating_room.domain.language import Language
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.scoring import true_graph
from operating_room.scores.triplets.timelines import proper

DEFINITIONS = {
    "hallucinations": "predicted triplets (each once a second) whose subject or object is in no true triplet of that "
    "second; `share` is of all predicted triplets; the published macro F1 does not count them",
    "hallucinations_unreadable": "predicted triplets that are no entity, entity and predicate of the vocabulary are "
    "counted apart",
}


@dataclass(frozen=True)
class Hallucinations:
    """How many, and about whom."""

    triplets: int  # predicted, readable
    invented: int  # of them: with an entity that the true graph has not
    timepoints: int
    with_any: int  # timepoints that have one
    entities: Mapping[str, int]  # absent entity -> invented triplets with it, most frequent first
    unreadable: int

    @property
    def share(self) -> float:
        """Of the predicted triplets, 0..1; 0 where there are none."""
        return self.invented / self.triplets if self.triplets else 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts and share."""
        return {**vars(self), "entities": dict(self.entities), "share": self.share}


def hallucinations(
    samples: Sequence[Sample], predictions: Mapping[str, Iterable[Triplet]], language: Language
) -> Hallucinations:
    """Count them.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    triplets = invented = with_any = unreadable = 0
    entities = Counter[str]()
    for sample in samples:
        true = {name for triplet in true_graph(sample, language) for name in (triplet.subject, triplet.object)}
        said = tuple(predictions[sample.sample_id])
        found = proper(said, language)
        absent = [{triplet.subject, triplet.object} - true for triplet in found]
        triplets += len(found)
        invented += (strange := sum(map(bool, absent)))
        with_any += strange > 0
        entities.update(name for names in absent for name in names)
        unreadable += sum(not proper([triplet], language) for triplet in said)
    ordered = dict(sorted(entities.items(), key=lambda item: (-item[1], item[0])))
    return Hallucinations(triplets, invented, len(samples), with_any, ordered, unreadable)
