"""What is in a dataset, counted by hand on a small one."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from mmor import cli
from operating_room.doctor.statistics import PARTS, DatasetStatistics, statistics
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import MMOR_NAME, label_picture, write, write_dataset, write_mmor
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


def counted(root: Path) -> DatasetStatistics:
    dataset = Dataset(root)
    return statistics(dataset, dataset.takes())


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    """Two takes of four timepoints, half a second apart."""
    root = write_house(tmp_path / "kitchen")
    write(root / "takes/soup/graphs/000003.json", [["cook", "pan", "holding"]])
    (root / "takes/stew/graphs/000001.json").unlink()
    for frame in (1, 3):
        (root / f"takes/soup/views/door/{frame:06d}.jpg").unlink()
    write(root / "takes/soup/label_masks/ceiling/000000.png", label_picture(3))
    found = counted(root)
    soup, stew = found.takes
    total = found.total
    assert (soup.seconds, total.seconds) == (2.0, 4.0)
    assert (soup.graphs, stew.graphs, total.triplets, len(total.different)) == (4, 3, 3 * 2 + 1 + 3 * 2, 3)
    assert total.predicates == {"stirring": 6, "beside": 6, "holding": 1}
    assert total.together["beside", "stirring"] == total.together["stirring", "stirring"] == 6
    assert ("beside", "holding") not in total.together
    assert soup.over_time["stirring"].nonzero()[0].tolist() == [0, PARTS // 4, PARTS // 2]
    assert total.subjects["cook"] == 7
    door = total.cameras["door"]
    assert (door.pictures, door.timepoints, door.gaps, door.longest) == (6, 8, 2, 1)
    assert total.masks == 8
    assert sum(total.pixels.values()) == 8 * 64 * 48
    assert total.masks_with == {"background": 7, "pan": 7, "stove": 8}
    assert total.modalities["point_cloud"] == 8


def test_cameras_of_two_datasets_with_one_name_are_two(tmp_path: Path) -> None:
    """Camera 1 of MM-OR and that of 4D-OR were added up."""
    cameras = counted(write_dataset(tmp_path)).total.cameras
    assert (cameras["MM-OR 1"].pictures, cameras["4D-OR 1"].pictures, cameras["simstation0"].pictures) == (3, 3, 3)
    assert "1" not in cameras
    dataset = Dataset(tmp_path)
    assert "1" in statistics(dataset, [dataset.named(MMOR_NAME)]).total.cameras


def test_a_mask_that_the_index_names_twice_is_one(tmp_path: Path) -> None:
    """So it does where a camera was slow; its pixels were counted twice."""
    write_mmor(tmp_path / "MM-OR_data")
    index = tmp_path / "MM-OR_data" / MMOR_NAME / "timestamp_to_pcd_and_frames_list.json"
    write(index, index.read_text().replace('"azure": "000101"', '"azure": "000100"'))
    total = counted(tmp_path).total
    assert total.masks == 2 * 3 + 3 * 3  # of room cameras, of station cameras
    assert sum(total.pixels.values()) == 15 * 64 * 48


def test_a_camera_that_ends_early(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    for frame in (2, 3):
        (root / f"takes/soup/views/door/{frame:06d}.jpg").unlink()
    soup, _ = counted(root).takes
    assert (soup.cameras["door"].gaps, soup.cameras["door"].longest) == (1, 2)
    assert soup.cameras["ceiling"].gaps == 0


def test_what_is_broken_is_left_out_and_named(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    mask = write(root / "takes/soup/label_masks/ceiling/000000.png", b"nothing")
    graph = write(root / "takes/soup/graphs/000000.json", b"{")
    index = write(root / "takes/stew/take.yaml", b"period: none")
    found = counted(root)
    assert [take.name for take in found.takes] == ["soup"]
    assert found.total.masks == found.total.graphs == 3
    assert all(any(str(path) in problem for problem in found.total.problems) for path in (mask, graph, index))
    assert RUN.invoke(cli.app, ["data", "stats", str(root)]).exit_code == 1


@pytest.mark.parametrize("option", ["--page", "--json", "--csv"])
def test_outputs_are_looked_at_before_all_files_are(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One below a file was only told once every mask had been read, which takes hours."""
    root = write_house(tmp_path / "kitchen")
    monkeypatch.setattr("operating_room.doctor.statistics.statistics", None)  # not asked
    result = RUN.invoke(cli.app, ["data", "stats", str(root), option, str(root / "domain.yaml" / "out")])
    assert str(result.exception) == f"{root / 'domain.yaml'}: is no folder; choose another output"


def test_table_page_json_and_csv_say_the_same(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    (root / "takes/soup/views/door/000001.jpg").unlink()
    page, as_json, as_csv = tmp_path / "p.html", tmp_path / "s.json", tmp_path / "s.csv"
    options = ["--page", str(page), "--json", str(as_json), "--csv", str(as_csv)]
    result = RUN.invoke(cli.app, ["data", "stats", str(root), *options])
    assert result.exit_code == 0
    assert re.search(r"stirring +8 +8", result.output)
    content = json.loads(as_json.read_text())
    assert content["total"]["predicates"]["stirring"] == 8
    rows = {tuple(row[:-1]): row[-1] for row in csv.reader(as_csv.read_text().splitlines())}
    assert rows["all", "predicate", "stirring", "triplets"] == "8"
    assert rows["soup", "camera", "door", "pictures"] == "3"
    text = page.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 6
    names = [element.text for figure in figures for element in ElementTree.fromstring(figure).iter() if element.text]
    assert {"stirring", "pan", "door"} <= set(names)


@pytest.mark.parametrize("option", ["--page", "--json", "--csv"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_counted(tmp_path: Path, option: str) -> None:
    root = write_house(tmp_path / "kitchen")
    done = RUN.invoke(cli.app, ["data", "stats", str(root), option, str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "it is a folder" in str(done.exception)
    assert "soup" not in done.output


def test_only_some_takes(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    result = RUN.invoke(cli.app, ["data", "stats", str(root), "--take", "val"])
    assert "stew" in result.output
    assert "soup" not in result.output


def test_outputs_have_files_of_their_own(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    same = str(tmp_path / "numbers")
    result = RUN.invoke(cli.app, ["data", "stats", str(root), "--json", same, "--csv", same])
    assert isinstance(result.exception, UserError)
    assert "name the same file twice" in str(result.exception)
    assert not Path(same).exists()


def test_the_pictures_of_all_takes_over_time(tmp_path: Path) -> None:
    """Of all takes together there were twenty zeros."""
    root = write_house(tmp_path)
    for frame in (0, 1):
        (root / f"takes/soup/views/door/{frame:06d}.jpg").unlink()
    found = counted(root).to_json()
    of_takes = {take["name"]: take["cameras"]["door"]["recorded"] for take in found["takes"]}
    assert of_takes["soup"] != of_takes["stew"]
    mean = [(soup + stew) / 2 for soup, stew in zip(of_takes["soup"], of_takes["stew"], strict=True)]
    assert max(mean) > 0
    assert found["total"]["cameras"]["door"]["recorded"] == mean


def test_what_is_counted_does_not_stay_in_memory(tmp_path: Path) -> None:
    """The files of each timepoint did: gigabytes of many long takes."""
    dataset = Dataset(write_house(tmp_path / "kitchen"))
    assert statistics(dataset, dataset.takes()).total.timepoints == 8
    assert not dataset._recorded
