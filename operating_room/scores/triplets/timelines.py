"""Triplets along the time of a take: which timepoints have one, and the intervals that these make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

from operating_room.domain.domain import Domain
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, by_take
from operating_room.recordings.dataset import Dataset
from operating_room.scores.scoring import predicted_graph, true_graph

DEFINITION = (
    "timepoints of a take in a row in which a triplet is true (or predicted), in scoring names; a gap between the "
    "scored timepoints that is longer than one and a half times their usual distance (the median) ends it"
)


class Interval(NamedTuple):
    """Timepoints in a row, as places among the scored timepoints of a take; `end` is the first one behind it."""

    start: int
    end: int


@dataclass(frozen=True)
class Timeline:
    """The scored timepoints of one take in the order of time, with their graphs in scoring names."""

    take_name: str
    seconds: tuple[float, ...]  # s since the take began
    follows: tuple[bool, ...]  # whether a timepoint comes right after the one before it
    truth: tuple[frozenset[Triplet], ...]
    predicted: tuple[frozenset[Triplet], ...]  # those that have an entity, an entity and a predicate in their places

    def true_intervals(self) -> dict[Triplet, list[Interval]]:
        """Of each true triplet, in the order of time."""
        return intervals(self.truth, self.follows)

    def predicted_intervals(self) -> dict[Triplet, list[Interval]]:
        """Of each predicted triplet, in the order of time."""
        return intervals(self.predicted, self.follows)


def timelines(
    samples: Sequence[Sample],
    predictions: Mapping[str, Iterable[Triplet]],
    domain: Domain,
    times: Mapping[str, float] | None = None,
) -> list[Timeline]:
    """One for each take.

    Args:
        samples: the truth.
        predictions: sample id -> predicted triplets as parsed.
        domain: whose language and takes these are.
        times: sample id -> s since the take began, as its index says; of takes without, timepoints follow each other
            as the domain says.

    Raises:
        UserError: the truth uses a name outside the vocabulary.
    """
    language, found, clock = domain.language, [], clock_of(samples, domain, times)
    for take_name, of_take in by_take(samples).items():
        seconds = tuple(clock[sample.sample_id] for sample in of_take)
        # In seconds, since positions go on behind a pause of the recording.
        steps = [after - before for before, after in pairwise(seconds)]
        longest = 1.5 * median_low(steps) if steps else 0.0  # clocks are not exact
        found.append(
            Timeline(
                take_name,
                seconds,
                (False, *(step <= longest for step in steps)),
                tuple(frozenset(true_graph(sample, language)) for sample in of_take),
                tuple(proper(predictions[sample.sample_id], language) for sample in of_take),
            )
        )
    return found


def proper(triplets: Iterable[Triplet], language: Language) -> frozenset[Triplet]:
    """Predicted triplets in scoring names: two entities and a predicate, each in its place; others are left out."""
    return frozenset(
        triplet
        for triplet in predicted_graph(triplets, language)
        if triplet.subject in language.entity_index
        and triplet.object in language.entity_index
        and triplet.predicate in language.predicate_index
    )


def intervals(graphs: Sequence[Iterable[Triplet]], follows: Sequence[bool]) -> dict[Triplet, list[Interval]]:
    """The intervals of each triplet, in the order of time."""
    found: defaultdict[Triplet, list[Interval]] = defaultdict(list)
    for place, graph in enumerate(graphs):
        for triplet in graph:
            of_triplet = found[triplet]
            if of_triplet and of_triplet[-1].end == place and follows[place]:
                of_triplet[-1] = Interval(of_triplet[-1].start, place + 1)
            else:
                of_triplet.append(Interval(place, place + 1))
    return dict(found)


def times_of(dataset: Dataset, samples: Iterable[Sample]) -> dict[str, float]:
    """Sample id -> s since its take began; nothing of takes that are not on disk or whose index cannot be read.

    Raises:
        UserError: the name of a take is none.
    """
    found: dict[str, float] = {}
    for name, of_take in by_take(samples).items():
        take = dataset.domain.find_take(name)
        try:
            recorded = dataset.take(take)
            times = [recorded.at(element.time) for element in recorded.index]
            found |= {s.sample_id: times[s.position] for s in of_take if s.position < len(times)}
        except UserError:  # whoever needs the recording itself tells what is wrong with it
            continue
    return found


def clock_of(samples: Iterable[Sample], domain: Domain, times: Mapping[str, float] | None = None) -> dict[str, float]:
    """Sample id -> s since its take began: as told, or as usual in the domain for all of a take of which some are not.

    Raises:
        UserError: the name of a take is none.
    """
    clock: dict[str, float] = {}
    for take_name, of_take in by_take(samples).items():
        known = {s.sample_id: at for s in of_take if (at := (times or {}).get(s.sample_id)) is not None}
        if len(known) < len(of_take):
            period = domain.collection(domain.find_take(take_name)).period
            known = {s.sample_id: place * period for s, place in zip(of_take, _positions(of_take), strict=True)}
        clock |= known
    return clock


def _positions(samples: Sequence[Sample]) -> list[int]:
    """In the take's index; frame ids that are no numbers are taken to follow each other."""
    try:
        return [sample.position for sample in samples]
    except UserError:
        return list(range(len(samples)))
