"""The scene-graph metric: predicates, binary interaction and entities, per take, per dataset and for all samples.

Data specification, section 6. Quirk 1 of section 11 is mirrored (see `DEFINITIONS`): numbers compare with the paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import permutations
from operator import add
from typing import Any

import numpy as np

from operating_room.domain.domain import Domain
from operating_room.domain.language import NONE, Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, normalise, true_relation
from operating_room.scores.reports import Report

DEFINITIONS = {
    "pairs": "ordered pairs of different entities of the true graph of a sample; what is predicted for other entities "
    "costs nothing, and a sample without true relations contributes nothing",
    "predicates": "of several triplets for one pair the first counts; a pair without triplet is `none`",
    "macro": "unweighted mean over the names with support, `none` included; the paper's Macro P/R/F1",
    "macro avg": "scikit-learn's mean over all names, 0 for names without support",
    "interaction": "whether a pair has any predicate",
    "entities": "whether each entity of the true graph occurs in any predicted triplet; invented entities do not count",
    "confusion": "of each true predicate, the pairs by what was predicted for them",
    "division": "0/0 is 0",
}
INTERACTIONS = ("no_interaction", "interaction")


@dataclass(frozen=True)
class GraphReport:
    """The scores of one take, one dataset or all samples."""

    samples: int
    predicates: Report  # over ordered pairs of entities; the last name is `none`
    entities: Report

    @cached_property
    def interaction(self) -> Report:
        """The predicate report with all predicates taken as one."""
        pairs = self.predicates.confusion[:, :-1]
        none, total = pairs[-1], pairs.sum()
        both_none, truly_none, said_none = none[-1], none.sum(), pairs[:, -1].sum()
        missed, invented = said_none - both_none, truly_none - both_none
        found = total - both_none - missed - invented
        return Report(INTERACTIONS, np.array([[both_none, invented, 0], [missed, found, 0]], np.int64))

    @property
    def macro_f1(self) -> float:
        """F1 averaged over the predicates with support, `none` included: the number of the paper."""
        return float(self.predicates.macro["f1-score"])

    def __add__(self, other: GraphReport) -> GraphReport:
        """The scores of both sets of samples pooled."""
        return GraphReport(
            self.samples + other.samples, self.predicates + other.predicates, self.entities + other.entities
        )

    def to_json(self) -> dict[str, Any]:
        """All scores as JSON values; the three reports as scikit-learn's dictionaries."""
        return {
            "samples": self.samples,
            "pairs": self.predicates.total,
            "macro": self.predicates.macro,
            "macro_over": self.predicates.supported,
            "predicates": self.predicates.to_json(),
            "confusion": self.predicates.confused,
            "interaction": self.interaction.to_json(),
            "entities": self.entities.to_json(),
        }


@dataclass(frozen=True)
class SceneGraphScores:
    """The result of `score`: print it, store `to_json()`, or read `.overall.macro_f1`."""

    takes: dict[str, GraphReport]  # by take name of the samples, 001_PKA_MMOR
    datasets: dict[str, GraphReport]  # 4DOR and MMOR, where there are samples
    overall: GraphReport

    def to_json(self) -> dict[str, Any]:
        """All scores with their definitions and support as JSON values."""
        return {
            "definitions": DEFINITIONS,
            "overall": self.overall.to_json(),
            "datasets": {name: report.to_json() for name, report in self.datasets.items()},
            "takes": {name: report.to_json() for name, report in self.takes.items()},
        }

    def __str__(self) -> str:
        overall = self.overall
        titles = ("Predicates of entity pairs", "Binary interaction of entity pairs", "Entities")
        reports = (overall.predicates, overall.interaction, overall.entities)
        blocks = [f"{title}, all takes\n\n{report.table()}" for title, report in zip(titles, reports)]
        if not overall.predicates.total:
            blocks.append("No pair of entities in the true graphs: nothing to score, all numbers are 0.\n")
        return "\n".join([*blocks, self._summary()])

    def _summary(self) -> str:
        """One line for each take and dataset and for all samples."""
        rows = {**self.takes, **self.datasets, "all": self.overall}
        width = max(map(len, rows))
        columns = ("samples", "pairs", "Macro P", "Macro R", "Macro F1", "macro avg F1", "interaction F1", "entity F1")
        lines = [" " * width + "".join(f"  {column}" for column in columns)]
        for name, report in rows.items():
            macro = report.predicates.macro
            f1s = (report.predicates.macro_all_names, report.interaction.macro, report.entities.macro)
            numbers = [macro["precision"], macro["recall"], macro["f1-score"], *(scores["f1-score"] for scores in f1s)]
            values = [str(report.samples), str(report.predicates.total), *(f"{number:.4f}" for number in numbers)]
            cells = (f"  {value:>{len(column)}}" for value, column in zip(values, columns))
            lines.append(f"{name:>{width}}" + "".join(cells))
        return "\n".join(lines) + "\n"


def score(samples: Sequence[Sample], predictions: Mapping[str, Iterable[Triplet]], domain: Domain) -> SceneGraphScores:
    """Compare predicted with true scene graphs.

    Args:
        samples: the truth.
        predictions: sample id -> predicted triplets as parsed (`scene_graph.parse`), in the order of the text; names
            are normalised here. Predictions for other samples are not looked at.
        domain: whose language and takes these are.

    Returns:
        Scores of each take, each dataset and all samples. Without any pair of entities in the truth the support is 0.

    Raises:
        UserError: there are no samples, one has no prediction, or the truth uses a name outside the vocabulary.
    """
    if not samples:
        raise UserError("there are no samples to score; check the split and the takes on disk")
    if missing := without_prediction(samples, predictions):
        raise UserError(missing)
    reports = (score_sample(sample, predictions[sample.sample_id], domain.language) for sample in samples)
    return summarise(samples, reports, domain)


def summarise(samples: Iterable[Sample], reports: Iterable[GraphReport], domain: Domain) -> SceneGraphScores:
    """The scores of each take, each dataset and all samples from those of each sample (`score_sample`).

    Of stretches of takes as well, each with one of its samples: a report takes some 10 kB, more than its answer.
    """
    takes: dict[str, GraphReport] = {}
    for sample, report in zip(samples, reports, strict=True):
        takes[sample.take_name] = takes[sample.take_name] + report if sample.take_name in takes else report
    by_dataset: dict[str, list[GraphReport]] = defaultdict(list)
    for name, report in takes.items():
        by_dataset[domain.find_take(name).dataset].append(report)
    datasets = {name: reduce(add, by_dataset[name]) for name in domain.datasets if name in by_dataset}
    return SceneGraphScores(takes, datasets, reduce(add, takes.values()))


def without_prediction(samples: Sequence[Sample], predictions: Collection[str]) -> str | None:
    """What to tell the user about samples that have no prediction; None if all have one."""
    missing = [sample.sample_id for sample in samples if sample.sample_id not in predictions]
    if not missing:
        return None
    others = ""
    if predictions and len(missing) == len(samples):
        others = f" (those that are there begin with {next(iter(predictions))!r})"
    return (
        f"{len(missing)} of {len(samples)} samples have no prediction, the first is {missing[0]}{others}; are these "
        "the predictions of this split? Predict all of its takes (an empty graph is a prediction), or score fewer "
        "takes (--take) or timepoints (--limit)"
    )


def notes_on_names(
    samples: Iterable[Sample], predictions: Mapping[str, Iterable[Triplet]], language: Language
) -> list[str]:
    """Predictions that cannot count, which a table of scores alone does not tell from a model that is wrong."""
    relations = [(sample.sample_id, triplet) for sample in samples for triplet in predictions[sample.sample_id]]
    predicates = {name.lower() for name in language.predicates}
    strange = [
        (sample_id, triplet)
        for sample_id, triplet in relations
        if (known := normalise(triplet, language)) is None or known.predicate not in predicates
    ]
    if not strange:
        return []
    (sample_id, (subject, object_, predicate)), count = strange[0], len(strange)
    return [
        f"{count} of {len(relations)} predicted relations do not count: they are not subject, predicate, object in the "
        f"names of the vocabulary; the first is {[subject, predicate, object_]} of {sample_id}"
    ]


def score_sample(sample: Sample, predicted: Iterable[Triplet], language: Language) -> GraphReport:
    """The scores of one sample; those of several are their sum.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    truth, found = true_graph(sample, language), predicted_graph(predicted, language)
    present, named = sorted(named_entities(truth, language)), named_entities(found, language)
    seen = [index if index in named else -1 for index in present]
    predicates = predicate_report(truth, found, present, language)
    return GraphReport(1, predicates, Report.from_labels(language.entities, present, seen))


def true_graph(sample: Sample, language: Language) -> list[Triplet]:
    """The truth of a sample in scoring names.

    Raises:
        UserError: it uses a name outside the vocabulary.
    """
    try:
        return [true_relation(triplet, language) for triplet in sample.triplets]
    except UserError as error:
        raise UserError(f"sample {sample.sample_id}: {error}") from error


def predicted_graph(triplets: Iterable[Triplet], language: Language) -> list[Triplet]:
    """What was predicted in scoring names; triplets with a name outside the vocabulary are left out."""
    return [known for triplet in triplets if (known := normalise(triplet, language)) is not None]


def predicate_report(
    truth: Iterable[Triplet], found: Iterable[Triplet], entities: Iterable[int], language: Language
) -> Report:
    """Over the ordered pairs of different ones of these entities (indices)."""
    pairs, none = list(permutations(entities, 2)), language.predicate_index[NONE]
    true_predicates, found_predicates = _first_predicates(truth, language), _first_predicates(found, language)
    return Report.from_labels(
        language.scored_predicates,
        [true_predicates.get(pair, none) for pair in pairs],
        [found_predicates.get(pair, none) for pair in pairs],
    )


def named_entities(triplets: Iterable[Triplet], language: Language) -> set[int]:
    """Indices of the entities in the triplets; -1 stands for a predicate in the place of an entity."""
    return {language.entity_index.get(name, -1) for triplet in triplets for name in (triplet.subject, triplet.object)}


def _first_predicates(triplets: Iterable[Triplet], language: Language) -> dict[tuple[int, int], int]:
    """Predicate of each ordered pair of entities; the first one counts, an entity in its place is `none`."""
    entities, predicates = language.entity_index, language.predicate_index
    first: dict[tuple[int, int], int] = {}
    for subject, object_, predicate in triplets:
        pair = entities.get(subject, -1), entities.get(object_, -1)
        first.setdefault(pair, predicates.get(predicate, predicates[NONE]))
    return first
