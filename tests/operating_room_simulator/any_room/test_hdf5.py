"""Simulated EgoExOR files (egoexor, sections 1 to 5): the import brings back what was simulated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("h5py")
import h5py

from mmor.cli import app
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet
from operating_room.importers.egoexor.importing import ImportReport, import_egoexor
from operating_room.importers.egoexor.tables import EXTERIOR
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.any_room.hdf5 import write_files
from operating_room_simulator.any_room.shots import Recorder
from tests.operating_room_simulator.any_room.tiny_rooms import egoexor_tale

NAMES = ("MISS_1_1", "MISS_1_2", "Ultrasound_5_5")
SIZE = (48, 48)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("egoexor")
    write_files(folder, [egoexor_tale(name) for name in NAMES], SIZE)
    return folder


@pytest.fixture(scope="module")
def imported(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImportReport]:
    out = tmp_path_factory.mktemp("imported")
    return out, import_egoexor(files, out, pictures="png")


def test_files_are_those_of_the_release(files: Path) -> None:
    assert sorted(path.name for path in files.iterdir()) == ["miss_1.h5", "splits.h5", "ultrasound_5_58.h5"]
    with h5py.File(files / "miss_1.h5") as file:
        orders = [[file[f"data/MISS/1/take/{n}/sources"].attrs[f"source_{i}"] for i in range(10)] for n in (1, 2)]
        assert set(orders[0]) == set(orders[1])
        assert orders[0] != orders[1]
        assert file["data/MISS/1/take/1/frames/rgb"].shape == (4, 10, 48, 48, 3)
        assert file["data/MISS/1/take/1/audio/waveform"].shape == (4 * 48_000, 2)


def test_the_import_finds_nothing_wrong(imported: tuple[Path, ImportReport]) -> None:
    out, report = imported
    assert report.problems == ()
    assert set(report.imported) == set(NAMES)
    assert report.imported["MISS_1_1"]["black"] == 2  # an exterior camera begins late
    assert "numbers in scene_graph: subject, predicate, object" in str(report)
    assert yaml.safe_load((out / "splits.yaml").read_text()) == {
        "train": ["MISS_1_2", "Ultrasound_5_5"], "val": [], "test": ["MISS_1_1"],
    }  # fmt: skip


def test_imported_pictures_gaze_and_graphs_are_the_simulated_ones(imported: tuple[Path, ImportReport]) -> None:
    """Section 4: exterior cameras red first, all others blue first; in true colours again after the import."""
    out, _ = imported
    for name in NAMES:
        story = egoexor_tale(name)
        take = out / "takes" / name
        cameras = sorted(path.name for path in (take / "views").iterdir())
        recorder = Recorder(story, SIZE, cameras)
        shot = recorder.shoot(3)
        for camera in cameras:
            assert np.array_equal(
                np.asarray(Image.open(take / "views" / camera / "000003.png")), shot.views[camera].color
            )
        rows = np.load(take / "gaze" / "000003.npy")
        # In both takes of MISS somebody's glasses were off, which the import corrects.
        np.testing.assert_allclose(rows[rows[:, 0].argsort()], shot.gaze, rtol=1e-6)
        hands = np.load(take / "hands" / "000003.npy")
        assert np.array_equal(hands[hands[:, 0].argsort()], shot.hands, equal_nan=True)
        graph = {Triplet(*row) for row in json.loads((take / "graphs" / "000003.json").read_text())}
        assert graph == set(story.graph(3))
        assert (take / "clouds").exists() == bool(set(cameras) & set(EXTERIOR))


def test_a_file_of_the_same_takes_stays_and_another_is_refused(files: Path) -> None:
    before = (files / "miss_1.h5").stat().st_mtime_ns
    write_files(files, [egoexor_tale(name) for name in NAMES], SIZE)
    assert (files / "miss_1.h5").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other takes or options"):
        write_files(files, [egoexor_tale("MISS_1_1", seconds=5)], SIZE)


@pytest.mark.parametrize("name", ["splits.h5", "miss_4.h5"])
def test_downloaded_files_are_left_alone(tmp_path: Path, name: str) -> None:
    """The splits of a folder become those of the simulated takes: not in a folder of recorded ones."""
    with h5py.File(tmp_path / name, "w") as file:
        file.create_group("splits" if name == "splits.h5" else "data")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=rf"{name}: is there .*; choose another folder"):
        write_files(tmp_path, [egoexor_tale("MISS_1_1")], SIZE)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", ["eye_1", "MISS_1", "MISS_01_2", "Surgery_1_1"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are called like MISS_1_1"):
        write_files(tmp_path, [egoexor_tale(name)], SIZE)


def test_from_simulation_over_import_to_check(tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = "--layout egoexor-hdf5 --take Ultrasound_2_1 --seconds 3 --period 0.5 --size 48x48"
    made = run(app, ["data", "synthesize", "--out", str(tmp_path / "files"), *words.split()])
    assert made.exit_code == 0, made.output
    brought = run(app, ["data", "import", "egoexor", str(tmp_path / "files"), "--out", str(tmp_path / "takes")])
    assert brought.exit_code == 0, brought.output
    assert yaml.safe_load((tmp_path / "takes/takes/Ultrasound_2_1/take.yaml").read_text())["period"] == 0.5
    checked = run(app, ["data", "check", str(tmp_path / "takes")])
    assert checked.exit_code == 0, checked.output
    assert "0 broken" in checked.stdout
    dataset = Dataset(tmp_path / "takes")
    (take,) = dataset.takes()
    timepoint = dataset.take(take).timepoints[5]
    assert set(timepoint.views) == {"assistant", "head_surgeon", "circulator", "or_light", "simstation"}
    assert all(timepoint.one(name) for name in ("gaze", "hands", "audio", "annotation"))
    assert timepoint.one("point_cloud") is None


@pytest.mark.parametrize("name", [".miss_1.host.12.00000000.partial.h5", "._miss_1.h5"])
def test_what_a_killed_run_left_does_not_stop_the_next(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"half")
    write_files(tmp_path, [egoexor_tale("MISS_1_1", seconds=2)], SIZE)
    assert (tmp_path / "miss_1.h5").exists()


def test_takes_of_an_earlier_run_stay_in_the_splits(tmp_path: Path) -> None:
    for name in ("MISS_1_1", "MISS_2_1"):
        write_files(tmp_path, [egoexor_tale(name, seconds=2)], SIZE)
    with h5py.File(tmp_path / "splits.h5") as file:
        rows = [tuple(row)[:3] for split in file["splits"].values() for row in split[()]]
    assert {(surgery.decode(), int(procedure), int(take)) for surgery, procedure, take in rows} == {
        ("MISS", 1, 1),
        ("MISS", 2, 1),
    }
