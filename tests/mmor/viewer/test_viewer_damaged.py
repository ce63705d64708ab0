"""What the server answers where files are damaged, gone, odd, or called like something else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmor.viewer.graphs import Live
from mmor.viewer.takes import open_shown
from operating_room.files.readers import picture_size
from operating_room.graphs.graph_files import save_predictions
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.dataset import Dataset
from tests.mmor.viewer.conftest import (
    OF_TAKE,
    TAKE,
    Folder,
    ask,
    local,
    problem,
)
from tests.operating_room.tiny_dataset import picture, write
from tests.operating_room.tiny_house import write_house


def test_a_folder_deleted_while_viewed_is_told_and_ends_nothing(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    shown = open_shown(Dataset(tmp_path / "data"), TAKE)
    client = local(shown)
    assert client.get(f"{OF_TAKE}/3/views/1").status_code == 200
    pictures = next((tmp_path / "data" / "MM-OR_data" / TAKE.name).glob("colorimage"))
    shutil.rmtree(pictures)
    assert "is not there any more" in problem(client, f"{OF_TAKE}/3/views/1")
    assert ask(client, f"{OF_TAKE}/3")["frame_id"] == "000003"
    shutil.rmtree(tmp_path / "data")
    assert client.get(f"{OF_TAKE}/3").status_code == 200  # it tells what is gone
    assert ask(client, f"{OF_TAKE}/3")["problems"]
    assert problem(client, f"{OF_TAKE}/3/cloud")


def test_a_broken_picture_costs_only_itself(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    shown = open_shown(Dataset(tmp_path / "data"), TAKE)
    shown.take(TAKE.sample_name).recorded.timepoints[3].views["1"].write_bytes(b"no picture")
    client = local(shown)
    assert "is not a readable JPEG" in problem(client, f"{OF_TAKE}/3/views/1")
    assert client.get(f"{OF_TAKE}/3/views/2").status_code == 200


def test_a_folder_of_an_old_disk_is_shown(tmp_path: Path) -> None:
    root = write_house(tmp_path / os.fsdecode(b"L\xe9"))
    with local(open_shown(Dataset(root))) as client:
        assert ask(client, "/api/takes")["folder"] == str(root)
        assert len(ask(client, "/api/takes/soup")["times"]) == 4


def test_damaged_tracks_cost_themselves(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    tracks = Dataset(tmp_path / "data").take(TAKE).path("tracks")
    assert tracks is not None
    tracks.write_bytes(tracks.read_bytes()[:100])
    with local(open_shown(Dataset(tmp_path / "data"), TAKE)) as client:
        second = ask(client, f"{OF_TAKE}/7")
        assert second["views"]
        assert [tracks.name in told for told in second["problems"]] == [True]


def test_masks_of_another_shape_than_their_picture_are_told(folder: Folder, tmp_path: Path) -> None:
    """They were drawn into the middle of the picture, without a word."""
    timepoint = Dataset(folder.data).take(TAKE).timepoints[7]
    video = tmp_path / "masks" / "inference" / "pan_pred" / f"{TAKE.name}_1"
    video.mkdir(parents=True)
    odd = video / f"{timepoint.views['1'].stem}.png"
    width, height = picture_size(timepoint.views["1"])
    for size, told in (((2 * width, 2 * height), 0), ((width, height // 2), 1)):
        Image.new("RGB", size).save(odd)
        with local(open_shown(Dataset(folder.data), TAKE, [tmp_path / "masks"])) as client:
            problems = ask(client, f"{OF_TAKE}/7")["problems"]
        assert [f"{odd}: is {size[0]}x{size[1]} px" in problem for problem in problems] == [True] * told


def test_masks_without_class_colours_are_told(folder: Folder, tmp_path: Path) -> None:
    """Object numbers (`pan_instances`, beside `pan_pred`) were shown as a picture in which nothing is."""
    timepoint = Dataset(folder.data).take(TAKE).timepoints[7]
    video = tmp_path / "pan_instances" / f"{TAKE.name}_1"
    video.mkdir(parents=True)
    numbers = video / f"{timepoint.views['1'].stem}.png"
    Image.new("L", picture_size(timepoint.views["1"]), 3).save(numbers)
    with local(open_shown(Dataset(folder.data), TAKE, [numbers.parents[1]])) as client:
        answer = client.get(f"{OF_TAKE}/7/masks/1", params={"width": "320", "of": "pan_instances"})
    assert f"{numbers}: has colours of no class of the domain" in answer.text


def test_predictions_that_are_called_truth_or_live_take_nobodys_place(folder: Folder, tmp_path: Path) -> None:
    """The page knows annotations and what is live by these names."""
    graphs = tmp_path / "live.json"
    save_predictions(graphs, {f"{TAKE.sample_name}_000001": [Triplet("nurse", "saw", "holding")]})
    video = tmp_path / "truth" / "inference" / "pan_pred" / f"{TAKE.name}_1"
    write(video / "a.png", picture("PNG"))
    (tmp_path / "lines.jsonl").touch()
    shown = open_shown(Dataset(folder.data), TAKE, [tmp_path / "truth"], [graphs], tmp_path / "lines.jsonl")
    assert list(shown.masks) == [f"{tmp_path.name}/truth"]
    assert list(shown.graphs) == [f"{tmp_path.name}/live", "live"]
    assert shown.graphs[f"{tmp_path.name}/live"].graphs
    assert not shown.graphs["live"].graphs


def test_masks_in_a_folder_called_none_are_not_no_masks(folder: Folder, tmp_path: Path) -> None:
    """The page has `none` for no masks, and `|` between the two names of what is compared: they were never shown."""
    folders = [tmp_path / "none", tmp_path / "a|b"]
    for masks in folders:
        write(masks / "inference" / "pan_pred" / f"{TAKE.name}_1" / "a.png", picture("PNG"))
    assert list(open_shown(Dataset(folder.data), TAKE, folders[:1]).masks) == [f"{tmp_path.name}/none"]
    assert list(open_shown(Dataset(folder.data), TAKE, folders[1:]).masks) == ["a_b"]


@pytest.mark.parametrize("frame_id", ["9" * 5000, "12", "٣٣٣٣٣٣", "900000000"])
def test_a_live_line_whose_frame_is_no_position_is_damaged(tmp_path: Path, frame_id: str) -> None:
    path = tmp_path / "live.jsonl"
    path.write_text(json.dumps({"take": TAKE.sample_name, "frame_id": frame_id, "time": 1, "graph": []}) + "\n")
    live = Live(path)
    live.update()
    assert (list(live.lines), live.damaged) == ([], 1)
