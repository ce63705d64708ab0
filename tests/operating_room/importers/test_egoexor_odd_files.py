"""Files as published ones may be: cameras in another order, pairs with two predicates, nulls, a later release."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py
import yaml

from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples
from operating_room.importers.egoexor.importing import import_egoexor
from operating_room.importers.egoexor.source import StoredTake, Tables
from operating_room.importers.egoexor.takes import inspect_take
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.inputs.evidence import Evidence
from tests.operating_room.importers.tiny_egoexor import GRAPH, MISS, tiny_take, write_legacy


def test_a_pair_with_two_predicates_costs_no_frame(tmp_path: Path) -> None:
    """Published samples have both, and `--relations` scores them; here the frame was in no sample and no score."""
    take = tiny_take()
    near = ("head_surgeon", "closeTo", "patient")
    take.graphs = {0: [near, ("head_surgeon", "injecting", "patient")], 1: [near]}
    import_egoexor(write_legacy(tmp_path / "a.h5", [take]), tmp_path / "out")
    conversion = convert(Dataset(tmp_path / "out"), tmp_path / "out")
    assert conversion.problems == []
    first, _ = load_samples(tmp_path / "out/relationships_own.json")
    assert {triplet.predicate for triplet in first.triplets} == {"closeto", "injecting"}


def test_corrected_graphs_of_a_later_release(tmp_path: Path) -> None:
    """The old ones stayed, and nothing was said."""
    take = tiny_take()
    import_egoexor(write_legacy(tmp_path / "a.h5", [take]), tmp_path / "out")
    take.graphs = {0: GRAPH[:2]}
    source = write_legacy(tmp_path / "a.h5", [take])
    with pytest.raises(UserError, match=r"take\.yaml: was imported from other files .*graphs"):
        import_egoexor(source, tmp_path / "out")


def test_takes_that_an_earlier_version_has_imported(tmp_path: Path) -> None:
    """Their take.yaml says nothing of the graphs."""
    source = write_legacy(tmp_path / "a.h5", [tiny_take()])
    import_egoexor(source, tmp_path / "out")
    note = tmp_path / "out/takes/Ultrasound_1_1/take.yaml"
    content = yaml.safe_load(note.read_text())
    content["source"].pop("graphs", None)
    note.write_text(yaml.safe_dump(content))
    assert import_egoexor(source, tmp_path / "out").finished == ("Ultrasound_1_1",)


def test_numbers_in_another_order_than_the_words(tmp_path: Path) -> None:
    """That rows of `scene_graph` stand as those of `rel_annotations` is published nowhere (facts, section 2)."""
    path = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(path, "a") as file:
        numbers = file["data/Ultrasound/1/take/1/annotations/frame_0/scene_graph"]
        numbers[...] = numbers[...][::-1]
    found = inspect_take(StoredTake(path, "/data/Ultrasound/1/take/1", "legacy", "Ultrasound_1_1"), Tables())
    assert found.graph_orders == ("subject, predicate, object",)


@pytest.mark.parametrize("name", ["eye_gaze/coordinates", "point_cloud/coordinates", "depth/values", "frames/rgb"])
def test_arrays_that_are_declared_and_null(tmp_path: Path, name: str) -> None:
    """They were a TypeError, which ended the import of all takes."""
    path = write_legacy(tmp_path / "a.h5", [tiny_take(), tiny_take(number=2)])
    with h5py.File(path, "a") as file:
        take = file["data/Ultrasound/1/take/2"]
        if name in take:
            del take[name]
            take.pop("eye_gaze_depth/values", None)
        take[name] = h5py.Empty("f4")
    report = import_egoexor(path, tmp_path / "out")
    assert "Ultrasound_1_1" in report.imported
    assert ("Ultrasound_1_2" in report.imported) == (name != "frames/rgb")


def test_views_of_glasses_stand_as_in_the_file(tmp_path: Path) -> None:
    """Facts, section 9: the ego order is that of the file, and the first view gives the tokens of its branch."""
    import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take("MISS")]), tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    timepoint = dataset.take(dataset.named("MISS_1_1")).timepoint("000000")
    ego = Evidence.of_timepoint(timepoint).ego
    assert [path.parent.name for path in ego.values()] == list(MISS[:4])
    names = [camera.name for camera in timepoint.collection.cameras]
    assert [names[number - 1] for number in ego] == list(MISS[:4])
