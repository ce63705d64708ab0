"""What is shown of a timepoint, and the table of pictures and labels, by the commands that print them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.doctor.contents import contents, describe, picture_table
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import target_text
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.raw_labels import read_labels
from tests.operating_room.published import mask_place, picture_place, place
from tests.operating_room.tiny_dataset import FOURDOR_NAME, MMOR_NAME, write, write_dataset
from tests.operating_room.tiny_house import write_house


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def show(data: Path, *words: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["data", "show", *words, "--data", str(data), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def table(data: Path, take: str) -> list[dict[str, str]]:
    result = CliRunner().invoke(app, ["data", "table", take, "--data", str(data)])
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(result.stdout.splitlines()))


@pytest.mark.parametrize("take", [MMOR_NAME, FOURDOR_NAME])
def test_every_file_prompt_and_graph_of_a_timepoint(data: Path, take: str) -> None:
    timepoint = Dataset(data).take(mmor().find_take(take)).timepoint("1")
    found = show(data, take, "1")
    shown = {file["path"] for file in found["files"] if not file["problem"]}
    assert {str(path) for _, _, path in timepoint.files_by_camera()} <= shown
    assert len(shown) > 5
    annotation = timepoint.one("annotation")
    assert annotation is not None
    assert found["prompt"] == timepoint_prompt(timepoint, None)
    assert found["graph"] == target_text(read_labels(annotation, timepoint.take, mmor()).triplets)
    assert found["problems"] == []


def test_the_text_names_them_below_the_folder(data: Path) -> None:
    said = CliRunner().invoke(app, ["data", "show", MMOR_NAME, "000001", "--data", str(data)]).stdout
    found = show(data, MMOR_NAME, "000001")
    for file in found["files"]:
        assert str(Path(file["path"]).relative_to(data)) in said
    assert all(text in said for text in (found["prompt"], found["graph"], *found["pictures"]))
    assert str(data) not in said


def test_a_missing_file_is_no_fault_and_a_broken_one_is(data: Path) -> None:
    timepoint = Dataset(data).take(mmor().find_take(MMOR_NAME)).timepoint("0")
    transcript, screen = timepoint.one("transcript"), timepoint.one("robot_screen")
    assert transcript is not None
    assert screen is not None
    transcript.unlink()
    found = show(data, MMOR_NAME, "0")
    assert [file["modality"] for file in found["files"] if file["problem"] == "missing"] == ["transcript"]
    write(timepoint.several("room_views")["1"], b"no picture")
    found = show(data, MMOR_NAME, "0", code=2)
    assert [file["camera"] for file in found["files"] if file["problem"] not in ("", "missing")] == ["1"]
    assert str(timepoint.several("room_views")["1"]) in found["problems"][0]
    write(screen, "[")
    found = show(data, MMOR_NAME, "0", code=2)
    assert found["prompt"].startswith(f"cannot be made: {screen}")
    assert len(found["problems"]) == 2


@pytest.mark.parametrize("labels", [[], {"000000": 7}, {"000000": ["cut", True]}, {"000009": ["cut", 1]}])
def test_a_label_file_that_evaluation_would_refuse_is_broken(data: Path, labels: object) -> None:
    path = place(data / "MM-OR_data", "next_action", mmor().find_take(MMOR_NAME))
    path.write_text(json.dumps(labels))
    found = show(data, MMOR_NAME, "0", code=2)
    assert [problem.startswith(f"{path}: ") for problem in found["problems"]] == [True]
    assert found["downstream"].keys() == {"robot_phase", "sterility_breach"}


def test_memory_is_that_of_the_labelled_graphs_before(data: Path) -> None:
    assert "memory_start" not in show(data, MMOR_NAME, "2")["prompt"]
    prompt = show(data, MMOR_NAME, "2", "--memory")["prompt"]
    assert "<memory_start>: Long: " in prompt
    label = Dataset(data).take(mmor().find_take(MMOR_NAME)).timepoints[0].one("annotation")
    assert label is not None
    write(label, {"rel_annotations": [["patient", "lyingOn", "operating_table"]]})
    prompt = show(data, MMOR_NAME, "2", "--memory")["prompt"]
    assert "patient,operating table,lyingon" in prompt.lower()  # as answers spell names, and training files
    assert show(data, MMOR_NAME, "0", "--memory")["prompt"].count("<memory_start>: Long: Short<memory_end>") == 1


def test_what_is_not_there_is_said(data: Path) -> None:
    for words, expected in (
        ((MMOR_NAME, "3"), "has no timepoint '3', only 000000 to 000002"),
        ((MMOR_NAME, "x"), "has no timepoint 'x'"),
        ((MMOR_NAME, "000009.json"), "has no timepoint '000009.json'"),
        (("nowhere", "0"), "no take nowhere; there are 001_4DOR, 001_PKA"),
        (("train", "0"), "no take train"),
    ):
        result = CliRunner().invoke(app, ["data", "show", *words, "--data", str(data)])
        assert isinstance(result.exception, UserError)
        assert expected in str(result.exception)


@pytest.mark.parametrize("take", [MMOR_NAME, FOURDOR_NAME])
def test_labels_stand_beside_their_pictures(data: Path, take: str) -> None:
    recorded = Dataset(data).take(mmor().find_take(take))
    rows = table(data, take)
    assert {row["timepoint"] for row in rows} == {"000000", "000001", "000002"}
    for row in rows:
        timepoint = recorded.timepoint(row["timepoint"])
        assert row["second"] == str(int(timepoint.time))
        assert (data / row["picture"]).is_file()
        if row["label_mask"]:
            # masks carry the name of their picture
            assert Path(row["label_mask"]).stem == Path(row["picture"]).stem
            assert data / row["label_mask"] == timepoint.several("label_masks")[row["camera"]]
        assert timepoint.one("annotation") is None or data / row["scene_graph_label"] == timepoint.one("annotation")
    pictures = [
        path
        for point in recorded.timepoints
        for name, _, path in point.files_by_camera()
        if name.endswith(("views", "view"))
    ]
    assert sorted(data / row["picture"] for row in rows) == sorted(pictures)
    masks = [path for point in recorded.timepoints for path in point.several("label_masks").values()]
    assert sorted(data / row["label_mask"] for row in rows if row["label_mask"]) == sorted(masks)


def test_seconds_of_a_room_of_ones_own_are_those_of_its_period(tmp_path: Path) -> None:
    """In the house layout a time stamp is a position, here of every half second."""
    dataset = Dataset(write_house(tmp_path))
    recorded = dataset.take(dataset.named("soup"))
    rows = [row for row in picture_table(recorded, tmp_path) if row["camera"] == "door"]
    assert [(row["timepoint"], row["second"]) for row in rows] == [
        ("000000", "0"),
        ("000001", "0"),
        ("000002", "1"),
        ("000003", "1"),
    ]
    assert contents(recorded, "3").second == 1


def test_a_label_without_picture_has_a_row(data: Path, tmp_path: Path) -> None:
    recorded = Dataset(data).take(mmor().find_take(MMOR_NAME))
    camera, mask = next(iter(recorded.timepoint("0").several("label_masks").items()))
    frame = mask.stem.rsplit("-", 1)[-1]
    made = mask_place(recorded.root, recorded.take, camera, frame, interpolated=True)
    write(made, mask.read_bytes())
    mask.unlink()
    picture_place(recorded.root, recorded.take, camera, frame).unlink()
    (row,) = (row for row in table(data, MMOR_NAME) if row["timepoint"] == "000000" and row["camera"] == camera)
    assert (row["picture"], row["label_mask"], data / row["interpolated_mask"]) == ("", "", made)
    out = tmp_path / "table.csv"
    result = CliRunner().invoke(app, ["data", "table", MMOR_NAME, "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0
    assert list(csv.DictReader(out.read_text().splitlines())) == table(data, MMOR_NAME)


def test_damaged_tracks_cost_themselves(data: Path) -> None:
    tracks = Dataset(data).take(mmor().find_take(MMOR_NAME)).path("tracks")
    assert tracks is not None
    tracks.write_bytes(tracks.read_bytes()[:-20])
    found = show(data, MMOR_NAME, "1", code=2)
    assert [tracks.name in problem for problem in found["problems"]] == [True]
    assert len([file for file in found["files"] if not file["problem"]]) > 5
    assert "tracker_start" not in found["prompt"]
    result = CliRunner().invoke(app, ["data", "stats", str(data), "--take", MMOR_NAME])
    assert result.exit_code == 1
    assert f"left out: {tracks}" in result.stdout
    assert Dataset(data).take(mmor().find_take(MMOR_NAME)).index
    assert re.search(rf"{mmor().find_take(MMOR_NAME).name} +[1-9]", result.stdout)


def test_what_was_said_gives_a_terminal_no_commands(data: Path) -> None:
    """Words of somebody else's recording, in the prompt that is shown."""
    write(data / "MM-OR_data/take_transcripts_per_timepoint" / MMOR_NAME / "000002.json", {"text": "a\x1b]0;b\x07c\r"})
    recorded = Dataset(data).take(mmor().find_take(MMOR_NAME))
    told = describe(contents(recorded, "1"), data)
    assert r"a\x1b]0;b\x07c\r" in told
    assert not set(told) & {"\x1b", "\x07", "\r"}
    assert len(told.splitlines()) > 20
