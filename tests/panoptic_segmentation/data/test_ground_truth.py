"""From label masks to class pictures, records and videos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_ids, read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.work import progress
from panoptic_segmentation.data import ground_truth
from panoptic_segmentation.data.ground_truth import ground_truth_path, prepare
from panoptic_segmentation.data.videos import find_videos, split_video
from tests.operating_room.published import index_place, mask_place, picture_place
from tests.operating_room.tiny_house import write_house

TAKE = mmor().find_take("001_PKA")
LABELS = mmor().labels


@given(st.integers(0, 2000), st.integers(4, 300))
def test_parts_cover_a_video(count: int, length: int) -> None:
    parts = split_video(count, length)
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert set(covered) == set(range(count))
    assert all(part.stop - part.start <= length for part in parts)
    assert all(a.start + length - 3 == b.start for a, b in pairwise(parts))


def test_videos_of_two_takes_that_are_predicted_one_by_one_never_have_one_name(tmp_path: Path) -> None:
    """Pictures of rooms of one's own are numbered: what was predicted for one camera was taken for the other's."""
    root = write_house(tmp_path)
    domain = root / "domain.yaml"
    domain.write_text(domain.read_text().replace("door", "arm").replace("ceiling", "left_arm"))
    for path in [*root.rglob("door"), *root.rglob("ceiling")]:
        path.rename(path.with_name({"door": "arm", "ceiling": "left_arm"}[path.name]))
    dataset = Dataset(root)
    assert find_videos(dataset, [dataset.named("soup")], annotated=False)
    (root / "takes" / "stew").rename(root / "takes" / "soup_left")
    (root / "splits.yaml").unlink()
    dataset = Dataset(root)
    for take in ("soup", "soup_left"):
        with pytest.raises(UserError, match="would both be called soup_left_arm; rename a take or a camera"):
            find_videos(dataset, [dataset.named(take)], annotated=False)


def write_take(root: Path, frames: int, take: Take = TAKE) -> Dataset:
    """A take with room camera 1: pictures of all frames, masks of all but the third."""
    collection = mmor().collection(take)
    folder = root / collection.root
    camera = next(camera for camera in collection.labelled_cameras if camera.name == "1")
    numbers = [f"{100 + 3 * i:06d}" for i in range(frames)]
    index = index_place(folder, take)
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps([[f"{i:06d}", {camera.frame: number}] for i, number in enumerate(numbers)]))
    for i, number in enumerate(numbers):
        mask, picture = (
            mask_place(folder, take, "1", number),
            picture_place(folder, take, "1", number),
        )
        for path in (mask, picture):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (90, 60, 30)).save(picture)
        if i != 2:
            labels = np.zeros((12, 16), np.uint8)
            labels[2:9, 3 : 8 + i % 4] = 5
            Image.fromarray(labels).save(mask)
    return Dataset(root)


def test_from_a_take_to_prepared_pictures(tmp_path: Path) -> None:
    dataset = write_take(tmp_path / "data", 9)
    videos = find_videos(dataset, [TAKE], length=6)
    assert [(video.video_id, len(video.frames)) for video in videos] == [
        ("001_PKA_1_part0", 6), ("001_PKA_1_part1", 5), ("001_PKA_1_part2", 2)
    ]  # fmt: skip
    truth = prepare(videos, tmp_path / "out", "mmor_ground_truth_train", (32, 24))
    assert [video["video_id"] for video in truth["videos"]] == [video.video_id for video in videos]
    assert truth["annotations"][0]["annotations"][0]["segments_info"][0]["area"] == 4 * 7 * 5
    training = np.asarray(Image.open(videos[0].prepared(tmp_path / "out")[0]))
    evaluation = np.asarray(Image.open(videos[0].prepared(tmp_path / "out", for_validation=True)[0]))
    assert training.shape == evaluation.shape == (24, 32, 3)
    assert training[10, 8].tolist() == [50, 0, 0]
    assert evaluation[10, 8].tolist() == LABELS.colors[5].tolist()
    assert not list((tmp_path / "data").rglob("panoptic_seg*"))


def test_the_picture_of_a_camera_that_stalls_is_one_frame(tmp_path: Path) -> None:
    dataset = write_take(tmp_path / "data", 5)
    index = index_place(tmp_path / "data" / "MM-OR_data", TAKE)
    listed = json.loads(index.read_text())
    numbers = [numbers["azure"] for _, numbers in listed]
    listed[1][1]["azure"] = numbers[0]
    listed[4][1]["azure"] = numbers[3]
    index.write_text(json.dumps(listed))
    (video,) = find_videos(dataset, [TAKE], annotated=False)
    assert video.frames == (numbers[0], numbers[2], numbers[3])


def test_labels_that_nobody_knows_are_named_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (video,) = find_videos(write_take(tmp_path / "data", 5), [TAKE])
    first, told = prepare([video], tmp_path / "usual", "truth", (16, 12)), capsys.readouterr().err
    assert "note" not in told
    for path, label in zip(video.masks()[:3], (21, 21, 14)):  # 14 is a mistake that the domain knows
        mask = read_label_mask(path).copy()
        mask[2:9, 12:16] = label
        Image.fromarray(mask).save(path)
    assert prepare([video], tmp_path / "out", "truth", (16, 12), workers=2) == first
    told = capsys.readouterr().err
    assert told.count("note: label") == 1
    assert "note: label 21 is in no table of the domain and counts as background" in told
    assert f"in 2 masks, first {video.masks()[0]}\n" in told
    prepare([video], tmp_path / "out", "truth", (16, 12))
    assert "note" not in capsys.readouterr().err


def test_preparing_again_repairs_what_is_missing_or_old(tmp_path: Path) -> None:
    dataset = write_take(tmp_path / "data", 4)
    videos = find_videos(dataset, [TAKE])
    first = prepare(videos, tmp_path / "out", "truth", (16, 12))
    (lost, kept, _) = videos[0].prepared(tmp_path / "out")
    time = kept.stat().st_mtime_ns
    lost.unlink()
    assert prepare(videos, tmp_path / "out", "truth", (16, 12)) == first
    assert lost.exists()
    assert kept.stat().st_mtime_ns == time
    larger = prepare(videos, tmp_path / "out", "truth", (32, 24))
    assert larger["videos"][0]["images"][0]["width"] == 32
    Image.new("L", (16, 12), 8).save(videos[0].masks()[0])
    changed = prepare(videos, tmp_path / "out", "truth", (32, 24))
    assert changed["annotations"][0]["annotations"][0]["segments_info"][0]["category_id"] == 8


def test_a_mask_that_is_older_than_what_was_prepared_is_prepared(tmp_path: Path) -> None:
    """Masks from an archive keep their date: each that differs in size or time from the one before counts as new."""
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    prepare(videos, tmp_path / "out", "one", (16, 12))
    prepare(videos, tmp_path / "out", "two", (16, 12))
    Image.new("L", (16, 12), 8).save(videos[0].masks()[0])
    os.utime(videos[0].masks()[0], (1_000_000_000, 1_000_000_000))
    for name in ("two", "one"):  # the second finds the pictures made, its file is old
        truth = prepare(videos, tmp_path / "out", name, (16, 12))
        classes = [segment["category_id"] for segment in truth["annotations"][0]["annotations"][0]["segments_info"]]
        assert classes == [8]
    assert read_ids(videos[0].prepared(tmp_path / "out")[0]).max() == 80


def test_what_is_prepared_and_has_not_changed_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    first = prepare(videos, tmp_path / "out", "truth", (16, 12))
    read: list[Path] = []

    def count(path: Path, reader: Callable[[Path], np.ndarray]) -> np.ndarray:
        read.append(path)
        return reader(path)

    for reader in (read_label_mask, read_ids):
        monkeypatch.setattr(ground_truth, reader.__name__, partial(count, reader=reader))
    assert prepare(videos, tmp_path / "out", "truth", (16, 12)) == first
    assert read == []
    os.utime(videos[0].masks()[1])
    assert prepare(videos, tmp_path / "out", "truth", (16, 12)) == first
    assert videos[0].masks()[1] in read
    assert videos[0].masks()[0] not in read


@pytest.mark.parametrize("noted", [1, 500])
def test_an_interrupted_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: int) -> None:
    videos = find_videos(write_take(tmp_path / "data", 5), [TAKE])
    read: list[Path] = []

    def interrupted(path: Path) -> np.ndarray:
        read.append(path)
        if len(read) == 3:
            raise KeyboardInterrupt
        return read_label_mask(path)

    monkeypatch.setattr(ground_truth, "_NOTED", noted)
    monkeypatch.setattr(ground_truth, "read_label_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(videos, tmp_path / "out", "truth", (16, 12))
    prepare(videos, tmp_path / "out", "truth", (16, 12))
    assert read == [*videos[0].masks()[:3], *videos[0].masks()[2:]]


def test_what_a_killed_preparation_has_written_over_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another size, or categories that were tried and taken back: what is noted of the first is no longer there."""
    videos = find_videos(write_take(tmp_path / "data", 5), [TAKE])
    first = prepare(videos, tmp_path / "out", "truth", (16, 12))
    pictures = [path for kind in (False, True) for path in videos[0].prepared(tmp_path / "out", kind)]
    before = [path.read_bytes() for path in pictures]
    with monkeypatch.context() as killed:
        killed.setattr(ground_truth.PreparedIndex, "add", lambda *_: None)
        prepare(videos, tmp_path / "out", "truth", (8, 6))
    assert [path.read_bytes() for path in pictures] != before
    assert prepare(videos, tmp_path / "out", "truth", (16, 12)) == first
    assert [path.read_bytes() for path in pictures] == before


@pytest.mark.parametrize("for_validation", [False, True])
@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_a_damaged_prepared_picture_is_made_again(tmp_path: Path, for_validation: bool, damage: bytes | None) -> None:
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    first = prepare(videos, tmp_path / "out", "truth", (16, 12))
    path = videos[0].prepared(tmp_path / "out", for_validation)[1]
    whole = bytearray(path.read_bytes())
    flipped = bytearray(whole)
    flipped[-18] ^= 4  # one bit of the pixels
    path.write_bytes(flipped if damage is None else damage)
    assert prepare(videos, tmp_path / "out", "truth", (16, 12), workers=2) == first
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "text", ["null", "[]", "{", "[" * 50_000, '{"videos": 3}', '{"annotations": [{"video_id": "x"}], "categories": 1}']
)
@pytest.mark.parametrize("name", ["truth", "index"])
def test_files_of_ours_that_are_damaged_are_made_again(tmp_path: Path, name: str, text: str) -> None:
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    first = prepare(videos, tmp_path / "out", "truth", (16, 12))
    path = ground_truth_path(tmp_path / "out", name)
    path.write_text(text)
    assert prepare(videos, tmp_path / "out", "truth", (16, 12)) == first
    assert json.loads(ground_truth_path(tmp_path / "out", "truth").read_text()) == first


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_goes_to_the_last_mask(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operating_room.work.progress._FIRST", 0.0)  # short work is not shown otherwise
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    prepare(videos, tmp_path / "out", "truth", (16, 12), workers=workers)
    assert "ground truth 3/3" in capsys.readouterr().err


def test_a_mask_that_is_a_link_to_nothing_costs_itself(tmp_path: Path) -> None:
    (video,) = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    video.masks()[0].unlink()
    video.masks()[0].symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"1 of 3 masks .* the others are prepared"):
        prepare([video], tmp_path / "out", "truth", (16, 12))
    assert video.prepared(tmp_path / "out")[1].exists()
    for mask in video.masks():
        mask.unlink(missing_ok=True)
        mask.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"3 of 3 masks cannot be used; first: "):
        prepare([video], tmp_path / "out", "truth", (16, 12))


def test_lost_pictures_and_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_take(tmp_path / "data", 4)
    (video,) = find_videos(dataset, [TAKE])
    assert len(find_videos(dataset, [TAKE], annotated=False)[0].frames) == 4
    video.masks()[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"camera01_colorimage-000103\.png"):
        prepare([video], tmp_path / "out", "truth", (16, 12))
    Image.new("L", (40, 12), 5).save(video.masks()[0])
    with pytest.raises(UserError, match=r"2 of 3 masks .* the others are prepared; first: .*is 40x12 px, its picture"):
        prepare([video], tmp_path / "out", "truth", (16, 12), workers=2)
    assert video.prepared(tmp_path / "out")[2].exists()
    video.pictures()[0].unlink()
    again = Dataset(tmp_path / "data")
    assert len(find_videos(again, [TAKE])[0].frames) == 2
    assert "camera01_colorimage-000100.jpg: not there, 1 annotated frames are left out" in capsys.readouterr().err
    assert len(find_videos(again, [TAKE], with_pictures=False)[0].frames) == 3
    for mask in video.masks():
        mask.unlink(missing_ok=True)
    assert find_videos(Dataset(tmp_path / "data"), [TAKE]) == []
    assert "left out for want of annotated frames: 001_PKA" in capsys.readouterr().err
    with pytest.raises(UserError, match="no annotated frame"):
        prepare([], tmp_path / "out", "truth")


def test_looking_at_masks_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 75,000 masks on a network disk it takes minutes, also where nothing is left to prepare."""
    videos = find_videos(write_take(tmp_path / "data", 4), [TAKE])
    prepare(videos, tmp_path / "prepared", "truth", (16, 12))
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    prepare(videos, tmp_path / "prepared", "truth", (16, 12))
    told = capsys.readouterr().err
    assert "looking at label masks 1/1" in told
    assert "looking at prepared masks 3/3" in told
