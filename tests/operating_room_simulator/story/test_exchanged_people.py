"""Annotated takes for training in which people have changed places."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Triplet, by_take
from operating_room_simulator.story.annotated import annotated_surgery

SCRIPT = Path(__file__).parents[3] / "scripts" / "exchange_people.py"
SECONDS, TAKES = 5, 12
PEOPLE = ("head_surgeon", "assistant_surgeon", "nurse", "circulator", "mps")
LYING = ("patient", "operating_table", "lyingOn")


def _labels(folder: Path) -> Path:
    """A take in which a different table is near each person, one that is left out and one that is too short."""
    things = ("instrument_table", "secondary_table", "operating_table", "mako_robot", "mps_station")
    near = [[person, thing, "closeTo"] for person, thing in zip(PEOPLE, things)]
    lengths = {"007_TKA_MMOR": 9, "002_PKA_MMOR": 9, "004_4DOR": SECONDS - 1, "008_4DOR": SECONDS}
    deeds = {"002_PKA_MMOR": "cutting"}
    records = [
        {
            "take_name": name,
            "frame_id": f"{i:06d}",
            "relationships": [[*LYING], *near, ["head_surgeon", "patient", deeds.get(name, "sawing")]],
        }
        for name, length in lengths.items()
        for i in range(length)
    ]
    path = folder / "labels.json"
    path.write_text(json.dumps(records))
    return path


def test_people_change_places_for_a_whole_stretch(tmp_path: Path) -> None:
    options = ["--without", "002_PKA", "--takes", str(TAKES), "--seconds", str(SECONDS)]
    labels = _labels(tmp_path)
    for out in ("one.json", "two.json"):
        subprocess.run([sys.executable, str(SCRIPT), str(labels), str(tmp_path / out), *options], check=True)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    takes = by_take(load_samples(tmp_path / "one.json"))
    assert sorted(takes) == sorted([f"{n}_SIM_MMOR" for n in range(501, 513)] + [f"{n}_4DOR" for n in range(501, 513)])
    original = load_samples(labels)[0].triplets
    orders, surgeons = set(), set()
    for name, samples in takes.items():
        assert [sample.frame_id for sample in samples] == [f"{i:06d}" for i in range(SECONDS)]
        (graph,) = {sample.triplets for sample in samples}  # who is who stays the same
        who = dict(zip(original, graph))
        assert who[Triplet(*LYING)] == Triplet(*LYING)
        assert [new[1:] for old, new in who.items()] == [old[1:] for old in who]  # what is done to what, too
        people = tuple(triplet.subject for triplet in graph[1:-1])
        assert sorted(people) == sorted(PEOPLE)
        (surgeon,) = {triplet.subject for triplet in graph if triplet.predicate == "sawing"}
        assert surgeon == people[0]
        orders.add(people)
        surgeons.add(surgeon)
        surgery = annotated_surgery(mmor().find_take(name), samples, seed=0, seconds=SECONDS, news=True)
        assert {triplet for triplet in surgery.moments[0].triplets if triplet.predicate == "sawing"} == {graph[-1]}
    assert surgeons == {"head_surgeon", "assistant_surgeon"}
    assert len(orders) > 2
