"""Segment scores: triplets as intervals, as segmental F1@k of action segmentation (Lea et al., CVPR 2017)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from operating_room.scores.triplets.timelines import Interval, Timeline

OVERLAPS = (10, 25, 50)  # percent
DEFINITIONS = {
    "segments": "triplets as intervals: a predicted interval is right if its IoU over time with the true interval of "
    "the same triplet and take that it overlaps most reaches 10, 25 or 50 %, and no earlier one has taken that; F1@k "
    "= 2 right / (predicted + true) intervals (segmental F1@k, Lea et al. 2017; a second that flickers costs an "
    "interval)",
    "segments_overall": "`all` pools the intervals of all predicates; `macro` is the mean over the predicates with "
    "true intervals",
}


@dataclass(frozen=True)
class Segments:
    """Intervals of one predicate, or of all."""

    true: int = 0
    predicted: int = 0
    right: tuple[int, ...] = (0,) * len(OVERLAPS)  # at each overlap

    def __add__(self, other: Segments) -> Segments:
        """Both sets of intervals pooled."""
        right = tuple(a + b for a, b in zip(self.right, other.right))
        return Segments(self.true + other.true, self.predicted + other.predicted, right)

    @property
    def f1(self) -> dict[str, float]:
        """By overlap, 0..1; 0 where there is no interval."""
        total = self.true + self.predicted
        return {f"f1@{overlap}": 2 * right / total if total else 0.0 for overlap, right in zip(OVERLAPS, self.right)}

    def to_json(self) -> dict[str, float | int]:
        """Scores and how many intervals are behind them."""
        return {**self.f1, "true": self.true, "predicted": self.predicted}


def segment_scores(takes: Iterable[Timeline]) -> dict[str, Segments]:
    """Predicate in scoring names -> its segments."""
    by_predicate: defaultdict[str, Segments] = defaultdict(Segments)
    for take in takes:
        true, predicted = take.true_intervals(), take.predicted_intervals()
        for triplet in true.keys() | predicted.keys():
            by_predicate[triplet.predicate] += match(true.get(triplet, ()), predicted.get(triplet, ()))
    return dict(by_predicate)


def match(true: Sequence[Interval], predicted: Sequence[Interval]) -> Segments:
    """The intervals of one triplet in one take, both in the order of time and each behind the one before it."""
    taken: list[set[int]] = [set() for _ in OVERLAPS]
    starts, ends = [interval.start for interval in true], [interval.end for interval in true]
    for interval in predicted:
        # Only those that it overlaps: a triplet that flickers has thousands of both.
        near = range(bisect_right(ends, interval.start), bisect_left(starts, interval.end))
        best, place = max(((overlap(interval, true[place]), -place) for place in near), default=(0.0, 0))
        for threshold, used in zip(OVERLAPS, taken):
            if 100 * best >= threshold:
                used.add(place)
    return Segments(len(true), len(predicted), tuple(map(len, taken)))


def overlap(first: Interval, second: Interval) -> float:
    """Intersection over union of two intervals, in timepoints."""
    shared = min(first.end, second.end) - max(first.start, second.start)
    return max(shared, 0) / (max(first.end, second.end) - min(first.start, second.start))
