"""Counted habits: the script counts what is there, and stories go by the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from operating_room.domain.domain import mmor
from operating_room_simulator.story.habits import habitual
from operating_room_simulator.story.steps import playbook_of

SCRIPT = Path(__file__).parents[3] / "scripts" / "count_annotations.py"


def test_the_script_counts_shares_and_durations(tmp_path: Path) -> None:
    lying = ["patient", "operating_table", "lyingOn"]
    cutting = ["head_surgeon", "patient", "cutting"]
    near = ["nurse", "instrument_table", "closeTo"]
    graphs = [[lying, near]] * 2 + [[lying, near, cutting]] * 3 + [[lying, near]]
    records = [
        {"take_name": name, "frame_id": f"{i:06d}", "relationships": graph}
        for name in ("001_PKA_MMOR", "002_PKA_MMOR")
        for i, graph in enumerate(graphs)
    ]
    (tmp_path / "labels.json").write_text(json.dumps(records))
    out = tmp_path / "habits.yaml"
    command = [sys.executable, str(SCRIPT), str(tmp_path / "labels.json"), "--without", "002_PKA", "--out", str(out)]
    subprocess.run(command, check=True)
    table = yaml.safe_load(out.read_text())["MMOR"]
    assert table["seconds"] == 6
    assert table["predicates"]["cutting"] == {
        "a_second": 0.5,
        "stretch_s": [3, 3, 3],
        "subjects": {"head_surgeon": 1.0},
        "objects": {"patient": 1.0},
        "followed_by": {},
        "together_with": {"closeTo": 1.0, "lyingOn": 1.0},
    }
    assert table["doers"] == {"cutting": {"head_surgeon": 1.0}}
    assert table["activities"]["nurse"]["background"] == {"instrument_table closeTo": 1.0, "seconds": 4}


@pytest.mark.parametrize("name", ["001_PKA", "001_4DOR"])
def test_habits_keep_the_names_and_the_events_of_the_playbook(name: str) -> None:
    take = mmor().find_take(name)
    ours, counted = playbook_of(take), habitual(take)
    assert counted.background != ours.background
    language = mmor().language
    by_step = [choices for persons in counted.steps.values() for choices in persons.values()]
    for choices in (*counted.background.values(), counted.helping, *by_step):
        for weight, text in choices:
            assert weight > 0
            for part in filter(None, text.split("; ")):
                thing, predicate = part.split()
                assert thing == "{surgeon}" or thing in language.entities
                assert predicate in language.predicates
                assert predicate not in ours.actions
    assert counted.doers["cutting"]["head_surgeon"] > counted.doers["cutting"]["assistant_surgeon"]
    assert all(1 <= least <= most for least, most in counted.stay.values())
