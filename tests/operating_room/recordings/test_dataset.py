"""The index: every file of a timepoint is found, nothing that is missing, whatever is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError
from operating_room.recordings import folders as folders_module
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.folders import list_names
from operating_room.recordings.index import read_index, read_seconds
from operating_room.recordings.timepoint import Timepoint
from tests.operating_room.tiny_dataset import MMOR_NAME, write, write_dataset, write_fourdor, write_mmor
from tests.operating_room.tiny_house import write_house

KEYS = ("azure", "simstation", "trackercam", "pcd")
KNEE, ARM = mmor().find_take(MMOR_NAME), mmor().find_take("001_4DOR")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def first(root: Path, take: Take = KNEE, positional_views: bool = False) -> Timepoint:
    return Dataset(root, positional_views=positional_views).take(take).timepoints[0]


def names(timepoint: Timepoint) -> list[str]:
    return [path.name for path in timepoint.several("room_views").values()]


def test_a_complete_timepoint_of_mmor(root: Path) -> None:
    timepoint = Dataset(root).take(KNEE).timepoint("000002")
    data = root / "MM-OR_data"
    assert (timepoint.frame_id, timepoint.time) == ("000002", "000003")
    assert timepoint.several("room_views")["4"] == data / MMOR_NAME / "colorimage" / "camera04_colorimage-000102.jpg"
    assert list(timepoint.several("room_views")) == ["1", "2", "3", "4", "5"]
    assert timepoint.several("station_views")["simstation0"] == data / MMOR_NAME / "simstation" / "camera00_000202.jpg"
    assert timepoint.several("tracker_view").get("trackercam") == data / MMOR_NAME / "trackercam" / "000302.jpg"
    assert timepoint.one("point_cloud") == data / "take_point_clouds_sparse" / MMOR_NAME / "000003.pcd"
    assert timepoint.one("audio") == data / "take_audio_per_timepoint" / MMOR_NAME / "000003.mp3"
    assert timepoint.one("audio_embedding") == data / "take_audio_embeddings_per_timepoint" / MMOR_NAME / "000003.pt"
    assert timepoint.one("transcript") == data / "take_transcripts_per_timepoint" / MMOR_NAME / "000003.json"
    assert timepoint.one("robot_screen") == data / "screen_summaries" / MMOR_NAME / "000202.json"
    assert timepoint.tracker is not None
    assert timepoint.tracker["n"] == 3
    assert [path.name for path in timepoint.several("masks").values()] == [f"000003_{i}_GTFalse.png" for i in range(3)]
    assert list(timepoint.several("label_masks")) == ["1", "4", "5", "simstation0", "simstation2", "simstation3"]
    assert timepoint.one("annotation") == data / MMOR_NAME / "relation_labels" / "000002.json"


def test_a_complete_timepoint_of_fourdor(root: Path) -> None:
    timepoint = Dataset(root).take(ARM).timepoint("000001")
    folder = root / "4D-OR_data" / "export_holistic_take1_processed"
    assert timepoint.several("room_views")["6"] == folder / "colorimage" / "camera06_colorimage-000601.jpg"
    assert timepoint.one("point_cloud") == folder / "pcds_sparse" / "000401.pcd"
    assert list(timepoint.several("label_masks")) == ["1", "2", "5"]
    assert timepoint.several("label_masks")["5"].name == "camera05_colorimage-000501.png"
    assert not timepoint.several("station_views")
    only_mmor = (
        timepoint.several("tracker_view").get("trackercam"),
        timepoint.one("audio"),
        timepoint.one("transcript"),
        timepoint.one("robot_screen"),
    )
    assert (*only_mmor, timepoint.one("audio_embedding"), timepoint.tracker) == (None,) * 6


def test_a_missing_camera_shifts_none(root: Path) -> None:
    (root / "4D-OR_data/export_holistic_take1_processed/colorimage/camera04_colorimage-000400.jpg").unlink()
    assert list(first(root, ARM).several("room_views")) == ["1", "2", "3", "5", "6"]
    published = first(root, ARM, positional_views=True).several("room_views")
    assert list(published) == ["1", "2", "3", "4", "5"]
    assert published["5"].name == "camera06_colorimage-000600.jpg"


def test_what_is_missing_is_none(root: Path) -> None:
    data = root / "MM-OR_data"
    for path in data.rglob("*"):
        if path.is_file() and not path.name.startswith("timestamp_to_pcd"):
            path.unlink()
    assert first(root) == Timepoint(KNEE, "000000", "000001", mmor())
    for folder in [*data.glob("take_*"), *data.glob("*/colorimage")]:
        shutil.rmtree(folder)
    assert first(root) == Timepoint(KNEE, "000000", "000001", mmor())


def test_frames_that_the_index_does_not_have(root: Path) -> None:
    write(root / "MM-OR_data" / MMOR_NAME / "timestamp_to_pcd_and_frames_list.json", [["000001", {"azure": None}]])
    timepoint = first(root)
    assert not timepoint.several("room_views")
    assert not timepoint.several("station_views")
    assert timepoint.one("robot_screen") is None
    assert timepoint.one("audio") is not None


def test_no_tracker_file_and_a_short_one(root: Path) -> None:
    tracks = root / "MM-OR_data" / "take_tracks" / f"{MMOR_NAME}.json"
    write(tracks, [None, {"unique_id_dicts": []}])
    assert [t.tracker for t in Dataset(root).take(KNEE).timepoints] == [{"unique_id_dicts": []}, None, None]
    tracks.unlink()
    assert first(root).tracker is None


def test_takes_that_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "MM-OR_data" / "012_PKA"
    write(folder / "timestamp_to_pcd_and_frames_list_012_2_PKA.json", [["000005", {}]])
    assert Dataset(tmp_path).takes() == [mmor().find_take("012_2_PKA")]
    write(folder / "timestamp_to_pcd_and_frames_list.json", [["000009", {}]])
    both = Dataset(tmp_path)
    assert both.takes() == [mmor().find_take("012_1_PKA"), mmor().find_take("012_2_PKA")]
    assert [both.take(take).timepoints[0].time for take in both.takes()] == ["000009", "000005"]


def test_labels_in_the_folder_of_the_take(root: Path) -> None:
    folder = root / "MM-OR_data" / MMOR_NAME
    (folder / "relation_labels").rename(folder / f"relation_labels_{MMOR_NAME}")
    assert first(root).one("annotation") == folder / f"relation_labels_{MMOR_NAME}" / "000000.json"


def test_either_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fourdor(tmp_path / "4D-OR_data")
    assert Dataset(tmp_path).takes() == Dataset(tmp_path / "4D-OR_data").takes() == [ARM]
    assert Dataset(tmp_path / "4D-OR_data").root == tmp_path
    with pytest.raises(UserError, match="no MM-OR_data, which holds the take 001_PKA"):
        Dataset(tmp_path).take(KNEE)
    write_mmor(tmp_path / "elsewhere" / "renamed")
    assert Dataset(tmp_path / "elsewhere" / "renamed").takes() == [KNEE]
    monkeypatch.chdir(tmp_path / "4D-OR_data")
    assert Dataset(Path()).takes() == [ARM]


def test_splits_and_own_takes(root: Path) -> None:
    write_mmor(root / "MM-OR_data", "my_knee-1")
    found = Dataset(root)
    assert found.takes() == [ARM, KNEE, mmor().find_take("my_knee-1")]
    (root / "4D-OR_data" / ARM.folder).rename(root / "4D-OR_data" / "export_holistic_take101_processed")
    assert Dataset(root).takes() == [mmor().find_take("101_4DOR"), KNEE, mmor().find_take("my_knee-1")]
    assert len(Dataset(root).take(mmor().find_take("101_4DOR")).timepoints) == 3
    with pytest.raises(UserError, match="001_4DOR to 010_4DOR, own ones up to 999_4DOR"):
        mmor().find_take("one_4DOR")


def test_splits(root: Path) -> None:
    found = Dataset(root)
    assert found.select("train") == [ARM, KNEE]
    assert found.select("test") == []
    with pytest.raises(UserError, match=r"'tset' does not exist; choose one of .*train.*, own$"):
        found.select("tset")


def test_a_room_without_its_domain_is_told_what_is_missing(tmp_path: Path) -> None:
    (write_house(tmp_path / "room") / "domain.yaml").unlink()
    with pytest.raises(UserError, match=r"holds takes in the house layout but no domain\.yaml; copy it there"):
        Dataset(tmp_path / "room")


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        Dataset(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Dataset(tmp_path / "missing")
    with pytest.raises(UserError, match="no such folder"):
        Dataset(write(tmp_path / "file", "text"))


def test_unknown_timepoint_and_missing_index(root: Path) -> None:
    for frame_id in ("000003", "-1", "x", "²", ""):
        with pytest.raises(UserError, match="000000 to 000002"):
            Dataset(root).take(KNEE).timepoint(frame_id)
    with pytest.raises(UserError, match=r"no timestamp_to_pcd_and_frames_list_002_PKA\.json"):
        _ = Dataset(root).take(mmor().find_take("002_PKA")).timepoints


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", '"text"', "[1]", '["ab"]', "[[]]", '[["000001"]]'])
def test_damaged_index(content: str, tmp_path: Path) -> None:
    refuse_index(write(tmp_path / "index.json", content))


@pytest.mark.parametrize("number", [17, 17.0, "17", "000017", "0017"])
def test_numbers_have_one_spelling(number: object, root: Path) -> None:
    """Fault 1: frame numbers that were no text of six digits found no file, without a word."""
    path = write(root / "index.json", [[number, {"azure": number, "simstation": None, "other": []}]])
    assert read_index(path, KEYS) == [("000017", {"azure": "000017"})]
    path = write(root / "seconds.json", {"timestamps": {"3": {"azure": number}, "02": {"pcd": number}}})
    assert list(read_seconds(path, KEYS).items()) == [(2, {"pcd": "000017"}), (3, {"azure": "000017"})]


@pytest.mark.parametrize("kind", [int, float, str])
def test_cameras_are_found_however_their_numbers_are_written(kind: Callable[[int], object], root: Path) -> None:
    index = root / "MM-OR_data" / MMOR_NAME / "timestamp_to_pcd_and_frames_list.json"
    seconds = root / "MM-OR_data" / "take_jsons" / f"{MMOR_NAME}.json"
    before = Dataset(root).take(KNEE)
    files = [list(timepoint.files_by_camera()) for timepoint in before.timepoints]

    def respell(frames: dict[str, str]) -> dict[str, object]:
        return {key: kind(int(number)) for key, number in frames.items()}

    write(index, [[kind(int(time)), respell(frames)] for time, frames, _ in json.loads(index.read_text())])
    content = json.loads(seconds.read_text())["timestamps"]
    write(seconds, {"timestamps": {second: respell(frames) for second, frames in content.items()}})
    after = Dataset(root).take(KNEE)
    assert [list(timepoint.files_by_camera()) for timepoint in after.timepoints] == files
    assert after.seconds == before.seconds


@pytest.mark.parametrize(
    "timestamps", [{}, {"x": {}}, {"-1": {}}, {"1.5": {}}, {"1": []}, {"1": {"azure": "x"}}, {"1": {}, "01": {}}, []]
)
def test_damaged_seconds(timestamps: object, tmp_path: Path) -> None:
    path = write(tmp_path / "seconds.json", {"timestamps": timestamps})
    with pytest.raises(UserError) as refusal:
        read_seconds(path, KEYS)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("times", [[1, 1], [2, 1], [1, 2, 2.0], ["1", "000001"]])
def test_time_grows(times: list[object], tmp_path: Path) -> None:
    path = write(tmp_path / "index.json", [[time, {}] for time in times])
    with pytest.raises(UserError, match=r"index\.json: elements \d and \d have .*, but time must grow"):
        read_index(path, KEYS)


def test_own_is_a_split(root: Path) -> None:
    with pytest.raises(UserError, match="none of the takes of own is there"):
        Dataset(root).choose(["own"])
    write_mmor(root / "MM-OR_data", "knee")
    assert Dataset(root).choose(["own"]) == Dataset(root).select("own") == [mmor().find_take("knee")]
    assert Dataset(root).choose(["own", "knee/", "001_PKA_MMOR/"]) == [mmor().find_take("knee"), KNEE]


@pytest.mark.parametrize("name", ["", "/", "_MMOR", "a b", "a.b", "../x", "knee_MMOR_MMOR", "\u00e4"])
def test_names_that_are_no_takes(name: str) -> None:
    with pytest.raises(UserError, match="take names have letters, digits"):
        mmor().find_take(name)


@pytest.mark.parametrize("time", ["x", -1, True, None, 1.5, "", float("nan"), float("inf"), 10**9, "1" * 5000])
def test_damaged_time_stamp(time: object, tmp_path: Path) -> None:
    refuse_index(write(tmp_path / "index.json", [[time, {}]]))


@pytest.mark.parametrize("frames", [3, None, [], {"azure": []}, {"azure": "../../x"}])
def test_damaged_frame_numbers(frames: object, tmp_path: Path) -> None:
    refuse_index(write(tmp_path / "index.json", [["000001", {}], ["000002", frames]]))


def refuse_index(path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read_index(path, KEYS)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["azure", "pcd", "x"]), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(json_values, json_values) | json_values))
def test_any_json_is_an_index_or_a_sentence(tmp_path: Path, content: list) -> None:
    path = write(tmp_path / "index.json", json.dumps(content))
    try:
        index = read_index(path, KEYS)
    except UserError:
        return
    assert all(number.isdigit() for time, frames in index for number in (time, *frames.values()))


def test_damaged_tracks(root: Path) -> None:
    for content in ("{}", "[1]", "[[]]", "x"):
        write(root / "MM-OR_data" / "take_tracks" / f"{MMOR_NAME}.json", content)
        with pytest.raises(UserError, match="take_tracks"):
            first(root)


def test_folders_are_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    listdir = folders_module.os.listdir
    monkeypatch.setattr(folders_module.os, "listdir", lambda folder: listed.append(str(folder)) or listdir(folder))
    recorded = Dataset(root).take(KNEE)
    assert listed == [str(root)]  # is there a domain under nearly its name?
    assert recorded.timepoints == recorded.timepoints
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["domain.yaml", "splits.yaml"])
def test_a_link_to_nothing_is_told_and_not_taken_for_no_file(tmp_path: Path, name: str) -> None:
    root = write_house(tmp_path / "kitchen")
    (root / name).unlink()
    (root / name).symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(UserError, match=f"{name}: is a link to nothing"):
        Dataset(root)


@pytest.mark.parametrize("ending", [".yaml.txt", ".yml"])
@pytest.mark.parametrize("name", ["domain", "splits"])
def test_a_file_under_nearly_its_name_is_told(tmp_path: Path, name: str, ending: str) -> None:
    """Windows hides endings: the splits in splits.yaml.txt held for nothing, and all takes were own ones."""
    root = write_house(tmp_path / "kitchen")
    (root / f"{name}.yaml").rename(root / f"{name}{ending}")
    with pytest.raises(UserError, match=rf"{name}{ending}: is read by nothing under this name; rename it to {name}\."):
        Dataset(root)


@pytest.mark.parametrize("name", ["domain.yml", "Domain.yaml", "domain.yaml.txt"])
def test_a_domain_under_nearly_its_name_is_told_beside_published_takes_too(tmp_path: Path, name: str) -> None:
    """The splits in it held for nothing, and those that are published did."""
    write_mmor(tmp_path / "MM-OR_data", "001_PKA")
    (tmp_path / name).write_text(mmor().to_yaml())
    with pytest.raises(UserError, match=rf"{name}: is read by nothing under this name; rename it to domain\.yaml"):
        Dataset(tmp_path)
    Dataset(tmp_path, mmor())


def test_a_domain_that_was_given_is_not_said_to_be_read_by_nothing(tmp_path: Path) -> None:
    """It was, where the folder holds no takes, in place of that."""
    path = tmp_path / "domain.yml"
    path.write_text(mmor().to_yaml())
    with pytest.raises(UserError, match=r"holds neither .*_data nor .*_data; put or link them there"):
        Dataset(tmp_path, Domain.read(path))


def test_the_domain_beside_a_dataset_holds_for_its_folder(tmp_path: Path) -> None:
    """With `--data DATA/MM-OR_data` the published splits held: takes of the own test split were trained on."""
    domain = mmor()
    taken = domain.collection(domain.find_take("011_TKA"))
    own = replace(taken, splits={**taken.splits, "train": ("011_TKA",), "test": ("001_PKA",)})
    collections = tuple(own if collection is taken else collection for collection in domain.collections)
    (tmp_path / "domain.yaml").write_text(replace(domain, collections=collections).to_yaml())
    for name in ("001_PKA", "011_TKA"):
        write_mmor(tmp_path / "MM-OR_data", name)
    for folder in (tmp_path, tmp_path / "MM-OR_data"):
        assert [take.name for take in Dataset(folder).select("train")] == ["011_TKA"]


def test_takes_are_looked_for_once_however_many_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each `--take` the folders of all takes were listed, on a network disk for seconds each."""
    listed: list[Path] = []
    monkeypatch.setattr(folders_module, "list_names", lambda folder: listed.append(folder) or list_names(folder))
    dataset = Dataset(root)
    chosen = dataset.choose([take.name for take in dataset.takes()])
    once = len(listed)
    assert dataset.choose([take.name for take in chosen] * 3) == chosen
    assert len(listed) == 3 * once // 2  # `takes` and `choose` before, and `choose` again
