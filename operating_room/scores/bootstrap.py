"""How much of a score is chance: bootstrap over blocks of timepoints, for one evaluation or for two in comparison.

Timepoints a second apart are nearly the same picture, so single timepoints would give intervals that are far too
narrow: stretches of `BLOCK` timepoints are drawn instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from operating_room.graphs.scene_graph import Sample, by_take
from operating_room.scores.reports import Report

BLOCK = 30  # timepoints of one take that are drawn together, and s that they last at least
RESAMPLES = 1000
LEVEL = 95  # percent
# What an interval of a difference says, and what it does not (docs/eyes.md, "Memory and speech").
OF_WHAT = "by what was recorded; two trainings that differ in nothing but their seed may differ by more"
SEED = 0
DEFINITION = (
    f"{LEVEL} % percentile bootstrap, {RESAMPLES} resamples (numpy, seed {SEED}) of blocks of {BLOCK} timepoints in "
    f"a row (more where these are less than {BLOCK} s), "
    "drawn with replacement from the blocks of all takes; a resample without a class leaves this class out. "
    "It tells how much depends on the recorded timepoints, not what another hospital, or another training, would give"
)

Interval = tuple[float, float]


def statistics(report: Report) -> dict[str, float]:
    """The numbers that get an interval: accuracy, macro scores and the F1 of each class; NaN without support."""
    macro = report.macro if report.total else {}
    averages = {f"macro {name}": macro.get(name, np.nan) for name in ("precision", "recall", "f1-score")}
    classes = {
        name: float(f1) if support else np.nan for name, f1, support in zip(report.names, report.f1, report.support)
    }
    return {**averages, "accuracy": report.accuracy if report.total else np.nan, **classes}


def blocks_of(samples: Sequence[Sample], times: Mapping[str, float] | None = None) -> list[list[Sample]]:
    """The samples in blocks, each of one take in the order of time, however the samples stand.

    `times` are s since the take began by sample id; of samples without, timepoints are taken to be a second apart.
    """
    found: list[list[Sample]] = []
    for of_take in by_take(samples).values():
        ends = (*_starts(of_take, times or {}), len(of_take))
        found += [of_take[start:end] for start, end in pairwise(ends)]
    return found


def block_sums(
    samples: Sequence[Sample],
    confusions: Int64[np.ndarray, "samples names predicted"],
    times: Mapping[str, float] | None = None,
) -> Int64[np.ndarray, "blocks names predicted"]:
    """Confusions of samples summed over blocks (`blocks_of`)."""
    rows = {sample.sample_id: row for row, sample in enumerate(samples)}
    sums = [confusions[[rows[sample.sample_id] for sample in block]].sum(axis=0) for block in blocks_of(samples, times)]
    return np.stack(sums) if sums else confusions


def _starts(samples: Sequence[Sample], times: Mapping[str, float]) -> list[int]:
    """Where the blocks of a take begin."""
    starts = [0]
    for place, sample in enumerate(samples):
        begin, now = (times.get(of_it.sample_id) for of_it in (samples[starts[-1]], sample))
        lasts = begin is None or now is None or now - begin > BLOCK - 1e-6  # 1/15 s is not exact
        if lasts and place - starts[-1] >= BLOCK:
            starts.append(place)
    return starts


def intervals(names: Sequence[str], blocks: Int64[np.ndarray, "blocks names predicted"]) -> dict[str, Interval]:
    """The interval of each of `statistics` that has support; of a single block none, as every draw is the same."""
    if len(blocks) < 2:
        return {}
    return _percentiles(tuple(names), _resampled(tuple(names), blocks))


def difference_intervals(
    names: Sequence[str],
    first: Int64[np.ndarray, "blocks names predicted"],
    second: Int64[np.ndarray, "blocks names predicted"],
) -> dict[str, Interval]:
    """Intervals of second minus first, both scored on the same samples: the same blocks are drawn for both."""
    return _percentiles(tuple(names), _resampled(tuple(names), second) - _resampled(tuple(names), first))


def draws(blocks: int) -> Int64[np.ndarray, "resamples blocks"]:
    """How often each block is in each resample."""
    return np.random.default_rng(SEED).multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)


def percentiles(values: Float64[np.ndarray, " resamples"]) -> Interval | None:
    """The interval of one number over the resamples that have it (the others are NaN); None if none has."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(known, (tail, 100 - tail))
    return float(low), float(high)


def describe(intervals: Mapping[str, Interval], name: str) -> str:
    """`[0.123, 0.456]` and what it is, or that there is none."""
    blocks = f"blocks of {BLOCK} timepoints"
    if name not in intervals:
        return f"(no interval: it takes several {blocks})"
    return "[{:.3f}, {:.3f}]".format(*intervals[name]) + f" ({LEVEL} % bootstrap over {blocks})"


def _resampled(
    names: tuple[str, ...], blocks: Int64[np.ndarray, "blocks names predicted"]
) -> Float64[np.ndarray, "resamples statistics"]:
    count = len(blocks)
    if not count:
        return np.full((1, len(names) + 4), np.nan)
    sums = np.tensordot(draws(count), blocks, axes=1)
    return np.array([list(statistics(Report(names, confusion)).values()) for confusion in sums])


def _percentiles(names: tuple[str, ...], values: Float64[np.ndarray, "resamples statistics"]) -> dict[str, Interval]:
    labels = statistics(Report.from_labels(names, [], []))
    found = {label: percentiles(column) for label, column in zip(labels, values.T)}
    return {label: interval for label, interval in found.items() if interval is not None}
