"""EgoExOR's published evaluator beside the metric of this software (arXiv 2505.24287, data card and code).

Its score of a sample looks at the entities of the *prediction*, that of MM-OR and of this software at those of the
truth. The two are not comparable, so every report has both, named `f1_official` and `f1_truth`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from operating_room.domain.domain import Domain
from operating_room.domain.language import Language
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.reports import Report
from operating_room.scores.scoring import (
    SceneGraphScores,
    named_entities,
    predicate_report,
    predicted_graph,
    true_graph,
)

DOMAIN = "egoexor"
TYPES = ("MISS", "Ultrasound")
WHY = (
    "f1_official and f1_truth differ: the published evaluator looks only at pairs of entities that were predicted, so "
    "that a relation whose entities are never named costs nothing, and it does not read `close to` and `lying on`; "
    "f1_truth looks at all pairs of the truth, as MM-OR's paper does."
)
DEFINITIONS = {
    "f1_official": "macro F1 over the predicates with support, `none` included, over ordered pairs of different "
    "entities of the predicted graph of a sample; a sample without true relations contributes nothing, nor does one "
    "whose answer holds no triplet; a triplet with a word outside the vocabulary is left out, also `close to` and "
    "`lying on`; a predicate in an entity's place, with which the published evaluator ends in an error, is left out; "
    "its entity report, 100 % by construction, is not given",
    "f1_truth": "macro F1 over the predicates with support, `none` included, over ordered pairs of different entities "
    "of the true graph; the score of the other tables",
    "types": "MISS is every take with that in its name, Ultrasound all others",
    "differ": WHY,
}
_UNREAD = ("close to", "lying on")  # the prompt's own spellings


@dataclass(frozen=True)
class EgoExORScores:
    """Predicate reports of MISS and Ultrasound, where there are samples, and of all samples."""

    official: Mapping[str, Report]
    truth: Mapping[str, Report]

    def to_json(self) -> dict[str, Any]:
        """Both scores with what they mean; `plain_macro` counts predicates without support as 0."""
        rows = {"f1_official": self.official, "f1_truth": self.truth}
        return {"definitions": DEFINITIONS} | {
            name: {
                kind: {
                    "macro_f1": report.macro["f1-score"],
                    "macro": report.macro,
                    "plain_macro": report.macro_all_names,
                    "pairs": report.total,
                    "predicates": report.to_json(),
                }
                for kind, report in reports.items()
            }
            for name, reports in rows.items()
        }

    def __str__(self) -> str:
        lines = [f"{'EgoExOR':>10}  f1_official     pairs  f1_truth     pairs"]
        for kind, official in self.official.items():
            numbers = [(report.macro["f1-score"], report.total) for report in (official, self.truth[kind])]
            told = f"{numbers[0][0]:>11.4f}  {numbers[0][1]:>8}  {numbers[1][0]:>8.4f}  {numbers[1][1]:>8}"
            lines.append(f"{kind:>10}  {told}")
        return "\n".join([*lines, WHY]) + "\n"


def score_both(
    samples: Sequence[Sample], predictions: Mapping[str, Iterable[Triplet]], scores: SceneGraphScores, domain: Domain
) -> EgoExORScores | None:
    """Both scores of EgoExOR's takes; None if this is another domain.

    Args:
        samples: the truth.
        predictions: sample id -> predicted triplets as parsed.
        scores: those of this software.
        domain: whose language and takes these are.
    """
    if domain.name != DOMAIN:
        return None
    official = (
        (sample.take_name, official_report(sample, predictions[sample.sample_id], domain.language))
        for sample in samples
    )
    truth = ((take_name, report.predicates) for take_name, report in scores.takes.items())
    return EgoExORScores(_summed(official), _summed(truth))


def surgery_type(take_name: str) -> str:
    """MISS or Ultrasound, as published."""
    return TYPES[0] if TYPES[0] in take_name else TYPES[1]


def official_report(sample: Sample, predicted: Iterable[Triplet], language: Language) -> Report:
    """What the published evaluator counts of a sample.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    known = {name: word for name, word in language.word_synonyms.items() if name not in _UNREAD}
    official = replace(language, word_synonyms=known)
    found = predicted_graph((Triplet(*map(str.lower, triplet)) for triplet in predicted), official)
    truth = true_graph(sample, language)
    entities = sorted(named_entities(found, official) - {-1}) if truth else []
    return predicate_report(truth, found, entities, language)


def _summed(reports: Iterable[tuple[str, Report]]) -> dict[str, Report]:
    """Those of each type of surgery that there are some of, and of all; each is told with the name of its take."""
    found: dict[str, Report] = {}
    for take_name, report in reports:
        kind = surgery_type(take_name)
        found[kind] = found[kind] + report if kind in found else report
    by_type = {kind: found[kind] for kind in TYPES if kind in found}
    return {**by_type, "all": reduce(add, by_type.values())}
