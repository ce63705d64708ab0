"""`mmor data check`: every kind of gap and damage is reported, all of them at once, none in a complete dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from operating_room import doctor
from operating_room.dataset import Dataset
from operating_room.doctor import Finding, Report, Severity, check
from operating_room.errors import UserError
from operating_room.takes import Take
from tests.operating_room.tiny_dataset import MMOR_NAME, SRT, cloud, label_picture, picture, sound, write, write_dataset

FOURDOR_FOLDER = "4D-OR_data/export_holistic_take1_processed"
TAKE = f"MM-OR_data/{MMOR_NAME}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.fixture
def only_these_takes(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """As if the published lists held the two takes of the tiny dataset only."""
    takes = Dataset(root).takes()

    def split_takes(split: str, datasets: tuple[str, ...]) -> list[Take]:
        return [take for take in takes if split == "train" and take.dataset in datasets]

    monkeypatch.setattr(doctor, "split_takes", split_takes)


def broken(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.severity == Severity.BROKEN]


@pytest.mark.usefixtures("only_these_takes")
def test_a_complete_dataset(root: Path) -> None:
    report = check(root)
    assert report.findings == ()
    assert report.exit_code == 0
    mmor = report.to_json()["takes"][1]
    assert (mmor["take"], mmor["timepoints"]) == (MMOR_NAME, 3)
    assert mmor["splits"] == ["train", "small_train"]
    assert mmor["files"]["room_views"] == {"found": 15, "expected": 15}
    assert mmor["files"]["label_masks"] == {"found": 18, "expected": None}
    assert mmor["files"]["tracker"] == {"found": 3, "expected": 3}
    assert mmor["files"]["recording"] == {"found": 1, "expected": 1}
    assert str(report).endswith(f"2 takes, {report.opened} files opened: 0 broken, 0 gaps")


def test_absent_takes_are_gaps_of_their_split(root: Path) -> None:
    report = check(root)
    assert report.exit_code == 1
    messages = [finding.message for finding in report.findings]
    assert len(messages) == 3 + 4
    assert any("5 of 6 takes of train are absent: 003_4DOR, 005_4DOR" in message for message in messages)
    assert any("3 of 3 takes of val are absent: 002_PKA, 007_TKA, 009_TKA" in message for message in messages)


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (f"{TAKE}/colorimage/*", "15 of 15 files are missing: room_views of take 001_PKA; normal for some takes"),
        (f"{TAKE}/simstation/camera01_000200.jpg", "1 of 12 files are missing: station_views"),
        (f"MM-OR_data/take_tracks/{MMOR_NAME}.json", "3 of 3 files are missing: tracker"),
        (f"MM-OR_data/take_audios/{MMOR_NAME}.mp3", "1 of 1 files are missing: recording"),
        (f"MM-OR_data/take_transcripts_per_timepoint/{MMOR_NAME}/*", "`mmor scene-graph preprocess` writes it"),
        (f"{FOURDOR_FOLDER}/pcds_sparse/000401.pcd", "1 of 3 files are missing: point_cloud of take 001_4DOR"),
    ],
)
def test_missing_files_are_gaps(pattern: str, expected: str, root: Path) -> None:
    paths = sorted(root.glob(pattern))
    for path in paths:
        path.unlink()
    report = check(root)
    assert report.exit_code == 1
    assert [finding.path for finding in report.findings] == paths[:1]
    assert expected in report.findings[0].message


@pytest.mark.usefixtures("only_these_takes")
def test_frames_that_the_index_does_not_name_are_gaps(root: Path) -> None:
    index = root / TAKE / "timestamp_to_pcd_and_frames_list.json"
    write(index, [[f"{i + 1:06d}", {"simstation": f"{200 + i:06d}"}] for i in range(3)])
    report = check(root)
    assert [finding.path for finding in report.findings] == [index, index]
    assert "15 of 15 files are missing: room_views" in report.findings[0].message + report.findings[1].message


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
    (f"{TAKE}/segmentation_export_5/camera05_colorimage-000999.png", content(label_picture(0)), "does not have"),
    (f"{TAKE}/segmentation_export_5/camera05_colorimage-000100_interpolated.png", content(b"x"), "not a readable"),
    (f"{TAKE}/relation_labels/000003.json", content({"rel_annotations": []}), "does not have"),
    (f"{TAKE}/relation_labels/000001.json", content({"relations": []}), "relation label file"),
    (PER_TAKE.format("screen_summaries") + "/000201.json", content([]), "screen summary"),
    (PER_TAKE.format("take_point_clouds_sparse") + "/000002.pcd", content(cloud()[:-3]), "truncated"),
    (PER_TAKE.format("take_audio_per_timepoint") + "/000003.mp3", content(SRT), "no mp3"),
    (PER_TAKE.format("take_audio_embeddings_per_timepoint") + "/000001.pt", cut, "not a whole torch file"),
    (PER_TAKE.format("take_transcripts_per_timepoint") + "/000001.json", content({"words": ""}), "a transcript is"),
    (PER_TAKE.format("take_segmasks_per_timepoint") + "/000001_1_GTFalse.png", content(label_picture(0)), "48x48 px"),
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


@pytest.mark.usefixtures("only_these_takes")
def test_a_broken_index_does_not_hide_the_other_take(root: Path) -> None:
    index = write(root / TAKE / "timestamp_to_pcd_and_frames_list.json", "[")
    (root / FOURDOR_FOLDER / "pcds_sparse" / "000400.pcd").write_bytes(b"x")
    report = check(root)
    assert {finding.path for finding in broken(report)} == {index, root / FOURDOR_FOLDER / "pcds_sparse" / "000400.pcd"}
    assert [take.timepoints for take in report.takes] == [3, 0]


def test_a_folder_of_a_published_take_without_index(root: Path) -> None:
    (root / "MM-OR_data" / "002_PKA" / "colorimage").mkdir(parents=True)
    assert [finding.path for finding in broken(check(root))] == [root / "MM-OR_data" / "002_PKA"]


def test_takes_that_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "MM-OR_data" / "012_PKA"
    for number, name in enumerate(("012_1_PKA", "012_2_PKA"), 1):
        write(folder / f"timestamp_to_pcd_and_frames_list_{name}.json", [["000000", {"azure": f"00000{number}"}]])
        write(folder / "segmentation_export_1" / f"camera01_colorimage-00000{number}.png", label_picture(0))
        write(folder / f"relation_labels_{name}" / "000000.json", {"rel_annotations": []})
    assert broken(check(tmp_path)) == []
    write(folder / "segmentation_export_1" / "camera01_colorimage-000003.png", label_picture(0))
    write(folder / "relation_labels_012_2_PKA" / "000001.json", {"rel_annotations": []})
    assert {finding.path.name for finding in broken(check(tmp_path))} == {
        "camera01_colorimage-000003.png",
        "000001.json",
    }


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        check(tmp_path)


def test_short_sound_is_no_damage(root: Path) -> None:
    write(root / "MM-OR_data" / "take_audio_per_timepoint" / MMOR_NAME / "000001.mp3", sound(0.1))
    assert broken(check(root)) == []
