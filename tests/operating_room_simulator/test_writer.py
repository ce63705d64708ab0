from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import (
    read_audio,
    read_json,
    read_label_mask,
    read_picture,
    read_point_cloud,
    read_subtitles,
)
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings import raw_labels as relations
from operating_room.recordings.conversion import label_files
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.work.workers import in_workers
from operating_room_simulator import writer
from operating_room_simulator.records import frame_numbers, raw_labels, start_second, write_index, write_records
from operating_room_simulator.stage import rendering
from operating_room_simulator.story.annotated import annotated_surgery
from operating_room_simulator.story.story import Surgery, script_surgery
from operating_room_simulator.writer import Faults, named_takes, synthesize, write_take, write_takes
from tests.operating_room.published import index_place, mask_place, picture_place, place

SIZE = (48, 32)


def _digests(root: Path) -> Mapping[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _short(name: str, seconds: int = 3, seed: int = 0) -> Surgery:
    """The middle of a surgery, where most is going on."""
    surgery = script_surgery(mmor().find_take(name), seed, 40)
    samples = [Sample(surgery.take.sample_name, "", m.triplets) for m in surgery.moments[20 : 20 + seconds]]
    return annotated_surgery(surgery.take, samples, seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    write_takes(folder, [_short(name) for name in ("012_1_PKA", "012_2_PKA", "002_4DOR")], size=SIZE)
    return folder


@pytest.mark.parametrize("name", ["012_1_PKA", "012_2_PKA"])
def test_an_mmor_take_is_complete(root: Path, name: str) -> None:
    take, folder = mmor().find_take(name), root / "MM-OR_data"
    index = read_json(folder / "012_PKA" / f"timestamp_to_pcd_and_frames_list_{name}.json")
    start = int(index[0][0])
    assert [element[0] for element in index] == [f"{start + second:06d}" for second in range(3)]
    assert read_json(place(folder, "seconds", take))["timestamps"] == {str(int(ts)): frames for ts, frames in index}
    for ts, frames in index:
        for camera in mmor().collection(take).cameras:
            assert read_picture(picture_place(folder, take, camera.name, frames[camera.frame])).shape == (32, 48, 3)
        summary = read_json(place(folder, "robot_screen", take, simstation=frames["simstation"]))
        assert all({"type", "template_name"} <= set(part) for part in summary.values())
        cloud = read_point_cloud(place(folder, "point_cloud", take, time=ts))
        assert np.abs(cloud[:, :3]).max() < 6  # m
        assert 0.05 < cloud[:, 3:].mean() < 0.95
        for camera in mmor().collection(take).labelled_cameras:
            mask = read_label_mask(mask_place(folder, take, camera.name, frames[camera.frame]))
            assert mask.shape == (32, 48)
            assert set(np.unique(mask)) <= set(mmor().labels.labels)
            assert len(np.unique(mask)) > 3
    assert len(read_json(place(folder, "tracks", take))) == start + 3
    samples, rate = read_audio(place(folder, "recording", take))
    assert len(samples) == pytest.approx((start + 3) * rate, rel=0.1)
    for task in ("next_action", "robot_phase", "sterility_breach"):
        assert list(read_json(place(folder, task, take))) == ["000000", "000001", "000002"]


def test_a_fourdor_take_is_complete(root: Path) -> None:
    take, folder = mmor().find_take("002_4DOR"), root / "4D-OR_data"
    index = read_json(index_place(folder, take, of_folder=True))
    for ts, frames in index:
        assert set(frames) == {"pcd", *(f"color_{camera}" for camera in range(1, 7))}
        assert frames["pcd"] != ts
        read_point_cloud(place(folder, "point_cloud", take, **frames))
        for camera in range(1, 7):
            read_picture(picture_place(folder, take, str(camera), frames[f"color_{camera}"]))
        for camera in [camera.name for camera in mmor().collection(take).labelled_cameras]:
            read_label_mask(mask_place(folder, take, camera, frames[f"color_{camera}"]))
    assert {path.name for path in folder.iterdir()} == {".synthetic", "export_holistic_take2_processed"}


def test_the_index_finds_everything(root: Path) -> None:
    recorded = Dataset(root).take(mmor().find_take("012_2_PKA"))
    for number, timepoint in enumerate(recorded.timepoints):
        assert timepoint.frame_id == f"{number:06d}"
        assert list(timepoint.several("room_views")) == ["1", "2", "3", "4", "5"]
        assert list(timepoint.several("station_views")) == [f"simstation{number}" for number in range(4)]
        assert timepoint.tracker is not None
        assert all(map(timepoint.has, ("tracker_view", "point_cloud", "robot_screen", "annotation")))
        assert set(timepoint.several("label_masks")) == {
            camera.name for camera in mmor().collection("MMOR").labelled_cameras
        }


@pytest.mark.parametrize("take", mmor().takes, ids=lambda take: take.name)
def test_label_conversion_gives_the_story_back(take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operating_room_simulator.records._write_recording", lambda *_: None)
    surgery = script_surgery(take, 1, 60)
    write_records(tmp_path, surgery)
    write_index(tmp_path, surgery)
    files = label_files(RecordedTake(tmp_path, take, mmor()))
    samples = [relations.read_labels(path, take, mmor()) for path in files]
    step = 3 if take.name == "007_TKA" else 1
    assert [sample.frame_id for sample in samples] == [f"{second:06d}" for second in range(0, 60, step)]
    assert [sample.triplets for sample in samples] == [moment.triplets for moment in surgery.moments[::step]]
    if take.dataset == "MMOR":
        assert len(read_subtitles(place(tmp_path, "subtitles", take))) > 5


def test_annotated_seconds_are_told_in_the_order_of_time() -> None:
    """A shuffled label file, which everything else takes, gave a take whose deeds came in the order of the file."""
    graphs = [(Triplet("nurse", "saw", "holding"),)] * 5 + [(Triplet("head_surgeon", "patient", "cutting"),)] * 5
    samples = [Sample("002_PKA_MMOR", f"{place:06d}", graph) for place, graph in enumerate(graphs)]
    take = mmor().find_take("002_PKA")
    expected = annotated_surgery(take, samples, seed=0)
    assert [len(moment.triplets) for moment in expected.moments[:5]] == [1] * 5
    assert annotated_surgery(take, samples[::-1], seed=0) == expected


def test_raw_labels_look_like_the_published_ones() -> None:
    moment = script_surgery(mmor().find_take("001_4DOR"), 0, 60).moments[30]
    raw = raw_labels(mmor().find_take("001_4DOR"), moment.triplets, moment.people)
    assert set(raw) == {"rel_annotations", "human_name_annotations"}
    assert {"head-surgeon", "assistant-surgeon"} <= set(raw["human_name_annotations"].values())
    assert ["Patient", "LyingOn", "operating_table", "", ""] in raw["rel_annotations"]


def test_takes_of_one_folder_do_not_share_frames() -> None:
    takes = [take for take in mmor().takes if take.folder == "023-032_PKA"]
    numbers = [frame_numbers(take, second)["azure"] for take in takes for second in range(0, 20_000, 1000)]
    assert len(set(numbers)) == len(numbers)
    assert all(len(number) == 6 for number in numbers)


def test_time_stamps_need_not_be_positions() -> None:
    assert len({start_second(script_surgery(take, 0, 40)) for take in mmor().split_takes("train", ("MMOR",))}) > 1


def test_same_seed_same_bytes_whatever_the_number_of_processes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PIECE", 2)
    surgeries = [_short(name) for name in ("002_4DOR", "012_2_PKA", "012_1_PKA")]
    write_takes(tmp_path, surgeries, size=SIZE, workers=2)
    assert _digests(tmp_path) == _digests(root)


def test_another_seed_gives_other_bytes(root: Path, tmp_path: Path) -> None:
    write_take(tmp_path, _short("002_4DOR", seconds=1, seed=9), size=SIZE)
    frame = next((tmp_path / "4D-OR_data").rglob("camera01*.jpg"))
    assert frame.read_bytes() != (root / frame.relative_to(tmp_path)).read_bytes()


def test_finished_takes_are_skipped_and_half_written_ones_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surgery = _short("001_4DOR")
    write_take(tmp_path, surgery, size=SIZE)
    whole = _digests(tmp_path)
    drawn = []
    monkeypatch.setattr(writer, "render", lambda *_: drawn.append(1))
    write_take(tmp_path, surgery, size=SIZE)
    assert not drawn
    monkeypatch.undo()

    other = tmp_path / "interrupted"
    write_index(other / "4D-OR_data", surgery)  # earlier versions began with it
    note = Path("4D-OR_data/.synthetic/001_4DOR.json")
    write_json(other / note, {**json.loads((tmp_path / note).read_text()), "finished": False})
    monkeypatch.setattr(writer, "_write_cloud", _raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_take(other, surgery, size=SIZE)
    assert _digests(other) != whole
    with pytest.raises(UserError, match="no timestamp_to_pcd"):
        _ = Dataset(other).take(surgery.take).timepoints
    monkeypatch.undo()
    write_take(other, surgery, size=SIZE)
    assert _digests(other) == whole


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_other_takes_are_never_overwritten(tmp_path: Path) -> None:
    surgery = _short("001_4DOR", seconds=1)
    write_take(tmp_path, surgery, size=SIZE)
    with pytest.raises(UserError, match="simulated with other options"):
        write_take(tmp_path, surgery, size=(64, 48))
    recorded = tmp_path / "recorded"
    index = index_place(recorded / "4D-OR_data", surgery.take, of_folder=True)
    index.parent.mkdir(parents=True)
    index.write_text("[]")
    with pytest.raises(UserError, match="was not simulated"):
        write_take(recorded, surgery, size=SIZE)


def test_a_take_with_breaches_is_not_taken_for_a_usual_one(tmp_path: Path) -> None:
    usual = _short("001_PKA", seconds=1)
    write_take(tmp_path, replace(usual, breaches=3), size=SIZE)
    with pytest.raises(UserError, match=r"other options \(breaches 3, not None\)"):
        write_take(tmp_path, usual, size=SIZE)
    with pytest.raises(UserError, match=r"other options \(breaches 3, not 4\)"):
        write_take(tmp_path, replace(usual, breaches=4), size=SIZE)
    write_take(tmp_path, replace(usual, breaches=3), size=SIZE)


def test_a_take_of_another_version_is_told_by_its_story(tmp_path: Path) -> None:
    """With the same options after an update; "story 144979769, not 3322896195" told nobody what to do."""
    usual = _short("001_PKA", seconds=1)
    write_take(tmp_path, usual, size=SIZE)
    (moment,) = usual.moments
    with pytest.raises(UserError, match=r"tells another story: .* another version of mmor; choose another folder"):
        write_take(tmp_path, replace(usual, moments=(replace(moment, triplets=()),)), size=SIZE)


def test_a_take_with_camera_files_is_not_gone_on_with_without_them(tmp_path: Path) -> None:
    """What an interrupted one had of depth pictures stayed in a take that was finished without any."""
    surgery = _short("001_4DOR", seconds=1)
    write_takes(tmp_path, [surgery], size=SIZE, calibration=True)
    note = tmp_path / "4D-OR_data/.synthetic/001_4DOR.json"
    for finished in (True, False):
        write_json(note, {**json.loads(note.read_text()), "finished": finished})
        with pytest.raises(UserError, match=r"other options \(calibration True, not None\)"):
            write_takes(tmp_path, [surgery], size=SIZE)


def test_the_advice_never_costs_a_recording(tmp_path: Path) -> None:
    surgery = _short("001_4DOR", seconds=1)
    write_take(tmp_path, surgery, size=SIZE)
    with pytest.raises(UserError) as refused:
        write_take(tmp_path, _short("001_4DOR", seconds=1, seed=9), size=(64, 48))
    assert "remove" not in str(refused.value)
    assert "seed 0, not 9" in str(refused.value)
    assert "size [48, 32], not [64, 48]" in str(refused.value)


@pytest.mark.parametrize("left", ["take_audios/001_PKA.mp3", "take_tracks/001_PKA.json", "001_PKA/colorimage/a.jpg"])
def test_a_half_copied_recording_is_not_overwritten(tmp_path: Path, left: str) -> None:
    file = tmp_path / "MM-OR_data" / left
    file.parent.mkdir(parents=True)
    file.write_bytes(b"recorded")
    with pytest.raises(UserError, match="was not simulated"):
        write_take(tmp_path, _short("001_PKA", seconds=1), size=SIZE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_recordings_and_simulated_takes_may_share_a_folder_of_the_dataset(tmp_path: Path) -> None:
    write_take(tmp_path, _short("012_1_PKA", seconds=1), size=SIZE)
    write_take(tmp_path, _short("012_2_PKA", seconds=1), size=SIZE)  # in the pictures' folder of the other
    recorded = tmp_path / "MM-OR_data" / "015-018_PKA"
    recorded.mkdir()
    with pytest.raises(UserError, match="was not simulated"):
        write_take(tmp_path, _short("016_PKA", seconds=1), size=SIZE)


def test_as_many_processes_as_memory_is_there_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def counted(write: Callable[[Any], Any], pieces: Sequence[Any], workers: int, title: str) -> Any:
        started.append(workers)
        return in_workers(write, pieces, 1, title)

    monkeypatch.setattr(writer, "in_workers", counted)
    monkeypatch.setattr(writer, "_PIECE", 1)
    monkeypatch.setattr(rendering, "memory", lambda width, height: 1_000_000_000)
    for free, name in ((64_000_000_000, "001_4DOR"), (2_500_000_000, "002_4DOR"), (1_000, "003_4DOR")):
        monkeypatch.setattr(rendering, "free_memory", lambda free=free: free)
        write_takes(tmp_path, [_short(name, seconds=3)], size=SIZE, workers=3)
    assert started == [3, 2, 1]
    first, second = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    assert first.startswith("note: 2 processes instead of 3: each may take 1.1 GB for pictures of 48x32 px")
    assert second.startswith("note: 1 processes instead of 3")


def test_faults(tmp_path: Path) -> None:
    surgeries = [_short("001_PKA", seconds=2), _short("003_TKA", seconds=8)]
    faults = Faults(no_room_cameras=("001_PKA",), no_tracker=("003_TKA",), missing_frames=0.3)
    write_takes(tmp_path, surgeries, size=SIZE, faults=faults, mask_stride=4)
    folder = tmp_path / "MM-OR_data"
    assert not (folder / "001_PKA" / "colorimage").exists()
    assert not (folder / "take_point_clouds_sparse" / "001_PKA").exists()
    assert {path.name for path in (folder / "take_tracks").iterdir()} == {"001_PKA.json"}
    assert 15 < len(list((folder / "003_TKA" / "colorimage").iterdir())) < 40
    assert len(list((folder / "003_TKA" / "segmentation_export_1").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (4, 4)}, "16 x 16 to 8192 x 8192"),
        ({"size": (64, 100_000)}, "16 x 16 to 8192 x 8192"),
        ({"workers": 0}, "out of range"),
        ({"seed": -1}, "seed"),
        ({"seconds": 10}, "too short"),
        ({"faults": Faults(no_tracker=("004_PKA",))}, "not simulated: 004_PKA"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path: Path, options: dict, message: str) -> None:
    defaults: dict[str, Any] = {"seconds": 40, "size": SIZE}
    with pytest.raises(UserError, match=message):
        synthesize(tmp_path, [mmor().find_take("001_PKA")], **{**defaults, **options})
    assert not list(tmp_path.iterdir())


def test_takes_are_named_one_by_one_or_by_split() -> None:
    assert named_takes(["mini_train", "013_PKA", "001_PKA_MMOR"]) == [
        mmor().find_take("001_4DOR"),
        mmor().find_take("013_PKA"),
        mmor().find_take("001_PKA"),
    ]
    with pytest.raises(UserError, match="11_4DOR"):
        named_takes(["11_4DOR"])
