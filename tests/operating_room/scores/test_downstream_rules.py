"""Labels that are derived from scene graphs, and the file that holds the rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.raw_labels import read_labels
from operating_room.scores.downstream import label_file
from operating_room.scores.downstream_rules import (
    OUR_FILE,
    collect_labels,
    derive_labels,
    load_rules,
    next_actions,
    our_rules,
    robot_phases,
)
from operating_room_simulator.writer import synthesize
from tests.operating_room.tiny_dataset import MMOR_NAME, write_dataset, write_mmor

LYING = Triplet("patient", "operating_table", "lyingOn")


def test_next_action_is_the_next_start_and_pauses_do_not_count() -> None:
    saw = Triplet("head_surgeon", "patient", "sawing")
    graphs = [[], [LYING], [LYING, saw], [LYING], [LYING, saw], [LYING], []]
    assert next_actions(graphs, our_rules().next_action) == [
        ("bring in", 1),
        ("saw", 1),
        ("bring out", 4),
        ("bring out", 3),
        ("bring out", 2),
        ("bring out", 1),
        None,
    ]


def test_phases_come_in_order_and_last_until_the_next() -> None:
    calibrating = Triplet("mps", "mako_robot", "calibrating")
    dressing = Triplet("nurse", "mako_robot", "manipulating")
    saw = Triplet("nurse", "saw", "holding")
    phases = our_rules().robot_phase
    assert [phase for phase, _ in phases] == list(mmor().task("robot_phase").spellings)
    graphs = [[], [dressing, saw], [calibrating], [], [dressing, saw], [dressing, saw]]
    assert robot_phases(graphs, phases) == [mmor().task("robot_phase").spellings[i] for i in (0, 0, 1, 1, 2, 3)]


def test_derived_labels_have_the_form_of_the_dataset() -> None:
    touch = Triplet("circulator", "instrument_table", "touching")
    labels = derive_labels(
        [Sample("001_PKA_MMOR", f"{i:06d}", graph) for i, graph in enumerate([(touch,), (LYING,)])],
        our_rules(),
        [0, 1],
        mmor().tasks,
    )
    assert labels == {
        "next_action": {"000000": ["bring in", 1], "000001": ["bring out", 1]},
        "robot_phase": dict.fromkeys(("000000", "000001"), mmor().task("robot_phase").spellings[0]),
        "sterility_breach": {"000000": [list(touch)], "000001": []},
    }


def test_seconds_are_those_of_the_clock_and_not_places_in_the_index() -> None:
    samples = [Sample("001_PKA_MMOR", f"{i:06d}", graph) for i, graph in enumerate([(), (), (LYING,), (LYING,)])]
    for times, until in (([0, 1, 2, 3], [2, 1]), ([10, 40, 47, 48], [37, 7])):
        labels = derive_labels(samples, our_rules(), times, mmor().tasks)["next_action"]
        assert [labels["000000"], labels["000001"]] == [["bring in", seconds] for seconds in until]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[mps, mako_robot, calibrating]", "[mps, mako_robot]", "is no rule file"),
        ("  gap: 8", "  pause: 8", "'gap'"),
        ("preparing: prepare", "preparing: dance", "actions has no 'dance'; choose among bring in"),
        ("- monitor", "- television", "entities has no 'television'"),
        ("predicates: [touching", "predicates: [feeling", "predicates has no 'feeling'"),
        ("phase: Turn on", "phase: Turn off", "phases has no 'turn off'"),
        ("next_action:", "next_action: {", "is not valid YAML"),
        *(("  gap: 8", f"  gap: {gap}", "must be whole seconds") for gap in (".inf", "8.9", "'8'", "true")),
        ("  gap: 8", "  gap: -3", "must not be negative"),
        ("- monitor", "- nurse", "'nurse' is sterile and unsterile; leave it in one of both sets"),
        (
            "relations: [[mps, mako_robot, calibrating]]",
            "relations: []",
            "'Initial Calibration by MPS' needs relations",
        ),
    ],
)
def test_mistakes_in_a_rule_file_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    text = OUR_FILE.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"rules\.yaml: .*{message}"):
        load_rules(path)


def test_labels_are_not_written_over_those_of_the_dataset(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    stored = {path: path.read_bytes() for path in data.rglob("take_timestamp_to_*/*.json")}
    (tmp_path / "link").symlink_to(data / "MM-OR_data")
    for out in (data / "MM-OR_data", tmp_path / "link"):
        with pytest.raises(UserError, match="holds the dataset's own labels, which these would replace; choose anothe"):
            collect_labels(Dataset(data), [Sample("001_PKA_MMOR", "000000", ())], our_rules(), out, derive_all=True)
    assert stored == {path: path.read_bytes() for path in stored}
    assert len(stored) == 3


def test_a_bad_label_of_the_dataset_costs_its_take(tmp_path: Path) -> None:
    data, takes = tmp_path / "data", [mmor().find_take(name) for name in ("004_PKA", "002_PKA")]
    synthesize(data, takes, 40, 1, size=(32, 24))
    samples = [
        Sample(take.sample_name, timepoint.frame_id, read_labels(path, take, mmor()).triplets)
        for take in takes
        for timepoint in Dataset(data).take(take).timepoints
        if (path := timepoint.one("annotation")) is not None
    ]
    task = mmor().task("next_action")
    bad = label_file(Dataset(data).take(takes[0]).root, takes[0], task, mmor())
    write_json(bad, {**read_json(bad), "000003": ["drilling", -5]})
    found = collect_labels(Dataset(data), samples, our_rules(), tmp_path / "out")
    assert [str(bad) in problem and "frame 000003" in problem for problem in found.problems] == [True]
    written = sorted(path.name for path in (tmp_path / "out").rglob("*PKA.json"))
    assert written == ["002_PKA.json"] * 3


def test_takes_of_a_room_with_labels_of_some_tasks_get_these(tmp_path: Path) -> None:
    """It was a KeyError."""
    take = mmor().find_take("004_PKA")
    synthesize(tmp_path / "data", [take], 40, 1, size=(32, 24))
    some = [
        replace(of, take_files={name: path for name, path in of.take_files.items() if name != "robot_phase"})
        for of in mmor().collections
    ]
    dataset = Dataset(tmp_path / "data", replace(mmor(), collections=tuple(some)))
    samples = [Sample(take.sample_name, timepoint.frame_id, ()) for timepoint in dataset.take(take).timepoints]
    found = collect_labels(dataset, samples, our_rules(), tmp_path / "out", derive_all=True)
    assert not found.problems
    assert {name for name, labels in found.labels.items() if labels} == {"next_action", "sterility_breach"}


def test_nothing_is_derived_from_misspelt_names(tmp_path: Path) -> None:
    """The sawing was none for the rules: labels without it, and nobody was told."""
    write_mmor(tmp_path / "MM-OR_data")
    wrong = Sample(f"{MMOR_NAME}_MMOR", "000000", (Triplet("head_surgeon", "patient", "sawwing"),))
    found = collect_labels(Dataset(tmp_path), [wrong], our_rules(), tmp_path / "out", derive_all=True)
    assert "'sawwing' is no predicate" in str(found)
