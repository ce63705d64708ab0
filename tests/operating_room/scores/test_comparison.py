"""Two results files in comparison."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operating_room.domain.domain import bundled, mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, as_triplets
from operating_room.scores import bootstrap, comparison
from operating_room.scores.comparison import Comparison, compare
from operating_room.scores.scoring import score_sample

FRAMES = [f"001_PKA_MMOR_{i:06d}" for i in range(90)]
TRUTH = [["nurse", "saw", "holding"], ["mps", "mps_station", "touching"]]


def graphs(path: Path, predicted: list[list[str]], frames: list[str] = FRAMES, **about: Any) -> Path:
    samples = {frame: {"truth": TRUTH, "predicted": predicted} for frame in frames}
    path.write_text(json.dumps({"task": "scene_graph", "about": about, "samples": samples}))
    return path


def answers(path: Path, answer: str) -> Path:
    record = {
        "next_action": {"label": ["cut", 3], "model": answer},
        "robot_phase": {"label": "Turn on", "model": "turn on"},
        "sterility_breach": {"label": [], "model": "No", "rule": "no"},
    }
    path.write_text(json.dumps({"task": "downstream", "about": {}, "samples": dict.fromkeys(FRAMES, record)}))
    return path


def test_a_real_change_is_told_from_none(tmp_path: Path) -> None:
    a = graphs(tmp_path / "a.json", TRUTH[:1], memory=False, split="test")
    b = graphs(tmp_path / "b.json", TRUTH, FRAMES[:60], memory=True, split="test")
    comparison = compare(a, b, mmor())
    assert comparison.settings == {"memory": (False, True)}
    assert (comparison.common, comparison.alone, comparison.changed) == (60, (30, 0), 60)
    differences = {one.name: one for one in comparison.scores["predicates"]}
    assert differences["touching"].is_real
    assert (differences["touching"].first, differences["touching"].second) == (0, 1)
    assert not differences["holding"].is_real
    assert "cutting" not in differences
    assert str(comparison).count("more than chance") == sum(one.is_real for one in differences.values())
    assert str(comparison).endswith("two trainings that differ in nothing but their seed may differ by more")


def test_what_is_more_than_chance_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    wrong = {frame: i // 30 != 1 for i, frame in enumerate(FRAMES)}  # right in one stretch of time only
    shuffled = FRAMES[1:]
    random.Random(0).shuffle(shuffled)
    found = []
    for name, frames in (("a", FRAMES), ("b", [FRAMES[0], *shuffled])):
        before, after = graphs(tmp_path / f"{name}0.json", TRUTH[:1], frames), tmp_path / f"{name}1.json"
        results = json.loads(before.read_text())
        for frame, record in results["samples"].items():
            record["predicted"] = TRUTH[:1] if wrong[frame] else TRUTH
        after.write_text(json.dumps(results))
        found.append(compare(before, after, mmor()).scores)
    assert found[0] == found[1]
    (touching,) = [one for one in found[0]["predicates"] if one.name == "touching"]
    assert touching.second > 0
    assert not touching.is_real


def test_an_older_file_without_times_is_compared_in_the_same_blocks(tmp_path: Path) -> None:
    """At 15 timepoints a second: blocks of 30 timepoints, which last 2 s, would give intervals far too narrow."""
    domain, frames = bundled("egoexor"), [f"MISS_1_1_{i:06d}" for i in range(900)]  # 60 s, two blocks
    truth = [["head_surgeon", "patient", "touching"]]
    found = []
    for name, said, is_new in (("old", [], False), ("new", truth, True), ("older", truth, False)):
        about = {"task": "scene_graph", "about": {"domain": "egoexor"}}
        times = [{"at_s": place / 15} if is_new else {} for place in range(len(frames))]
        samples = {f: {"truth": truth, "predicted": said, **at} for f, at in zip(frames, times)}
        (tmp_path / name).write_text(json.dumps({**about, "samples": samples}))
    for first, second in (("old", "new"), ("new", "old"), ("old", "older")):
        found.append(compare(tmp_path / first, tmp_path / second, domain).scores["predicates"])
    assert [{one.blocks for one in scores} for scores in found] == 3 * [{2}]


def test_one_stretch_of_time_does_not_tell_chance(tmp_path: Path) -> None:
    """Every draw from a single block is the same, so that its interval is a point, wherever that is."""
    rare = [*TRUTH, ["nurse", "patient", "cutting"]]
    found = []
    for name, said in (("a", TRUTH[:1]), ("b", rare)):
        path = graphs(tmp_path / f"{name}.json", said)
        results = json.loads(path.read_text())
        for frame in FRAMES[:5]:
            results["samples"][frame]["truth"] = rare
        path.write_text(json.dumps(results))
        found.append(path)
    comparison = compare(*found, mmor())
    assert {one.name for one in comparison.scores["predicates"] if one.is_real} >= {"touching", "macro f1-score"}
    (line,) = [line for line in str(comparison).splitlines() if line.startswith("cutting")]
    assert line.endswith("of one block: chance unknown")

    short = [graphs(tmp_path / f"{number}.json", said, FRAMES[:5]) for number, said in enumerate((TRUTH[:1], TRUTH))]
    assert "more than chance" not in str(compare(*short, mmor()))


def test_no_table_is_kept_of_each_timepoint() -> None:
    """Of the 93 000 of all takes they were 0.8 GB. The numbers are those of the sums of all tables."""
    draw, language = random.Random(0), mmor().language
    first, second = (
        {
            f"001_PKA_MMOR_{frame:06d}": {
                "truth": TRUTH[: frame % 3],
                "predicted": draw.sample(TRUTH, draw.randint(0, 2)),
            }
            for frame in draw.sample(range(3000), 3000)
        }
        for _ in range(2)
    )
    samples = [Sample.of_id(key, as_triplets(record["truth"])) for key, record in first.items()]
    tables = [
        np.stack(
            [score_sample(s, as_triplets(of[s.sample_id]["predicted"]), language).predicates.confusion for s in samples]
        )
        for of in (first, second)
    ]
    sums = [bootstrap.block_sums(samples, of_all) for of_all in tables]
    tracemalloc.start()
    scores = comparison._graph_scores(first, second, mmor())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores == {"predicates": comparison._differences(language.scored_predicates, *sums)}
    assert most < sum(table.nbytes for table in tables)


def test_downstream_tasks_are_compared_by_who_answered(tmp_path: Path) -> None:
    comparison = compare(answers(tmp_path / "a.json", "saw: 3"), answers(tmp_path / "b.json", "cut: 3"), mmor())
    assert list(comparison.scores) == [
        "next_action, model",
        "robot_phase, model",
        "sterility_breach, model",
        "sterility_breach, rule",
    ]
    real = {part for part, differences in comparison.scores.items() if any(one.is_real for one in differences)}
    assert real == {"next_action, model"}


def test_a_file_with_itself_and_with_the_same_answers(tmp_path: Path) -> None:
    a = graphs(tmp_path / "a.json", TRUTH)
    (tmp_path / "link.json").symlink_to(a)
    for same in (a, tmp_path / "x" / ".." / "a.json", tmp_path / "link.json"):
        with pytest.raises(UserError, match="are the same file"):
            compare(a, same, mmor())
    assert str(compare(a, graphs(tmp_path / "b.json", TRUTH), mmor())).endswith("so there is nothing to compare")


def test_only_another_answer_is_one(tmp_path: Path) -> None:
    """A time or text that one file has and the other has not is none, nor what only one of them answered by a model."""
    a, b = graphs(tmp_path / "a.json", TRUTH), graphs(tmp_path / "b.json", TRUTH)
    results = json.loads(b.read_text())
    for at, record in enumerate(results["samples"].values()):
        record |= {"at_s": float(at), "text": "as generated"}
    b.write_text(json.dumps(results))
    assert compare(a, b, mmor()).changed == 0

    c, d = answers(tmp_path / "c.json", "saw: 3"), answers(tmp_path / "d.json", "cut: 3")
    results = json.loads(d.read_text())
    for record in results["samples"].values():
        for task in record.values():
            task.pop("model")
    d.write_text(json.dumps(results))
    assert compare(c, d, mmor()).changed == 0
    assert compare(c, answers(tmp_path / "e.json", "cut: 3"), mmor()).changed == len(FRAMES)


def test_what_only_one_run_says_of_itself_is_one_line(tmp_path: Path) -> None:
    a = graphs(tmp_path / "a.json", TRUTH, predictions="x.json", code="1")
    b = graphs(tmp_path / "b.json", TRUTH[:1], folder="m", memory=True, code="2", split=None)
    lines = str(compare(a, b, mmor())).splitlines()
    assert lines[:3] == [
        "code: 1 -> 2",
        "only the first file tells: predictions",
        "only the second file tells: folder, memory",
    ]


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    a = graphs(tmp_path / "a.json", TRUTH)
    with pytest.raises(UserError, match="same task"):
        compare(a, answers(tmp_path / "b.json", "cut: 3"), mmor())
    with pytest.raises(UserError, match="no timepoint in common"):
        compare(a, graphs(tmp_path / "b.json", TRUTH, ["002_PKA_MMOR_000000"]), mmor())
    other = json.loads(a.read_text())
    other["samples"][FRAMES[5]]["truth"] = []
    (tmp_path / "b.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="different labels, first of 001_PKA_MMOR_000005"):
        compare(a, tmp_path / "b.json", mmor())
    for wrong in (["abc"], [["a", "b"]], "abc", [["a", "b", 3]]):
        (tmp_path / "b.json").write_text(
            json.dumps({**json.loads(a.read_text()), "samples": {FRAMES[0]: {"truth": TRUTH, "predicted": wrong}}})
        )
        with pytest.raises(UserError, match=r"b\.json: a timepoint lacks a list of relations, predicted"):
            compare(a, tmp_path / "b.json", mmor())
    (tmp_path / "b.json").write_text(a.read_text()[:-40])
    with pytest.raises(UserError, match=r"b\.json"):
        compare(a, tmp_path / "b.json", mmor())
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.json: is no results file"):
        compare(a, tmp_path / "b.json", mmor())
    (tmp_path / "b.json").write_text(json.dumps({"windows": {}, "vpq": 50.0}))
    with pytest.raises(UserError, match=r"b\.json: holds scores of masks; `mmor report"):
        compare(a, tmp_path / "b.json", mmor())
    (tmp_path / "b.json").write_text('{"take": "kitchen", "frame": 0}\n{"take": "kitchen", "frame": 1}\n')
    with pytest.raises(UserError, match=r"b\.json: holds what `mmor live` answered"):
        compare(a, tmp_path / "b.json", mmor())


def test_what_files_say_of_themselves_gives_a_terminal_no_commands() -> None:
    told = str(Comparison({"weights": ("a\x1b[2J", "b\nc")}, (["x\x07"], []), 1, (0, 0), 0, {}))
    assert r"weights: a\x1b[2J -> b\nc" in told
    assert r"only the first file tells: x\x07" in told
