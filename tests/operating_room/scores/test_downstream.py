"""Downstream tasks: the sterility rule, labels, answers, scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.downstream import (
    breach_answers,
    load_labels,
    predicted_samples,
    score_downstream,
    time_errors,
)
from operating_room.scores.downstream_rules import our_rules
from operating_room.scores.sterility import find_breaches
from tests.operating_room.published import place

OUR_RULE = our_rules().sterility_breach
ROBOT_PHASES = mmor().task("robot_phase").classes
BREACH = mmor().task("sterility_breach")
TOUCH = Triplet("circulator", "instrument_table", "touching")
CUT = Triplet("head_surgeon", "patient", "cutting")
SUTURE = Triplet("assistant_surgeon", "patient", "suturing")
AT_PATIENT = Triplet("anaesthetist", "patient", "touching")


def samples(*frames: tuple[Triplet, ...], take: str = "001_PKA_MMOR") -> list[Sample]:
    return [Sample(take, f"{number:06d}", frame) for number, frame in enumerate(frames)]


def test_touching_across_the_border_is_a_breach_until_the_suture() -> None:
    graphs = [(TOUCH,), (), (TOUCH, SUTURE), (TOUCH,)]
    assert find_breaches(graphs, OUR_RULE) == [(TOUCH,), (), (), ()]


def test_patient_is_sterile_from_the_first_cut() -> None:
    surgeon = Triplet("nurse", "patient", "touching")
    assert find_breaches([(AT_PATIENT,), (CUT, AT_PATIENT), (surgeon,)], OUR_RULE) == [(), (AT_PATIENT,), ()]
    assert find_breaches([(AT_PATIENT, CUT)], OUR_RULE) == [()]  # file order within a frame


@pytest.mark.parametrize("key", ["sterile", "unsterile"])
def test_patient_counts_by_the_cut_alone(key: str) -> None:
    """Section 10: skip if the patient is involved and not sterile, whatever set a rule file has the patient in."""
    rule = replace(OUR_RULE, **{key: getattr(OUR_RULE, key) | {"patient"}})
    nurse = Triplet("nurse", "patient", "touching")
    graphs = [(nurse, AT_PATIENT), (CUT, nurse, AT_PATIENT)]
    assert find_breaches(graphs, rule) == [(), (AT_PATIENT,)]


def test_an_answer_of_many_digits_is_no_time() -> None:
    """The mean of all other answers stays a number."""
    task = mmor().task("next_action")
    told = samples((), ())
    answers = {told[0].sample_id: f"cut: {'9' * 400}", told[1].sample_id: "cut: 5"}
    labels = {"001_PKA": {sample.frame_id: ["cut", 3] for sample in told}}
    found = time_errors(task, told, answers, labels, mmor())
    assert (found["timepoints"], found["with_time"], found["mean_error"]) == (2, 1, 2.0)


def test_the_median_time_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found anew for each timepoint: minutes for those of all takes."""
    task, median, asked = mmor().task("next_action"), np.median, list[int]()

    def counted(values: list[float]) -> np.floating[Any]:
        asked.append(len(values))
        return median(values)

    told = samples(*[()] * 50)
    labels = {"001_PKA": {sample.frame_id: ["cut", place] for place, sample in enumerate(told)}}
    monkeypatch.setattr(np, "median", counted)
    found = time_errors(task, told, {sample.sample_id: "cut: 5" for sample in told}, labels, mmor())
    assert asked == [50, 50]
    assert found["mean_error_of_constant"] == 12.5  # 0 to 49 against 24.5


def test_things_in_no_set_and_other_predicates_are_no_breach() -> None:
    harmless = (
        Triplet("circulator", "instrument", "holding"),
        Triplet("mps", "mako_robot", "manipulating"),
        Triplet("circulator", "instrument_table", "closeTo"),
        Triplet("circulator", "nurse", "assisting"),
        Triplet("nurse", "instrument_table", "preparing"),
        Triplet("anaesthetist", "anesthesia_equipment", "manipulating"),
    )
    assert find_breaches([harmless], OUR_RULE) == [()]


def test_sets_can_be_chosen_and_takes_start_anew() -> None:
    sets = {"predicates": frozenset({"closeTo"}), "sterile": frozenset({"drape"}), "unsterile": frozenset({"c_arm"})}
    rule = replace(OUR_RULE, **sets)
    near = Triplet("c_arm", "drape", "closeTo")
    of_two_takes = [*samples((near,), (SUTURE,)), *samples((near, TOUCH), take="002_PKA_MMOR")]
    assert breach_answers(BREACH, of_two_takes, rule) == {
        "001_PKA_MMOR_000000": "yes",
        "001_PKA_MMOR_000001": "no",
        "002_PKA_MMOR_000000": "yes",
    }


def test_next_actions_are_read_up_to_the_colon() -> None:
    labels = {
        "001_PKA": {"000000": ["scan", 3], "000001": ["cut", 5], "000002": None, "000003": [], "000004": ["dance", 1]}
    }
    answers = dict(zip(_ids(5), ["Scan Patient: 3", "saw: 1: 2", "cut", " none </s>", "cut"], strict=True))
    scores = score_downstream(mmor().task("next_action"), samples(*[()] * 5), answers, labels, mmor())
    assert scores.overall.total == 3
    assert scores.overall.to_json()["scan"]["recall"] == 1
    assert scores.overall.to_json()["cut"]["recall"] == 0
    assert scores.overall.to_json()["none"]["recall"] == 1  # label []: answer none
    assert scores.unknown_labels == ["dance"]
    assert "dance" in str(scores)


def test_robot_phases_ignore_case_and_skip_004() -> None:
    stored = [phase.capitalize() for phase in ROBOT_PHASES]
    labels = {"001_PKA": dict(zip((f"{n:06d}" for n in range(9)), stored, strict=True)), "004_PKA": {}}
    answers = dict(zip(_ids(9), [f" {phase.upper()}</s>" for phase in ROBOT_PHASES], strict=True))
    frames = [*samples(*[()] * 9), *samples((), take="004_PKA_MMOR")]
    scores = score_downstream(mmor().task("robot_phase"), frames, answers, labels, mmor())
    assert list(scores.takes) == ["001_PKA"]
    assert scores.overall.to_json()["accuracy"] == 1
    published = score_downstream(mmor().task("robot_phase"), frames, answers, labels, mmor(), keep_end_token=True)
    assert published.overall.to_json()["micro avg"]["recall"] == 0


def test_breaches_are_scored_against_the_stored_lists() -> None:
    labels = {"001_PKA": {"000000": [["circulator", "instrument_table", "touching"]], "000001": []}}
    frames = samples((TOUCH,), (TOUCH,))
    scores = score_downstream(BREACH, frames, breach_answers(BREACH, frames, OUR_RULE), labels, mmor())
    assert scores.overall.confusion.tolist() == [[0, 1, 0], [0, 1, 0]]
    said = {"001_PKA_MMOR_000000": "Yes: circulator instrument_table touching", "001_PKA_MMOR_000001": "No"}
    assert score_downstream(BREACH, frames, said, labels, mmor()).overall.to_json()["accuracy"] == 1


def test_scores_as_json_list_all_classes() -> None:
    scores = score_downstream(
        mmor().task("next_action"),
        samples(()),
        {"001_PKA_MMOR_000000": "?"},
        {"001_PKA": {"000000": ["cut", 1]}},
        mmor(),
    )
    stored = json.loads(json.dumps(scores.to_json()))
    assert stored["overall"].keys() >= set(mmor().task("next_action").classes)
    assert stored["overall"]["micro avg"]["support"] == 1
    assert "macro avg" in stored["definitions"]


@pytest.mark.parametrize(
    ("task", "labels", "answers", "message"),
    [
        ("phase", {}, {}, "next_action, robot_phase, sterility_breach"),
        ("robot_phase", {}, {}, "needs a robot_phase label"),
        ("robot_phase", {"001_PKA": {"000000": 3}}, {}, "found '3'"),
        ("next_action", {"001_PKA": {"000000": "cut"}}, {}, "found 'cut'"),
        ("next_action", {"001_PKA": {"000000": ["cut", True]}}, {}, "found"),
        ("next_action", {"001_PKA": {"000000": ["cut", -1]}}, {}, "found"),
        ("next_action", {"001_PKA": {"000000": ["cut", 10**400]}}, {}, "found"),
        ("next_action", {"001_PKA": {"000000": ["cut", math.nan]}}, {}, "found"),
        ("next_action", {"001_PKA": {"000000": ["cut \ud800", 1]}}, {}, "found"),
        ("sterility_breach", {"001_PKA": {"000000": None}}, {}, "found 'None'"),
        ("robot_phase", {"001_PKA": {"000000": "Turn on"}}, {}, "has no answer"),
    ],
)
def test_mistakes_of_the_user_are_named(task: str, labels: Any, answers: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score_downstream(mmor().task(task), samples(()), answers, labels, mmor())


def test_predicted_graphs_come_sorted_with_underscores_only() -> None:
    predictions = {
        "002_PKA_MMOR_000001": [Triplet("Head Surgeon", "c arm", "close to")],
        "001_PKA_MMOR_000000": [],
    }
    assert predicted_samples(predictions) == [
        Sample("001_PKA_MMOR", "000000", ()),
        Sample("002_PKA_MMOR", "000001", (Triplet("Head_Surgeon", "c_arm", "close to"),)),
    ]


def test_label_files_are_read_by_take(tmp_path: Path) -> None:
    take = mmor().find_take("001_PKA_MMOR")
    path = place(tmp_path, "robot_phase", take)
    with pytest.raises(UserError, match=r"001_PKA\.json"):
        load_labels(tmp_path, [take], mmor().task("robot_phase"), mmor())
    path.parent.mkdir(parents=True)
    path.write_text('{"000000": "Turn on"}')
    assert load_labels(tmp_path, [take], mmor().task("robot_phase"), mmor()) == {"001_PKA": {"000000": "Turn on"}}
    path.write_text("[]")
    with pytest.raises(UserError, match="must map frame ids"):
        load_labels(tmp_path, [take], mmor().task("robot_phase"), mmor())


def _ids(count: int) -> list[str]:
    return [f"001_PKA_MMOR_{number:06d}" for number in range(count)]
