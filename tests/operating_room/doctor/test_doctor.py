"""`mmor data check`: every kind of gap and damage is reported, all of them at once, none in a complete dataset."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from operating_room.doctor import checkup as doctor
from operating_room.doctor.checkup import Severity
from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError
from operating_room.recordings import folders
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import BY_NAME
from tests.operating_room.doctor.checks import FOURDOR_FOLDER, TAKE, broken, check
from tests.operating_room.published import place
from tests.operating_room.tiny_dataset import (
    MMOR_NAME,
    label_picture,
    write,
    write_dataset,
    write_mmor,
)


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


@pytest.mark.usefixtures("only_these_takes")
def test_no_more_than_the_files_of_one_folder_are_kept_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of all files were: 2 GB where a dataset has two millions of them."""
    begun: list[int] = []

    def counted(function: Callable[[object], object], jobs: Collection[object], _: int) -> Iterator[object]:
        begun.append(len(jobs))
        return map(function, jobs)

    monkeypatch.setattr(doctor, "behind", counted)
    assert check(root).opened == sum(begun)
    assert len(begun) == 2  # one folder of each dataset


def test_absent_takes_that_nobody_asked_for_are_noted(root: Path) -> None:
    report = check(root)
    assert report.exit_code == 0
    assert {finding.severity for finding in report.findings} == {Severity.NOTE}
    messages = [finding.message for finding in report.findings]
    assert len(messages) == 3 + 4
    assert any("5 of 6 takes of train are absent: 003_4DOR, 005_4DOR" in message for message in messages)
    assert any("3 of 3 takes of val are absent: 002_PKA, 007_TKA, 009_TKA" in message for message in messages)


def test_only_the_takes_that_are_meant(root: Path) -> None:
    (root / FOURDOR_FOLDER / "pcds_sparse" / "000400.pcd").write_bytes(b"x")
    for name in (MMOR_NAME, f"{MMOR_NAME}/"):  # as a shell completes it
        report = check(root, [name])
        assert [take.take.name for take in report.takes] == [MMOR_NAME]
        assert report.exit_code == 0
        assert report.findings == ()
    report = check(root, ["train"])
    assert report.exit_code == 2
    assert sum("takes of train are absent" in finding.message for finding in report.findings) == 2
    assert sum(finding.severity == Severity.GAP for finding in report.findings) == 2
    for name in ("OO1_PKA", "1_4DOR"):  # not a take, and no name of one
        with pytest.raises(UserError, match=rf"{name}.* \(is it 001"):
            check(root, [name])
    with pytest.raises(UserError, match="no take 002_PKA; there are 001_4DOR, 001_PKA"):
        check(root, ["002_PKA"])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("OP 12", "MM-OR_data", "because of its name: take names have letters"),
        ("Knie_\u00e4", "MM-OR_data", "because of its name"),
        ("knee.1", "MM-OR_data", "because of its name"),
        ("knee_MMOR", "MM-OR_data", "do not end in _MMOR"),
        ("knee_4DOR", "MM-OR_data", "do not end in _MMOR"),
        ("015_PKA", "MM-OR_data", "looked for in 015-018_PKA"),
        ("export_holistic_take7", "4D-OR_data", "export_holistic_take<number up to 999>_processed"),
    ],
)
def test_folders_that_cannot_be_takes_are_told(root: Path, name: str, data: str, reason: str) -> None:
    """Fault 15: takes of one's own were invisible."""
    old = root / (TAKE if data == "MM-OR_data" else FOURDOR_FOLDER)
    old.rename(root / data / name)
    assert [f.message for f in broken(check(root)) if f.path == root / data / name and reason in f.message]


def test_own_folder_without_index_is_told(root: Path) -> None:
    (root / "MM-OR_data" / "knee" / "colorimage").mkdir(parents=True)
    (root / "MM-OR_data" / "notes").mkdir()
    assert [finding.path.name for finding in broken(check(root))] == ["knee"]


@pytest.mark.usefixtures("only_these_takes")
def test_files_of_macos_are_no_data(root: Path) -> None:
    """Fault 16."""
    folders = [path for path in root.rglob("*") if path.is_dir()]
    for folder in [root, *folders]:
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
        for file in [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]:
            (folder / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
    assert check(root).findings == ()


@pytest.mark.parametrize("depth", [0, 1], ids=["the take's folder", "a folder in it"])
def test_a_folder_that_may_not_be_listed_costs_its_take(
    root: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Nobody's permissions stop root, who may run these tests: refuse as the system would."""
    closed = root / TAKE / "colorimage" if depth else root / TAKE
    (root / FOURDOR_FOLDER / "pcds_sparse" / "000400.pcd").write_bytes(b"x")
    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:
        if Path(folder) == closed or closed in Path(folder).parents:
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(folders.os, "listdir", refuse)
    report = check(root)
    assert {"001_4DOR", MMOR_NAME} == {take.take.name for take in report.takes}
    found = {finding.path: finding.message for finding in broken(report)}
    assert found.keys() == {closed, root / FOURDOR_FOLDER / "pcds_sparse" / "000400.pcd"}
    assert "cannot be listed (Permission denied); check permissions" in found[closed]


@pytest.mark.parametrize("what", ["the dataset", "the take", "a folder", "a folder above", "a file"])
def test_links_that_lead_nowhere_are_named(root: Path, what: str) -> None:
    """A drive that is not mounted is no missing modality."""
    place = {
        "the dataset": root / "MM-OR_data",
        "the take": root / TAKE,
        "a folder": root / TAKE / "colorimage",
        "a folder above": root / "MM-OR_data" / "take_point_clouds_sparse",
        "a file": root / TAKE / "colorimage" / "camera01_colorimage-000100.jpg",
    }[what]
    place.rename(root / "elsewhere")
    place.symlink_to(root / "not mounted")
    if what == "the dataset":
        with pytest.raises(UserError, match=r"MM-OR_data: is a link to .*not mounted, which is not there"):
            check(root)
        return
    report = check(root)
    assert len(report.takes) == 2
    assert any(str(place) in finding.message for finding in broken(report))
    if what != "a file":
        assert any("which is not there; mount or link it again" in finding.message for finding in broken(report))
    recorded = Dataset(root).take(mmor().find_take(MMOR_NAME))
    if what in ("a folder", "a folder above"):
        with pytest.raises(UserError, match="which is not there"):
            _ = recorded.timepoints


@pytest.mark.usefixtures("only_these_takes")
def test_a_reader_that_stumbles_costs_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 32 was one: a picture of 1x1 px divided by zero and nothing was reported of anything."""
    bad = root / TAKE / "colorimage" / "camera02_colorimage-000101.jpg"
    row = BY_NAME["room_views"]

    def stumble(path: Path, take: Take, domain: Domain) -> object:
        return 1 // 0 if path == bad or row.check is None else row.check(path, take, domain)

    monkeypatch.setitem(BY_NAME, "room_views", replace(row, check=stumble))
    (finding,) = check(root).findings
    assert (finding.path, finding.severity) == (bad, Severity.BROKEN)
    assert "cannot be read (ZeroDivisionError" in finding.message


@pytest.mark.usefixtures("only_these_takes")
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (f"{TAKE}/colorimage/*", "15 of 15 files are missing: room_views of take 001_PKA; normal for some takes"),
        (f"{TAKE}/simstation/camera01_000200.jpg", "1 of 12 files are missing: station_views"),
        (f"MM-OR_data/take_tracks/{MMOR_NAME}.json", "3 of 3 files are missing: tracker"),
        (f"MM-OR_data/take_audios/{MMOR_NAME}.mp3", "1 of 1 files are missing: recording"),
        (
            f"MM-OR_data/take_transcripts_per_timepoint/{MMOR_NAME}/*",
            "`mmor scene-graph preprocess transcripts --data ",
        ),
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
def test_no_sound_is_missing_before_the_first_second_of_a_take(root: Path) -> None:
    """Prepared up to a second only, that one has none; it was a gap for ever."""
    data, take = root / "MM-OR_data", mmor().find_take(MMOR_NAME)
    index, seconds = data / MMOR_NAME / "timestamp_to_pcd_and_frames_list.json", place(data, "seconds", take)
    write(index, index.read_text().replace('"000001"', '"000000"'))
    write(seconds, seconds.read_text().replace('"1"', '"0"'))
    for name, file in (("take_audio_per_timepoint", "{}.mp3"), ("take_audio_embeddings_per_timepoint", "{}.pt")):
        (data / name / MMOR_NAME / file.format("000001")).unlink()
    sounds = "audio", "audio_embedding"

    def gaps() -> list[str]:
        return [name for finding in check(root).findings for name in sounds if f": {name} of take" in finding.message]

    assert sorted(gaps()) == [*sounds]
    for name in ("take_audio_per_timepoint", "take_audio_embeddings_per_timepoint"):
        write(data / name / MMOR_NAME / ".settings.json", {"window": "causal window"})
    assert not gaps()
    assert check(root).to_json()["takes"][1]["files"]["audio"] == {"found": 2, "expected": 2}


def test_seconds_of_other_frames_than_the_index_are_broken(root: Path) -> None:
    """Stage 1 finds pictures by the one file, stage 2 by the other."""
    path = root / "MM-OR_data" / "take_jsons" / f"{MMOR_NAME}.json"
    content = json.loads(path.read_text())
    content["timestamps"]["2"]["azure"] = 999
    content["timestamps"]["3"]["azure"] = 102.0  # another spelling of the same number
    write(path, content)
    (found,) = [finding for finding in doctor.check(Dataset(root)).findings if finding.path == path]
    assert found.severity == Severity.BROKEN
    assert "in 1 seconds, in second 000002 azure 000999 and there 000101: masks would be" in found.message


@pytest.mark.usefixtures("only_these_takes")
def test_seconds_that_end_before_the_index_are_a_gap(root: Path) -> None:
    path = root / "MM-OR_data" / "take_jsons" / f"{MMOR_NAME}.json"
    frames = json.loads(path.read_text())["timestamps"]
    write(path, {"timestamps": dict(list(frames.items())[:2])})
    (finding,) = check(root).findings
    assert (finding.severity, finding.path) == (Severity.GAP, path)
    assert "lacks 1 of 3 times of the index, the first is 000003" in finding.message


@pytest.mark.usefixtures("only_these_takes")
def test_frames_that_the_index_does_not_name_are_gaps(root: Path) -> None:
    index = root / TAKE / "timestamp_to_pcd_and_frames_list.json"
    write(index, [[f"{i + 1:06d}", {"simstation": f"{200 + i:06d}"}] for i in range(3)])
    report = check(root)
    assert [finding.path for finding in report.findings] == [index, index]
    assert "15 of 15 files are missing: room_views" in report.findings[0].message + report.findings[1].message


def test_the_phases_that_nobody_evaluates_are_no_gap(tmp_path: Path) -> None:
    write_mmor(tmp_path / "MM-OR_data", "004_PKA")
    phases = place(tmp_path / "MM-OR_data", "robot_phase", mmor().find_take("004_PKA"))
    assert not check(tmp_path, ["004_PKA"]).exit_code
    phases.unlink()
    assert not check(tmp_path, ["004_PKA"]).exit_code
    write(phases, "[")
    assert check(tmp_path, ["004_PKA"]).exit_code == 2


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


def test_few_files_wait_to_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All did, before the first was read: gigabytes of a whole dataset."""
    waiting, submit = list[int](), ThreadPoolExecutor.submit

    def counted(pool: ThreadPoolExecutor, *job: Any) -> Any:
        waiting.append(pool._work_queue.qsize())
        return submit(pool, *job)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    monkeypatch.setattr(doctor, "cpu_threads", lambda: 1)
    monkeypatch.setattr(doctor, "_complaint", lambda job: time.sleep(0.002) or (Severity.NOTE, ""))
    report = doctor.check(Dataset(write_dataset(tmp_path), mmor()))
    assert len(waiting) > 100
    assert max(waiting) < 20
    assert not broken(report)
