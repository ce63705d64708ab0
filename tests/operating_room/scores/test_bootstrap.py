"""Intervals of scores."""

from __future__ import annotations

import numpy as np

from operating_room.scores.bootstrap import BLOCK, block_sums, difference_intervals, intervals
from operating_room.scores.reports import Report

NAMES = ("a", "b", "never")


def confusions(truth: list[int], predicted: list[int]) -> np.ndarray:
    return np.stack([Report.from_labels(NAMES, [t], [p]).confusion for t, p in zip(truth, predicted)])


def test_blocks_do_not_cross_takes() -> None:
    takes = ["x"] * (BLOCK + 1) + ["y"] * 2
    blocks = block_sums(takes, confusions([0] * len(takes), [0] * len(takes)))
    assert blocks.sum(axis=(1, 2)).tolist() == [BLOCK, 1, 2]


def test_interval_holds_the_score_and_leaves_out_what_never_occurs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40 * BLOCK)
    predicted = np.where(rng.random(len(truth)) < 0.8, truth, 1 - truth)
    blocks = block_sums(["x"] * len(truth), confusions(truth.tolist(), predicted.tolist()))
    found = intervals(NAMES, blocks)
    low, high = found["accuracy"]
    assert low < (truth == predicted).mean() < high
    assert high - low < 0.1
    assert "never" not in found


def test_difference_of_the_same_is_nothing_and_of_better_is_above_nothing() -> None:
    truth = [0, 1] * (5 * BLOCK)
    right, wrong = (block_sums(["x"] * len(truth), confusions(truth, said)) for said in (truth, [0] * len(truth)))
    assert difference_intervals(NAMES, right, right)["accuracy"] == (0, 0)
    assert difference_intervals(NAMES, wrong, right)["macro f1-score"][0] > 0


def test_nothing_has_no_intervals() -> None:
    assert intervals(NAMES, block_sums([], confusions([0], [0])[:0])) == {}
