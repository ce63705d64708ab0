"""`mmor data check` on damaged files: what the readers of the models would refuse, all of it at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pypcd4 import Encoding, PointCloud

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.operating_room.doctor.checks import FOURDOR_FOLDER, TAKE, broken, check
from tests.operating_room.files.test_picture_files import png, short
from tests.operating_room.tiny_dataset import (
    MMOR_NAME,
    SRT,
    cloud,
    label_picture,
    picture,
    sound,
    write,
)


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize("pixels", [(1, 1), (1, 9), (9, 1)])
def test_tiny_pictures_are_pictures(root: Path, pixels: tuple[int, int]) -> None:
    write(
        root / TAKE / "colorimage" / "camera02_colorimage-000101.jpg",
        picture(pixels=np.zeros((*pixels, 3), np.uint8)),
    )
    assert check(root).findings == ()


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("take_tracks", lambda v: v[1]["unique_id_dicts"][0].update(Translation=[float("nan"), 0, 0]), "NaN"),
        ("take_tracks", lambda v: v[1]["unique_id_dicts"][0].update(euler_rot=[1, 2]), "second 1: a tracker record"),
        ("take_tracks", lambda v: v[1]["unique_id_dicts"][0].update(unique_id="7"), "second 1: tracker id '7'"),
        ("take_tracks", lambda v: [e.update(timestamp=9.5 - i) for i, e in enumerate(v)], "put them in order"),
        (
            "take_tracks",
            lambda v: [e.update(timestamp=min(i, 2)) for i, e in enumerate(v)],
            "element 3 has the time stamp 2",
        ),
        ("take_jsons", lambda v: v["timestamps"]["1"].update(azure=["000100"]), "second 1 has no frame numbers"),
        ("take_jsons", lambda v: v["timestamps"].update({"01": {}}), "has second 1 twice"),
        ("take_jsons", lambda v: v.update(timestamps={}), "lists no second"),
        (
            "take_timestamp_to_robot_phase",
            dict.clear,
            "has no label for 3 frames that have a graph, the first is 000000",
        ),
        ("take_timestamp_to_next_action", lambda v: v.pop("000001"), "no label for 1 frames that have a graph"),
        ("take_timestamp_to_next_action", lambda v: v.update({"000001": ["cut", "soon"]}), "frame 000001"),
        ("take_timestamp_to_sterility_breach", lambda v: v.update({"000001": [["a", "b", 3]]}), "frame 000001"),
    ],
)
def test_what_the_models_would_refuse(root: Path, name: str, damage: Callable[[Any], object], expected: str) -> None:
    """Faults 1, 2 and 8, and others of their kind."""
    path = root / "MM-OR_data" / name / f"{MMOR_NAME}.json"
    content = json.loads(path.read_text())
    damage(content)
    write(path, content)
    (finding,) = broken(check(root))
    assert finding.path == path
    assert expected in finding.message


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize("times", [[0, 1.2, None, 3], [0.02, 0.97, 1.99, 3.3], [1693.5, 1693.5, "1", 1694], [None] * 4])
def test_tracks_tell_their_time_or_not(root: Path, times: list[Any]) -> None:
    """Nobody has said what is in the published files: those of another clock may stand still."""
    path = root / "MM-OR_data" / "take_tracks" / f"{MMOR_NAME}.json"
    content = json.loads(path.read_text())
    write(path, [element | {"timestamp": time} for element, time in zip(content, times)])
    assert not broken(check(root))


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda index: index[1].__setitem__(0, index[0][0]), "elements 0 and 1 have the same time 000001"),
        (lambda index: index.reverse(), "elements 0 and 1 have the times 000003 and 000002"),
        (lambda index: index[1].__setitem__(0, 1.0), "elements 0 and 1 have the same time 000001"),
    ],
)
@pytest.mark.parametrize("folder", [TAKE, FOURDOR_FOLDER])
def test_time_must_grow(root: Path, folder: str, damage: Callable[[Any], object], expected: str) -> None:
    """Faults 11 and 33."""
    path = root / folder / "timestamp_to_pcd_and_frames_list.json"
    index = json.loads(path.read_text())
    for element in index:
        element[0] = f"{int(element[0]) + (folder == FOURDOR_FOLDER):06d}"
    damage(index)
    write(path, index)
    (finding,) = broken(check(root))
    assert finding.path == path
    assert expected in finding.message
    with pytest.raises(UserError, match="time must grow"):
        _ = Dataset(root).take(mmor().find_take(MMOR_NAME if folder == TAKE else "001_4DOR")).timepoints


@pytest.mark.usefixtures("only_these_takes")
def test_a_recording_must_be_an_mp3_as_long_as_its_take(root: Path) -> None:
    """Faults 17 and 18."""
    path = root / "MM-OR_data" / "take_audios" / f"{MMOR_NAME}.mp3"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(48_000), 16_000, format="WAV")
    write(path, buffer.getvalue())
    (finding,) = check(root).findings
    assert (finding.path, "is no mp3" in finding.message) == (path, True)
    write(path, sound(3))
    frames = {str(second): {} for second in range(60)}
    write(root / "MM-OR_data" / "take_jsons" / f"{MMOR_NAME}.json", {"timestamps": frames})
    (finding,) = broken(check(root))
    assert (finding.path, "ends after 3 s, the take after 59 s" in finding.message) == (path, True)


@pytest.mark.usefixtures("only_these_takes")
def test_a_cloud_with_some_points_without_depth_is_whole(root: Path) -> None:
    path = root / "MM-OR_data" / "take_point_clouds_sparse" / MMOR_NAME / "000001.pcd"
    lost = np.array([0, np.nan], np.float32)
    colors = np.zeros(2, np.float32)
    points = PointCloud.from_points([lost, lost, lost, colors], ("x", "y", "z", "rgb"), (np.float32,) * 4)
    buffer = io.BytesIO()
    points.save(buffer, Encoding.BINARY)
    write(path, buffer.getvalue())
    assert check(root).findings == ()


@pytest.mark.usefixtures("only_these_takes")
def test_a_misspelt_name_in_a_label_is_told(root: Path) -> None:
    """Fault 9."""
    path = root / TAKE / "relation_labels" / "000001.json"
    write(path, {"rel_annotations": [["nurse", "holdin", "saw"], ["nruse", "touching", "drape"]]})
    (finding,) = check(root).findings
    assert finding.path == path
    assert "'nruse' is no entity (is it nurse?)" in finding.message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def content(new: bytes | str | dict | list) -> Callable[[Path], object]:
    return lambda path: write(path, new)


PER_TAKE = "MM-OR_data/{}/" + MMOR_NAME


DAMAGES = [
    (f"{TAKE}/colorimage/camera02_colorimage-000101.jpg", cut, "truncated"),
    (f"{TAKE}/simstation/camera01_000200.jpg", empty, "is empty"),
    (f"{TAKE}/trackercam/000301.jpg", folder, "is a folder"),
    (f"{TAKE}/segmentation_export_4/camera04_colorimage-000100.png", cut, "truncated"),
    (f"{TAKE}/segmentation_export_1/camera01_colorimage-000101.png", content(label_picture(0, 19, 21, 31)), "21, 31"),
    (f"{TAKE}/simstation_segmentation_export_0/camera00_000202.png", content(picture("PNG")), "is a RGB picture"),
    (f"{TAKE}/segmentation_export_4/camera04_colorimage-000102.png", content(label_picture(0, size=48)), "is 48x48 px"),
    (f"{TAKE}/segmentation_export_5/camera05_colorimage-000101.png", content(label_picture(0, size=31)), "needs 32x32"),
    (
        f"{TAKE}/segmentation_export_5/camera05_colorimage-000102.png",
        lambda path: path.write_bytes(short(png(np.zeros((48, 64), np.uint8), 8, 0), 47 * 65)),
        "cut off: 3055 of 3120 bytes of its rows",
    ),
    (
        f"{TAKE}/simstation_segmentation_export_2/camera02_000201_interpolated.png",
        content(label_picture(0, size=48)),
        "its picture camera02_000201.jpg 64x48",
    ),
    (f"{TAKE}/segmentation_export_5/camera05_colorimage-000999.png", content(label_picture(0)), "does not have"),
    (f"{TAKE}/segmentation_export_5/camera05_colorimage-000100_interpolated.png", content(b"x"), "not a readable"),
    (f"{TAKE}/relation_labels/000003.json", content({"rel_annotations": []}), "does not have"),
    (f"{TAKE}/relation_labels/000001.json", content({"relations": []}), "relation label file"),
    (PER_TAKE.format("screen_summaries") + "/000201.json", content({"1": {"type": "main"}}), "screen summary"),
    (PER_TAKE.format("take_point_clouds_sparse") + "/000002.pcd", content(cloud()[:-3]), "truncated"),
    (PER_TAKE.format("take_audio_per_timepoint") + "/000003.mp3", content(SRT), "no mp3"),
    (PER_TAKE.format("take_audio_embeddings_per_timepoint") + "/000001.pt", cut, "as an audio embedding"),
    (PER_TAKE.format("take_transcripts_per_timepoint") + "/000001.json", content({"words": ""}), "a transcript needs"),
    (PER_TAKE.format("take_segmasks_per_timepoint") + "/000001_1_GTFalse.png", content(label_picture(0)), "64x48 px"),
    (
        PER_TAKE.format("take_segmasks_per_timepoint") + "/000001_2_GTFalse.png",
        content(label_picture(40, size=32)),
        "40",
    ),
    (PER_TAKE.format("take_tracks") + ".json", content({}), "tracks are a list"),
    (PER_TAKE.format("take_jsons") + ".json", content({"timestamps": {"x": {}}}), "timestamps"),
    (PER_TAKE.format("take_audios") + ".mp3", cut, "cut off"),
    (PER_TAKE.format("take_transcripts") + ".srt", content(SRT.replace("02,000", "0x,000")), "broken time"),
    (PER_TAKE.format("take_timestamp_to_next_action") + ".json", content({"000000": 3}), "has the label '3'"),
    (PER_TAKE.format("take_timestamp_to_robot_phase") + ".json", content({"000009": "turn on"}), "first is 000009"),
    (PER_TAKE.format("take_timestamp_to_sterility_breach") + ".json", content("{"), "not valid JSON"),
    (f"{FOURDOR_FOLDER}/relation_labels/000000.json", content("[]"), "relation label file"),
]


@pytest.mark.usefixtures("only_these_takes")
def test_names_with_line_breaks_and_commands_to_a_terminal_stay_one_line(root: Path) -> None:
    write(root / TAKE / "relation_labels" / "two\nlines\x1b[31m.json", {"rel_annotations": []})
    (finding,) = broken(check(root))
    assert "two\\nlines\\x1b[31m.json: is the label of a frame" in finding.message
    assert finding.path.name == "two\nlines\x1b[31m.json"


@pytest.mark.usefixtures("only_these_takes")
def test_only_files_of_the_archives_are_to_be_copied_from_there(root: Path) -> None:
    made = [name for name, _, _ in DAMAGES if "_per_timepoint" in name]
    for name in (*made, f"{TAKE}/simstation/camera01_000200.jpg"):
        empty(root / name)
    found = {finding.path: finding.message for finding in broken(check(root))}
    assert len(found) == len(made) + 1
    for path, message in found.items():
        archived = "simstation" in str(path)
        assert ("from the dataset archive" in message) == archived
        assert ("delete it and preprocess again" in message) != archived


@pytest.mark.usefixtures("only_these_takes")
def test_all_damage_is_reported_at_once(root: Path) -> None:
    for name, damage, _ in DAMAGES:
        (root / name).parent.mkdir(exist_ok=True)
        damage(root / name)
    report = check(root)
    assert report.exit_code == 2
    complaints = {finding.path: finding.message for finding in broken(report)}
    assert complaints.keys() == {root / name for name, _, _ in DAMAGES}
    assert len(complaints) == len(broken(report))
    for name, _, expected in DAMAGES:
        message = complaints[root / name]
        assert message.startswith(str(root / name))
        assert expected in message
        assert "\n" not in message
    assert json.loads(json.dumps(report.to_json()))["findings"][0]["severity"] == "broken"
    assert all(message in str(report) for message in complaints.values())


def test_short_sound_is_no_damage(root: Path) -> None:
    write(root / "MM-OR_data" / "take_audio_per_timepoint" / MMOR_NAME / "000001.mp3", sound(0.1))
    assert broken(check(root)) == []
