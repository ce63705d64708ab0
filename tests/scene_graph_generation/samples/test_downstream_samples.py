"""Training records of the downstream tasks: questions, answers, memory."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet
from scene_graph_generation.samples.downstream_samples import downstream_file_name, downstream_records, graph_records

GRAPHS = [
    (Triplet("head_surgeon", "patient", "cutting"), Triplet("head_surgeon", "saw", "holding")),
    (Triplet("head_surgeon", "patient", "cutting"),),
    (),
]
SAMPLES = [Sample("001_PKA_MMOR", f"{i:06d}", graph) for i, graph in enumerate(GRAPHS)]
FRAMES = [sample.frame_id for sample in SAMPLES]
BREACHES = [["circulator", "drill", "touching"], ["mps", "patient", "touching"]]


def labels(**changed: Any) -> dict[str, dict[str, Any]]:
    of_take = {
        "next_action": dict(zip(FRAMES, [["cut", 7], None, None])),
        "robot_phase": dict.fromkeys(FRAMES, "Turn on"),
        "sterility_breach": dict(zip(FRAMES, [BREACHES, [], []])),
    }
    return {task: {"001_PKA": {**of_task, **changed.get(task, {})}} for task, of_task in of_take.items()}


def question(record: dict[str, Any]) -> str:
    return record["conversations"][0]["value"]


def test_answers() -> None:
    records = list(downstream_records(SAMPLES, labels(), mmor(), Random(0), per_timepoint=40))
    assert len(records) == 40 * len(SAMPLES)
    answers = Counter((record["timepoint"], record["conversations"][1]["value"]) for record in records)
    assert answers.keys() >= {
        (0, "cut: 7"),
        (0, "Turn on"),
        (0, "Yes: circulator drill touching; mps patient touching"),
        (1, "none"),
    }
    assert sum(count for (_, answer), count in answers.items() if answer == "No") < 6  # breaches are asked for if any
    assert "<memory_start>: None" in {question(record).partition("<memory_end>")[0] for record in records}


def test_memory_is_spelled_like_the_graph_or_as_published() -> None:
    for published, expected in ((False, "head surgeon,saw,not holding"), (True, "head_surgeon,holding,not saw")):
        *_, last = downstream_records(
            SAMPLES, labels(), mmor(), Random(0), 1, augment_memory=False, published_memory=published
        )
        assert expected in question(last)


def test_file_names_tell_the_memory() -> None:
    published = "downstream_task_train_Truetempaug_drophistory0.5.json"
    assert downstream_file_name("train", published_memory=True) == published
    assert downstream_file_name("train") == published.replace(".json", "_correctedmemory.json")


def test_an_empty_next_action_is_none() -> None:
    """As in scoring (section 11, fix 6)."""
    records = list(downstream_records(SAMPLES, labels(next_action={"000000": []}), mmor(), Random(0), 40))
    assert ("000000", "none") in {(r["id"][-6:], r["conversations"][1]["value"]) for r in records}


def test_a_take_without_phases_is_not_asked_for_them() -> None:
    """Fault 31: the test split holds 004_PKA, whose phases are not scored, and no sample was written of any take."""
    samples = [Sample("004_PKA_MMOR", sample.frame_id, sample.triplets) for sample in SAMPLES]
    known = {task: {"004_PKA": of_take["001_PKA"]} for task, of_take in labels().items()}
    known["robot_phase"]["004_PKA"] = {}
    records = list(downstream_records([*samples, *SAMPLES], merge(known, labels()), mmor(), Random(0), 40))
    asked = {(r["id"][:7], question(r).partition("predict the ")[2].partition(".")[0]) for r in records}
    tasks = {"next action", "robot phase", "sterility breach"}
    assert asked == {("004_PKA", task) for task in tasks - {"robot phase"}} | {("001_PKA", task) for task in tasks}


def merge(*several: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {task: {take: of for one in several for take, of in one[task].items()} for task in several[0]}


def test_mmor_takes_with_labels_only() -> None:
    others = [Sample("001_4DOR", "000000", GRAPHS[0]), Sample("003_TKA_MMOR", "000000", GRAPHS[0])]
    assert not list(downstream_records(others, labels(), mmor(), Random(0)))


@pytest.mark.parametrize("label", [["cut"], 3, "x"])
def test_damaged_label_is_named(label: object) -> None:
    with pytest.raises(UserError, match="001_PKA_MMOR_000000: downstream labels"):
        list(downstream_records(SAMPLES, labels(next_action={"000000": label}), mmor(), Random(0)))


def test_graphs_in_list_form() -> None:
    assert graph_records(SAMPLES[1:2]) == [
        {
            "take_name": "001_PKA_MMOR",
            "frame_id": "000001",
            "sample_id": "001_PKA_MMOR_000001",
            "timepoint_idx": 1,
            "scene_graph": [["head_surgeon", "patient", "cutting"]],
        }
    ]


def test_names_that_nobody_could_score_are_not_asked_about() -> None:
    wrong = Sample("001_PKA_MMOR", "000002", (Triplet("head_surgeon", "patient", "cuting"),))
    with pytest.raises(UserError, match=r"sample 001_PKA_MMOR_000002: .*'cuting' is no predicate"):
        list(downstream_records([*SAMPLES[:2], wrong], labels(), mmor(), Random(0)))


def test_a_misspelt_name_costs_its_take_alone() -> None:
    wrong = Sample("002_PKA_MMOR", "000000", (Triplet("head_surgeon", "patient", "cuting"),))
    other = {task: {"002_PKA": of["001_PKA"]} for task, of in labels().items()}
    told: list[str] = []
    made = downstream_records([*SAMPLES, wrong], merge(labels(), other), mmor(), Random(0), left_out=told)
    assert {record["id"].partition("_MMOR")[0] for record in made} == {"001_PKA"}
    assert len(told) == 1
    assert "002_PKA_MMOR is left out: sample 002_PKA_MMOR_000000: " in told[0]
