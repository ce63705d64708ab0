"""What is not published of training samples: memories that are not the truth, and timepoints told more often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_several, save_predictions
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.samples.records import Record, SampleOptions, training_records
from scene_graph_generation.samples.sample_memory import OwnAnswers
from tests.operating_room.tiny_dataset import write_dataset
from tests.scene_graph_generation.tiny_training import GRAPHS, TAKE

SAMPLES = [Sample(TAKE, f"{second:06d}", tuple(graph)) for second, graph in enumerate(GRAPHS)]
SAID = Triplet("anaesthetist", "patient", "manipulating")  # what the model says all the time, and is nowhere true
ANSWERS = {sample.sample_id: [SAID] for sample in SAMPLES}
OPTIONS = SampleOptions(permutations=20, temporal=True, augment_memory=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path)
    return tmp_path


def memories(records: list[Record]) -> dict[str, list[str]]:
    """Of each timepoint: what stands in the memory of its records."""
    found: dict[str, list[str]] = {}
    for record in records:
        _, _, rest = record["conversations"][0]["value"].partition("<memory_start>: ")
        found.setdefault(record["id"], []).append(rest.partition("<memory_end>")[0])
    return found


def records_with(data: Path, own: OwnAnswers | None) -> list[Record]:
    return list(training_records(Dataset(data), SAMPLES, OPTIONS, Random(0), own=own))


def test_memory_holds_the_answers_and_what_is_to_be_learnt_stays_true(data: Path) -> None:
    true, own = records_with(data, None), records_with(data, OwnAnswers(ANSWERS, 1.0))
    last = SAMPLES[-1].sample_id
    assert all("anaesthetist,patient,manipulating" in text for text in memories(own)[last])
    assert not any("cutting" in text for text in memories(own)[last])
    assert all("cutting" in text for text in memories(true)[last])

    def answers(records: list[Record]) -> list[str]:
        return sorted({record["conversations"][1]["value"] for record in records})

    assert answers(own) == answers(true)


def test_a_share_of_the_memories_is_so(data: Path) -> None:
    texts = memories(records_with(data, OwnAnswers(ANSWERS, 0.5)))[SAMPLES[-1].sample_id]
    own = sum("anaesthetist" in text for text in texts)
    assert 3 < own < 17
    assert own + sum("cutting" in text for text in texts) == len(texts)


def test_takes_without_answers_keep_the_truth(data: Path) -> None:
    assert records_with(data, OwnAnswers({}, 1.0)) == records_with(data, None)


def test_answers_of_other_takes_are_refused_by_name(data: Path) -> None:
    with pytest.raises(UserError, match="not trained on: 002_PKA_MMOR; infer"):
        records_with(data, OwnAnswers({**ANSWERS, "002_PKA_MMOR_000000": [SAID]}, 1.0))


def test_answers_of_a_part_of_a_take_are_refused(data: Path) -> None:
    with pytest.raises(UserError, match=r"lack 2 of 3 timepoints of their takes, the first is 001_PKA_MMOR_000001"):
        records_with(data, OwnAnswers({SAMPLES[0].sample_id: [SAID]}, 1.0))


def test_the_command_reads_answers_files(data: Path) -> None:
    convert(Dataset(data), data)
    said = data / "said.json"
    save_predictions(said, ANSWERS)
    command = ["scene-graph", "samples", "--data", str(data), "--relations", str(data), "--out", str(data / "out")]
    command += ["--permutations", "1", "--answers", str(said)]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, UserError)
    assert "add --temporal" in str(refused.exception)
    done = CliRunner().invoke(app, [*command, "--temporal", "--no-temporal-augmentation", "--own-share", "1"])
    assert done.exit_code == 0, done.output
    (written,) = (data / "out").glob("*_own1.0.json")
    assert "anaesthetist,patient,manipulating" in written.read_text()


def test_a_memory_may_end_at_an_earlier_moment(data: Path) -> None:
    stale = list(training_records(Dataset(data), SAMPLES, replace(OPTIONS, stale_memory=1.0), Random(0)))
    whole = memories(records_with(data, None))
    (true,) = set(whole[SAMPLES[-1].sample_id])
    texts = set(memories(stale)[SAMPLES[-1].sample_id])
    assert true in texts
    assert texts - {true}
    assert texts <= {text for some in whole.values() for text in some}  # what was true at an earlier moment
    command = ["scene-graph", "samples", "--data", str(data), "--stale-memory", "0.5"]
    refused = CliRunner().invoke(app, command)
    assert "add --temporal" in str(refused.exception)


def test_timepoints_with_rare_triplets_have_more_records(data: Path) -> None:
    """Neither a frequent predicate nor the other dataset makes a triplet frequent."""
    cuts, near = Triplet("head_surgeon", "patient", "cutting"), Triplet("circulator", "patient", "cutting")
    told = {TAKE: [(cuts,), (cuts,), (cuts, near)], "001_4DOR": [(cuts,), (), ()]}
    samples = [Sample(take, f"{i:06d}", graph) for take, graphs in told.items() for i, graph in enumerate(graphs)]
    rare = replace(OPTIONS, permutations=200, repeat_rare=0.5)
    counts = Counter(record["id"] for record in training_records(Dataset(data), samples, rare, Random(0)))
    seldom = 200 * 3**0.5  # in one timepoint of six
    expected = dict(zip((sample.sample_id for sample in samples), (200, 200, seldom, seldom, 200, 200), strict=True))
    assert counts == pytest.approx(expected, abs=1)


def test_two_files_that_answer_a_timepoint_differently_are_refused(tmp_path: Path) -> None:
    """As of two models: the later file was taken, without a word."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    save_predictions(first, ANSWERS)
    assert load_several([first, first]) == ANSWERS
    save_predictions(second, {**ANSWERS, SAMPLES[1].sample_id: []})
    with pytest.raises(UserError, match=f"b.json: answers {SAMPLES[1].sample_id} otherwise than .*a.json"):
        load_several([first, second])


def test_answers_in_another_order_are_told(data: Path) -> None:
    """As relation files have them: such a memory teaches a model to read what it never says."""
    write_json(data / "relationships_train.json", [sample.to_record() for sample in SAMPLES])
    write_json(data / "swapped.json", {key: [list(t) for t in graph] for key, graph in ANSWERS.items()})
    command = ["scene-graph", "samples", "--data", str(data), "--temporal", "--answers", str(data / "swapped.json")]
    told = CliRunner().invoke(app, [*command, "--permutations", "1", "--out", str(data / "out")])
    assert told.exit_code == 0
    assert "note: 3 of 3 predicted relations do not count" in told.stderr
