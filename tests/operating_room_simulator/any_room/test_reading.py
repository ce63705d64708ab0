"""Simulated takes of a made-up room, read as recordings are; files are written beside the takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operating_room.doctor import checkup
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.raw_labels import read_labels
from operating_room_simulator.any_room.house import write_takes
from tests.operating_room_simulator.any_room.tiny_rooms import SIZE, eye_clinic, tale


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eye")
    domain = eye_clinic(tmp_path_factory.mktemp("domain"))
    write_takes(root, [tale(domain, name, seconds=4, period=0.5) for name in ("a", "b", "c")], SIZE)
    return root


def test_data_check_finds_nothing_broken(root: Path) -> None:
    report = checkup.check(Dataset(root))
    assert "0 broken" in str(report)
    assert report.exit_code == 0


def test_a_recording_that_is_cut_off_is_told(root: Path) -> None:
    import soundfile

    path = root / "takes" / "a" / "sound.flac"
    whole = path.read_bytes()
    soundfile.write(path, np.zeros(8000, np.float32), 16_000, format="FLAC")
    try:
        assert "sound.flac: ends after 0 s, the take after 4 s" in str(checkup.check(Dataset(root), ["a"]))
    finally:
        path.write_bytes(whole)


def test_graphs_are_those_of_the_story(root: Path) -> None:
    dataset = Dataset(root)
    (take,) = dataset.choose(["b"])
    recorded = dataset.take(take)
    story = tale(dataset.domain, "b", seconds=4, period=0.5)
    assert len(recorded.timepoints) == 8
    for timepoint in recorded.timepoints:
        path = timepoint.one("annotation")
        assert path is not None
        graph = set(map(Triplet._make, read_labels(path, take, dataset.domain).triplets))
        assert graph == set(story.graph(int(timepoint.frame_id)))


def test_what_is_made_of_takes_stays_in_their_folder(root: Path) -> None:
    dataset = Dataset(root)
    assert dataset.root == root
    assert {path.parent for path in convert(dataset, dataset.root).written} == {root}


def test_a_house_in_the_folder_of_its_name_beside_others(tmp_path: Path) -> None:
    """A domain file given by hand, and the dataset below the folder as MM-OR's are."""
    domain = eye_clinic(tmp_path)
    write_takes(tmp_path / "eye_clinic", [tale(domain, "a", seconds=2)], (32, 24))
    assert Dataset(tmp_path, domain).root == tmp_path
    assert [take.name for take in Dataset(tmp_path, domain).takes()] == ["a"]
