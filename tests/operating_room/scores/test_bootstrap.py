"""Intervals of scores."""

from __future__ import annotations

import random

import numpy as np
import pytest

from operating_room.graphs.scene_graph import Sample
from operating_room.scores.bootstrap import BLOCK, block_sums, describe, difference_intervals, intervals
from operating_room.scores.reports import Report

NAMES = ("a", "b", "never")


def confusions(truth: list[int], predicted: list[int]) -> np.ndarray:
    return np.stack([Report.from_labels(NAMES, [t], [p]).confusion for t, p in zip(truth, predicted)])


def seconds(count: int, take: str = "x") -> list[Sample]:
    return [Sample(take, f"{i:06d}", ()) for i in range(count)]


def test_blocks_do_not_cross_takes() -> None:
    samples = seconds(BLOCK + 1) + seconds(2, "y")
    blocks = block_sums(samples, confusions([0] * len(samples), [0] * len(samples)))
    assert blocks.sum(axis=(1, 2)).tolist() == [BLOCK, 1, 2]


@pytest.mark.parametrize(("rate", "blocks"), [(1, 20), (15, 2)])
def test_blocks_last_as_long_at_any_rate(rate: int, blocks: int) -> None:
    """Blocks of 30 of EgoExOR's frames were 2 s, so that intervals were far too narrow."""
    samples = seconds(600)
    times = {sample.sample_id: place / rate for place, sample in enumerate(samples)}
    sums = block_sums(samples, np.ones((600, 1, 2), np.int64), times)
    assert len(sums) == blocks
    assert sums.sum() == 1200


def test_blocks_are_stretches_of_time_however_the_samples_stand() -> None:
    samples = seconds(3 * BLOCK) + seconds(3 * BLOCK, "y")
    truth = [i // BLOCK % 2 for i in range(len(samples))]
    order = list(range(1, len(samples)))
    random.Random(0).shuffle(order)
    order = [0, *order]  # the first take stays the first
    counts = confusions(truth, [0] * len(truth))
    shuffled = block_sums([samples[i] for i in order], counts[order])
    assert shuffled.tolist() == block_sums(samples, counts).tolist()


def test_interval_holds_the_score_and_leaves_out_what_never_occurs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40 * BLOCK)
    predicted = np.where(rng.random(len(truth)) < 0.8, truth, 1 - truth)
    blocks = block_sums(seconds(len(truth)), confusions(truth.tolist(), predicted.tolist()))
    found = intervals(NAMES, blocks)
    low, high = found["accuracy"]
    assert low < (truth == predicted).mean() < high
    assert high - low < 0.1
    assert "never" not in found


def test_difference_of_the_same_is_nothing_and_of_better_is_above_nothing() -> None:
    truth = [0, 1] * (5 * BLOCK)
    right, wrong = (block_sums(seconds(len(truth)), confusions(truth, said)) for said in (truth, [0] * len(truth)))
    assert difference_intervals(NAMES, right, right)["accuracy"] == (0, 0)
    assert difference_intervals(NAMES, wrong, right)["macro f1-score"][0] > 0


def test_nothing_has_no_intervals_and_a_single_block_neither() -> None:
    assert intervals(NAMES, block_sums([], confusions([0], [0])[:0])) == {}
    truth = [0, 1] * (BLOCK // 2)
    for count, known in ((BLOCK, False), (BLOCK + 1, True)):
        judged = confusions([*truth, 0][:count], [0] * count)
        found = intervals(NAMES, block_sums(seconds(count), judged))
        assert bool(found) == known
        assert ("no interval" in describe(found, "accuracy")) != known
