"""Which breaches of sterility predicted graphs tell, and why the others are missed."""

from __future__ import annotations

import pytest

from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.breach_recall import REASONS, breach_recall
from operating_room.scores.downstream_rules import our_rules

RULE = our_rules().sterility_breach
CUT = Triplet("head_surgeon", "patient", "cutting")
SUTURE = Triplet("head_surgeon", "patient", "suturing")
TABLE = Triplet("circulator", "instrument_table", "touching")
LEAN = Triplet("student", "patient", "touching")  # a breach once the patient is cut
AWAY = Triplet("circulator", "instrument_table", "closeTo")


def take(*graphs: tuple[Triplet, ...]) -> list[Sample]:
    return [Sample("001_PKA_MMOR", f"{second:06d}", graph) for second, graph in enumerate(graphs)]


def missed(truth: list[Sample], predicted: list[Sample]) -> dict[str, int]:
    return {reason: count for reason, count in breach_recall(truth, predicted, RULE).missed.items() if count}


def test_true_graphs_tell_all() -> None:
    truth = take((TABLE,), (CUT,), (LEAN,), ())
    found = breach_recall(truth, truth, RULE)
    assert (found.true, found.predicted, found.found) == (2, 2, 2)
    assert found.recall == found.precision == 1
    assert not any(found.missed.values())


def test_a_breach_without_the_person_the_contact_or_the_state() -> None:
    assert missed(take((TABLE,)), take(())) == {"person": 1}
    assert missed(take((TABLE,)), take((AWAY,))) == {"contact": 1}
    # The cut was not seen, so that the patient is not sterile when the student leans on them.
    assert missed(take((CUT,), (LEAN,)), take((), (LEAN,))) == {"state": 1}
    # Sutured too early: nothing is a breach any more.
    assert missed(take((CUT,), (), (TABLE,)), take((CUT,), (SUTURE,), (TABLE,))) == {"state": 1}


def test_another_predicate_or_direction_is_the_same_breach() -> None:
    found = breach_recall(take((TABLE,)), take((Triplet("instrument_table", "circulator", "holding"),)), RULE)
    assert (found.true, found.found) == (1, 1)


def test_what_is_no_breach_costs_precision() -> None:
    found = breach_recall(take((), (TABLE,)), take((TABLE,), (TABLE,)), RULE)
    assert (found.recall, found.precision) == (1, 0.5)
    assert str(found).startswith("pairs that break sterility: 1 of 1 found (recall 1.000), 1 of 2 predicted")


def test_a_take_does_not_know_of_another() -> None:
    other = [Sample("002_PKA_MMOR", "000000", (LEAN,))]
    assert breach_recall([*take((CUT,)), *other], [*take((CUT,)), *other], RULE).true == 0


def test_results_name_the_reasons() -> None:
    told = breach_recall(take((TABLE,)), take((AWAY,)), RULE).to_json()
    assert told["missed"] == {"person": 0, "contact": 1, "state": 0}
    assert told["reasons"].keys() == REASONS.keys()
    assert told["recall"] == pytest.approx(0)
