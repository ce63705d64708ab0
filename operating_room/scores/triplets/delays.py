"""How late a predicate is noticed: from the first true second of a triplet to the first predicted one."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from operating_room.scores.triplets.timelines import Interval, Timeline

BEFORE = 5.0  # s
DEFINITIONS = {
    "delays": f"of each true interval of a triplet: seconds from its first timepoint to the first one that has the "
    f"same triplet predicted, looked for from {BEFORE:.0f} s before it (but behind the true interval before it) to its "
    "end; negative is early, and what was predicted all along counts as that early; an interval without any is "
    "`missed`; seconds are those of the take's index, or without it positions times the domain's distance of "
    "timepoints (1 s in MM-OR and 4D-OR)",
    "delays_unknown": "intervals that are there at the first scored timepoint, or behind a gap, have no known onset "
    "and are only counted",
}


@dataclass(frozen=True)
class Delays:
    """Onset delays of one predicate, or of all."""

    found: tuple[float, ...] = ()  # s
    missed: int = 0
    unknown: int = 0

    def __add__(self, other: Delays) -> Delays:
        """Both sets of intervals pooled."""
        return Delays((*self.found, *other.found), self.missed + other.missed, self.unknown + other.unknown)

    @property
    def quartiles(self) -> tuple[float, float, float] | None:
        """First quartile, median, third quartile in s; None where nothing was found."""
        if not self.found:
            return None
        first, median, third = np.percentile(self.found, (25, 50, 75))
        return float(first), float(median), float(third)

    def to_json(self) -> dict[str, float | int | None]:
        """In s."""
        first, median, third = self.quartiles or (None, None, None)
        counts = {"found": len(self.found), "missed": self.missed, "unknown": self.unknown}
        return {"median": median, "first_quartile": first, "third_quartile": third, **counts}


def onset_delays(takes: Iterable[Timeline]) -> dict[str, Delays]:
    """Predicate in scoring names -> delays of its true intervals."""
    by_predicate: defaultdict[str, Delays] = defaultdict(Delays)
    for take in takes:
        predicted = take.predicted_intervals()
        for triplet, true in take.true_intervals().items():
            by_predicate[triplet.predicate] += _of_triplet(take, true, predicted.get(triplet, ()))
    return dict(by_predicate)


def _of_triplet(take: Timeline, true: Sequence[Interval], predicted: Sequence[Interval]) -> Delays:
    """Those of the true intervals of a triplet; both kinds in the order of time and each behind the one before it."""
    found: list[float] = []
    earliest = missed = unknown = 0
    ends = [interval.end for interval in predicted]
    for interval in true:
        begin = take.seconds[interval.start]
        if not take.follows[interval.start]:
            unknown += 1
        else:
            start = interval.start
            while start > earliest and take.follows[start] and begin - take.seconds[start - 1] <= BEFORE:
                start -= 1
            place = bisect_right(ends, start)  # the first one that is not over by then
            if place < len(predicted) and predicted[place].start < interval.end:
                found.append(take.seconds[max(predicted[place].start, start)] - begin)
            else:
                missed += 1
        earliest = interval.end
    return Delays(tuple(found), missed, unknown)
