"""What the paper's macro F1 does not tell of predicted graphs: whole triplets, segments, delays, hallucinations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operating_room.domain.domain import Domain
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.scoring import SceneGraphScores
from operating_room.scores.triplets import delays, exact, hallucinations, segments, timelines
from operating_room.scores.triplets.delays import Delays, onset_delays
from operating_room.scores.triplets.exact import Exact, exact_scores, given_named
from operating_room.scores.triplets.hallucinations import Hallucinations
from operating_room.scores.triplets.segments import Segments, segment_scores
from operating_room.scores.triplets.timelines import timelines as read_timelines

DEFINITIONS = {
    **exact.DEFINITIONS,
    "triplet_interval": timelines.DEFINITION,
    **segments.DEFINITIONS,
    **delays.DEFINITIONS,
    **hallucinations.DEFINITIONS,
}


@dataclass(frozen=True)
class Details:
    """Scores of triplets; predicates are spelled as in the domain."""

    exact: Exact
    given: Mapping[str, float | int]  # macro scores over given pairs: the paper's
    given_named: Mapping[str, float | int]
    segments: Mapping[str, Segments]  # by predicate that is true or predicted
    delays: Mapping[str, Delays]  # by predicate that is true
    hallucinations: Hallucinations

    @property
    def all_segments(self) -> Segments:
        """Those of all predicates pooled."""
        return sum(self.segments.values(), Segments())

    @property
    def macro_segments(self) -> dict[str, float]:
        """Mean over the predicates with true intervals, 0..1."""
        scores = [one.f1 for one in self.segments.values() if one.true]
        return {name: sum(f1[name] for f1 in scores) / max(len(scores), 1) for name in Segments().f1}

    @property
    def all_delays(self) -> Delays:
        """Those of all predicates pooled."""
        return sum(self.delays.values(), Delays())

    def to_json(self) -> dict[str, Any]:
        """The key `triplets` of a results file."""
        return {
            "exact": self.exact.to_json(),
            "given": dict(self.given),
            "given_named": dict(self.given_named),
            "segments": {
                "all": self.all_segments.to_json(),
                "macro": self.macro_segments,
                "predicates": {name: one.to_json() for name, one in self.segments.items()},
            },
            "delays": {
                "all": self.all_delays.to_json(),
                "predicates": {name: one.to_json() for name, one in self.delays.items()},
            },
            "hallucinations": self.hallucinations.to_json(),
        }

    def __str__(self) -> str:
        invented, late, micro = self.hallucinations, self.all_delays, self.exact.micro
        pooled = ", ".join(f"{100 * value:.1f} at {name[3:]} %" for name, value in self.all_segments.f1.items())
        macro = ", ".join(f"{100 * value:.1f}" for value in self.macro_segments.values())
        quartiles = late.quartiles
        told = "none found" if quartiles is None else "median {1:+.1f} s ({0:+.1f} to {2:+.1f})".format(*quartiles)
        rows = {
            "predicates of given pairs": f"macro F1 {self.given['f1-score']:.4f}; where the answer names both entities "
            f"{self.given_named['f1-score']:.4f}",
            "open generation": f"F1 of whole triplets {micro['f1-score']:.4f} (precision {micro['precision']:.4f}, "
            f"recall {micro['recall']:.4f}), macro {self.exact.macro['f1-score']:.4f}",
            "segments": f"F1 {pooled} overlap; macro {macro}",
            "onset delays": f"{told}, {late.missed} of {late.missed + len(late.found)} onsets missed",
            "hallucinations": f"{invented.invented} of {invented.triplets} predicted triplets "
            f"({100 * invented.share:.1f} %) have an entity that is not there",
        }
        return "".join(f"{name:>25}  {text}\n" for name, text in rows.items())


def measure(
    samples: Sequence[Sample],
    predictions: Mapping[str, Iterable[Triplet]],
    scores: SceneGraphScores,
    domain: Domain,
    times: Mapping[str, float] | None = None,
) -> Details:
    """All of them.

    Args:
        samples: the truth.
        predictions: sample id -> predicted triplets as parsed.
        scores: of these predictions.
        domain: whose language and takes these are.
        times: see `timelines`.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    language = domain.language
    takes = read_timelines(samples, predictions, domain, times)
    by_segments, by_delays = segment_scores(takes), onset_delays(takes)
    spelled = {predicate.lower(): predicate for predicate in language.predicates}
    return Details(
        exact_scores(samples, predictions, language, timelines.clock_of(samples, domain, times)),
        scores.overall.predicates.macro,
        given_named(samples, predictions, language),
        {name: by_segments[lower] for lower, name in spelled.items() if lower in by_segments},
        {name: by_delays[lower] for lower, name in spelled.items() if lower in by_delays},
        hallucinations.hallucinations(samples, predictions, language),
    )
