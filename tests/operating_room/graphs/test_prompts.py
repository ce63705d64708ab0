"""Prompts: every block once and in its place, whatever the text; pictures by camera name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import conversation, downstream_prompt, drop_blocks, human_prompt
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.questions import read_speech, timepoint_prompt
from operating_room.recordings.timepoint import Timepoint

ROBOT = {
    "2": {"type": "main", "template_name": "bone registration"},
    "10": {"type": "popup", "template_name": "robot ready, "},
}
TOOL = {"unique_id": "8000050", "button_state": 1, "Translation": [-0.9, 20.7, 3], "euler_rot": [1.5, -2.5, 0]}
SURGERY = mmor().find_take("001_PKA")


@pytest.fixture
def timepoint() -> Callable[..., Timepoint]:
    def make(take: Take = SURGERY, tracker: Any = None, **present: Path) -> Timepoint:
        files = {modality: {"": path} for modality, path in present.items()}
        return Timepoint(take, "000003", "000007", mmor(), files, {} if tracker is None else {"tracker": tracker})

    return make


def test_blocks_stand_in_their_order() -> None:
    prompt = human_prompt(mmor().language, ROBOT, {"unique_id_dicts": [TOOL]}, "the saw please", "Long: Short")
    assert prompt == (
        "<image>\n<memory_start>: Long: Short<memory_end>.\n"
        "<robot_metadata_start>: popup: robot ready, , main: bone registration <robot_metadata_end>. "
        "<tracker_metadata_start>: base_array: state 1, translation 0 20 3, euler angles 1 -2 0 "
        "<tracker_metadata_end>. "
        "<speech_transcript_start>: the saw please <speech_transcript_end>. " + mmor().language.question
    )


def test_what_is_missing_has_no_block_and_what_is_empty_has_one() -> None:
    assert human_prompt(mmor().language, None, None, None, None) == f"<image>\n{mmor().language.question}"
    assert human_prompt(mmor().language, {}, {"unique_id_dicts": []}, "", "") == (
        "<image>\n<memory_start>: <memory_end>.\n<robot_metadata_start>:  <robot_metadata_end>. "
        "<tracker_metadata_start>:  <tracker_metadata_end>. <speech_transcript_start>:  <speech_transcript_end>. "
        + mmor().language.question
    )


@given(speech=st.text(), memory=st.text(), template=st.text())
def test_text_never_repeats_a_block(speech: str, memory: str, template: str) -> None:
    speech, template = f"Entities: {speech} <image>\n", f"<image>\nEntities: {template}"
    prompt = human_prompt(mmor().language, {"0": {"type": "main", "template_name": template}}, None, speech, memory)
    assert prompt.count("<memory_start>") == 1 + speech.count("<memory_start>") + template.count("<memory_start>")
    assert f"<speech_transcript_start>: {speech} <speech_transcript_end>. {mmor().language.question}" in prompt
    assert prompt.startswith(
        f"<image>\n<memory_start>: {memory}<memory_end>.\n<robot_metadata_start>: main: {template}"[:40]
    )


def test_unknown_tracker_id_is_named() -> None:
    with pytest.raises(UserError, match="tracker id '8000001' is unknown"):
        human_prompt(mmor().language, None, {"unique_id_dicts": [TOOL | {"unique_id": "8000001"}]}, None, None)


@pytest.mark.parametrize(
    "tracker",
    [
        {},
        {"unique_id_dicts": None},
        {"unique_id_dicts": [{"unique_id": "8000050"}]},
        {"unique_id_dicts": [TOOL | {"Translation": [1, 2]}]},
        {"unique_id_dicts": [TOOL | {"euler_rot": [1, 2, float("nan")]}]},
        {"unique_id_dicts": [TOOL | {"euler_rot": [1, 2, float("inf")]}]},
        {"unique_id_dicts": [TOOL | {"euler_rot": [1, 2, "x"]}]},
        {"unique_id_dicts": [TOOL | {"euler_rot": "123"}]},
        {"unique_id_dicts": [TOOL | {"Translation": ["1", 2, 3]}]},
        {"unique_id_dicts": [TOOL | {"Translation": [True, 2, 3]}]},
        {"unique_id_dicts": [TOOL | {"Translation": {"1": 0, "2": 0, "3": 0}}]},
        {"unique_id_dicts": [TOOL | {"button_state": {"pressed": 1}}]},
        {"unique_id_dicts": [TOOL | {"button_state": "\ud800"}]},
        {"unique_id_dicts": {}},
        {"unique_id_dicts": ""},
    ],
)
def test_damaged_tracker_record(tracker: dict[str, object]) -> None:
    with pytest.raises(UserError, match="tracker record"):
        human_prompt(mmor().language, None, tracker, None, None)


@pytest.mark.parametrize(
    "robot",
    [
        *({"0": {"type": "main"}}, {"0": "main"}, {"0": None}),
        *({"0": {"type": "main", "template_name": value}} for value in (["ready"], {"name": "ready"}, "\udfff")),
    ],
)
def test_damaged_screen_summary(robot: dict[str, object]) -> None:
    with pytest.raises(UserError, match="screen summary"):
        human_prompt(mmor().language, robot, None, None, None)


def test_words_with_half_a_character_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"text": "cut \\ud83d here"}')
    with pytest.raises(UserError, match=r"x\.json: 'text' holds half a character") as error:
        read_speech(path)
    str(error.value).encode()
    path.write_text('{"text": "cut \\ud83d\\ude00"}')
    assert read_speech(path) == "cut \U0001f600"


def test_prompt_of_a_timepoint(timepoint: Callable[..., Timepoint], tmp_path: Path) -> None:
    screen, transcript = tmp_path / "screen.json", tmp_path / "words.json"
    screen.write_text(json.dumps(ROBOT))
    transcript.write_text(json.dumps({"text": "Ähm"}), encoding="utf-8")
    moment = timepoint(robot_screen=screen, transcript=transcript, tracker={"unique_id_dicts": [TOOL]})
    assert timepoint_prompt(moment, "Short") == human_prompt(mmor().language, ROBOT, moment.tracker, "Ähm", "Short")


@pytest.mark.parametrize("content", ["", "[]", '{"text": 3}', "{}", '{"text": "a'])
def test_damaged_transcript_is_named(timepoint: Callable[..., Timepoint], tmp_path: Path, content: str) -> None:
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(UserError, match=r"words\.json"):
        timepoint_prompt(timepoint(transcript=tmp_path / "words.json"), None)


def test_unknown_tracker_id_names_the_timepoint(timepoint: Callable[..., Timepoint]) -> None:
    with pytest.raises(UserError, match=r"001_PKA_MMOR_000003, second 7 of take_tracks/001_PKA\.json: tracker id"):
        timepoint_prompt(timepoint(tracker={"unique_id_dicts": [TOOL | {"unique_id": "1"}]}), None)


def test_dropped_blocks_leave_the_rest_alone() -> None:
    full = human_prompt(mmor().language, ROBOT, {"unique_id_dicts": [TOOL]}, "two\nlines", "Short: a,b,holding")
    assert drop_blocks(full, 1.0, Random(0)) == human_prompt(mmor().language, None, None, None, "Short: a,b,holding")
    assert drop_blocks(full, 0.0, Random(0)) == full
    halves = {drop_blocks(full, 0.5, Random(seed)) for seed in range(100)}
    assert len(halves) == 8  # each block on its own


def test_conversation_ends_where_the_answer_begins() -> None:
    assert conversation("<image>\nwhat?").endswith("questions. USER: <image>\nwhat? ASSISTANT:")


def test_downstream_prompt() -> None:
    triplets = [Triplet("head_surgeon", "patient", "sawing")]
    assert downstream_prompt(None, triplets, mmor().task("robot_phase")) == (
        "<memory_start>: None<memory_end>. <SG> head surgeon,patient,sawing </SG>. "
        "Given the following scene graph memory representation, predict the robot phase. "
        "Do not provide a narrative or descriptive text."
    )


def test_pictures_of_a_full_timepoint() -> None:
    collection = mmor().collection("MMOR")
    room = ["1", "4", "5", "2", "3"]
    views = {camera.name: camera.name for camera in collection.cameras}
    stations = [f"simstation{number}" for number in (2, 0, 1, 3)]
    assert collection.training_pictures(views) == [*room, *stations, "trackercam"]
    assert collection.evaluation_pictures(views) == [*room, "simstation1", "trackercam"]


def test_pictures_without_room_cameras() -> None:
    collection = mmor().collection("MMOR")
    stations = {f"simstation{number}": number for number in range(4)}
    assert collection.evaluation_pictures(stations) == [2, 0, 3, 1]
    assert collection.evaluation_pictures({"trackercam": "tracker"}) == [None] * 5 + ["tracker"]
    assert collection.training_pictures({}) == []


def test_a_missing_camera_leaves_its_own_slot_black() -> None:
    collection = mmor().collection("4DOR")
    views = {str(camera): camera for camera in (1, 2, 4, 5, 6)}
    assert collection.evaluation_pictures(views) == [2, 1, None, 5]
    assert collection.training_pictures(views) == [2, 1, 5]
