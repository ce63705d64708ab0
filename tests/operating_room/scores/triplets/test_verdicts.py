"""Which triplets of a second are right, missed or wrong."""

from __future__ import annotations

from operating_room.domain.domain import mmor
from operating_room.graphs.scene_graph import Triplet
from operating_room.scores.triplets.verdicts import compare_graphs


def test_triplets_are_right_missed_or_wrong() -> None:
    truth = [Triplet("nurse", "drill", "holding"), Triplet("nurse", "patient", "closeTo")]
    predicted = [Triplet("nurse", "drill", "holding"), Triplet("nurse", "saw", "holding"), Triplet("x", "y", "z")]
    assert compare_graphs(truth, predicted, mmor().language) == [
        ("nurse", "drill", "holding", "right"),
        ("nurse", "patient", "closeTo", "missed"),
        ("nurse", "saw", "holding", "wrong"),
    ]
