"""Similar samples: whose audio, robot screen, tracker or speech would fit a sample as well (mixed modalities).

Data specification, section 4.4. Samples are indexed by what decides similarity and equal ones are answered once;
nothing is compared pair by pair (fix 4 of section 11).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from random import Random

from operating_room.domain.domain import Domain
from operating_room.graphs.scene_graph import Sample, Triplet

MAX_DRAWN = 20

Group = tuple[str, frozenset[str]]  # what similar samples share: dataset, most distinctive predicates


class SimilarSamples:
    """Finds for each sample of a list the similar ones, as positions in that list.

    Two samples of one dataset are similar if they have the same most distinctive predicates and each of these holds for
    a common (subject, object) pair; samples without any predicate are similar to each other.
    """

    def __init__(self, samples: Sequence[Sample], domain: Domain) -> None:
        self._takes = [sample.take_name for sample in samples]
        self._telling = [_telling_triplets(sample, domain.language.levels) for sample in samples]
        datasets = {take: domain.find_take(take).dataset for take in set(self._takes)}
        self._groups = [
            (datasets[take], frozenset(predicate for _, _, predicate in telling))
            for take, telling in zip(self._takes, self._telling)
        ]
        self._members: defaultdict[Group, set[int]] = defaultdict(set)
        self._holders: defaultdict[tuple[Group, Triplet], set[int]] = defaultdict(set)
        for index, (group, telling) in enumerate(zip(self._groups, self._telling)):
            self._members[group].add(index)
            for triplet in telling:
                self._holders[group, triplet].add(index)
        self._answers: dict[tuple[Group, frozenset[Triplet]], dict[str, list[int]]] = {}

    def similar(self, index: int) -> list[int]:
        """All samples similar to the one at `index`, in the order of the list."""
        return sorted(chain.from_iterable(self._similar_by_take(index)))

    def draw(self, index: int, generator: Random) -> list[int]:
        """Similar samples, at most 20: of more, an equal share of each take, or all that a take has if that is less."""
        takes = self._similar_by_take(index)
        if sum(map(len, takes)) <= MAX_DRAWN:
            return sorted(chain.from_iterable(takes))
        share, remainder = divmod(MAX_DRAWN, len(takes))
        drawn: list[int] = []
        for place, similar in enumerate(takes):
            quota = share + (place < remainder)
            drawn += generator.sample(similar, min(quota, len(similar)))
        return drawn

    def _similar_by_take(self, index: int) -> list[list[int]]:
        """The similar samples of each take, takes in the order of their first similar sample."""
        take, key = self._takes[index], (self._groups[index], self._telling[index])
        if key not in self._answers:
            self._answers[key] = self._find(*key)
        by_take = self._answers[key]
        others = [other for other in by_take[take] if other != index]
        return sorted(similar for similar in {**by_take, take: others}.values() if similar)

    def _find(self, group: Group, telling: frozenset[Triplet]) -> dict[str, list[int]]:
        """The samples of each take that have these telling triplets or similar ones."""
        holders: defaultdict[str, set[int]] = defaultdict(set)
        for triplet in telling:
            holders[triplet.predicate] |= self._holders[group, triplet]
        by_take: defaultdict[str, list[int]] = defaultdict(list)
        for index in sorted(self._members[group].intersection(*holders.values())):
            by_take[self._takes[index]].append(index)
        return by_take


def _telling_triplets(sample: Sample, levels: Sequence[Sequence[str]]) -> frozenset[Triplet]:
    """The triplets whose predicates are of the most distinctive level that the sample has."""
    predicates = {predicate for _, _, predicate in sample.triplets}
    for level in levels:
        if telling := predicates.intersection(level):
            return frozenset(triplet for triplet in sample.triplets if triplet.predicate in telling)
    return frozenset()
