"""Low-level logs of the robot: where they are, they are read and shown; nobody needs them, no published prompt has."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.doctor.checkup import check
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import LOG_CHARACTERS, drop_blocks, human_prompt
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.questions import read_robot_log
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.samples.sample_modalities import choose_modalities
from tests.operating_room.published import place
from tests.operating_room.tiny_dataset import MMOR_NAME, write, write_dataset

TAKE = mmor().find_take(MMOR_NAME)
LOG = {"0": {"log_lines": []}, "1": {"log_lines": ["arm ready", "speed 3"]}, "2": {"log_lines": ["stop"]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def write_log(root: Path, content: Any = LOG) -> Path:
    return write(place(root / "MM-OR_data", "robot_log", TAKE), content)


def prompts(root: Path, modalities: str | None) -> list[str]:
    options = SampleOptions(permutations=1, modalities=choose_modalities(modalities, mmor()))
    samples = [Sample(TAKE.sample_name, f"{frame:06d}", ()) for frame in range(3)]
    records = training_records(Dataset(root), samples, options, Random(0))
    return [record["conversations"][0]["value"] for record in records]


def test_a_take_without_a_log_is_complete_and_one_with_it_shows_it(root: Path) -> None:
    before = check(Dataset(root), [MMOR_NAME])
    assert before.findings == ()
    assert "robot log" not in str(before)
    write_log(root)
    after = check(Dataset(root), [MMOR_NAME])
    assert after.findings == ()
    assert "robot log" in str(after)
    assert after.takes[0].found["robot_log"] == 2  # time stamps 1 to 3
    shown = CliRunner().invoke(app, ["data", "show", MMOR_NAME, "0", "--data", str(root)]).stdout
    assert f"robot_log                     {MMOR_NAME}.json, has something for second 1" in shown


def test_samples_have_it_where_it_is_asked_for_only(root: Path) -> None:
    plain = prompts(root, None)
    write_log(root)
    assert prompts(root, None) == plain
    assert "ROBOTLOG" not in SampleOptions().file_name("train")
    assert choose_modalities(None, mmor()) == SampleOptions().modalities
    asked = prompts(root, ",".join((*choose_modalities(None, mmor()), "robotlog")))
    assert "<robot_log_start>: arm ready\nspeed 3 <robot_log_end>. Entities: [" in asked[0]
    assert asked[2] == plain[2]  # its second has no lines


def test_dropping_draws_as_published_where_there_is_none() -> None:
    language = mmor().language
    without = human_prompt(language, {}, None, "saw", None)
    with_log = human_prompt(language, {}, None, "saw", None, "x" * 1000)
    assert with_log.count("x") == LOG_CHARACTERS + language.question.count("x")
    draws = [Random(1), Random(1)]
    for _ in range(20):
        drop_blocks(without, 0.5, draws[0])
        for _ in range(3):
            draws[1].random()
    assert draws[0].random() == draws[1].random()
    assert drop_blocks(with_log, 1.1, Random(0)) == human_prompt(language, None, None, None, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "is {timepoint:"),
        ({"0": []}, "timepoint '0' has no log_lines"),
        ({"0": {"log_lines": "x"}}, "timepoint '0' has no log_lines"),
        ({"0": {"log_lines": ["x"]}, "1": {"log_lines": [3]}}, "timepoint '1' has no log_lines"),
        ({"0": {"lines": []}}, "timepoint '0' has no log_lines"),
        # As a tool that sorts names as text writes it: every second behind would have the lines of another.
        ({n: {"log_lines": [n]} for n in ("0", "1", "10", "2")}, "timepoint '2' stands behind '10'"),
        ({"000001": {"log_lines": []}, "000000": {"log_lines": []}}, "'000000' stands behind '000001'"),
        ('{"0": {"log_lines": ["\\ud800"]}}', "half a character"),
        ("{", "not valid JSON"),
    ],
)
def test_damaged_logs_are_told_and_stop_nobody_else(root: Path, content: Any, expected: str) -> None:
    path = write_log(root, content)
    (finding,) = check(Dataset(root), [MMOR_NAME]).findings
    assert finding.path == path
    assert expected in finding.message
    assert len(prompts(root, None)) == 3
    with pytest.raises(UserError, match="take_timestamp_to_robot_logs"):
        prompts(root, "ROBOTLOG")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=4),
        st.one_of(
            st.none(),
            st.dictionaries(
                st.sampled_from(["log_lines", "x"]),
                st.one_of(st.text(max_size=3), st.lists(st.text(max_size=3) | st.integers())),
            ),
        ),
        max_size=4,
    )
)
def test_any_object_is_a_log_or_a_sentence(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(content))
    try:
        told: object = len(read_robot_log(path))
    except UserError as error:
        told = str(error)
    assert told == len(content) or (str(told).startswith(f"{path}: ") and "\n" not in str(told))
