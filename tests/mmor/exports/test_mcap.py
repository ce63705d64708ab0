"""A take as an MCAP file, read back by the library of the format."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mmor import cli
from operating_room.domain.domain import mmor
from operating_room.files.camera_files import read_camera
from operating_room.files.readers import read_label_mask
from operating_room.recordings.dataset import Dataset
from tests.operating_room.cameras import camera_file
from tests.operating_room.tiny_dataset import MMOR_NAME, picture, write, write_dataset
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


def read(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, time in ns and message of everything in an MCAP file."""
    pytest.importorskip("foxglove_schemas_protobuf", reason="the extra export is not installed")
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()], validate_crcs=True)
        return [
            (channel.topic, message.log_time, proto) for _, channel, message, proto in reader.iter_decoded_messages()
        ]


def export(root: Path, out: Path, *takes: str) -> Any:
    """Run the command."""
    pytest.importorskip("foxglove_schemas_protobuf", reason="the extra export is not installed")
    return RUN.invoke(cli.app, ["export", "mcap", *takes, "--data", str(root), "--out", str(out)])


def test_everything_of_a_take(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    folder = root / "MM-OR_data" / MMOR_NAME
    calibration = write(folder / "camera02.json", camera_file(rotation=(0, 0.6, 0, 0.8), translation=(1, 2, 3)))
    assert export(root, tmp_path / "out", MMOR_NAME).exit_code == 0
    found = read(tmp_path / "out" / f"{MMOR_NAME}.mcap")
    count = Counter(topic for topic, _, _ in found)
    assert count["/camera/1"] == count["/camera/simstation1"] == count["/camera/trackercam"] == 3
    assert count["/masks/1"] == count["/cloud"] == count["/graph"] == count["/speech"] == 3
    assert count["/camera/2/calibration"] == count["/tf"] == 1
    images = [(time, proto) for topic, time, proto in found if topic == "/camera/1"]
    stored = [
        (folder / "colorimage" / f"camera01_colorimage-{100 + second:06d}.jpg").read_bytes() for second in range(3)
    ]
    assert [proto.data for _, proto in images] == stored  # byte for byte
    assert [time for time, _ in images] == [1_000_000_000, 2_000_000_000, 3_000_000_000]
    assert {proto.format for _, proto in images} == {"jpeg"}
    cloud = next(proto for topic, _, proto in found if topic == "/cloud")
    points = np.frombuffer(cloud.data, [("xyz", "<f4", 3), ("rgba", "u1", 4)])
    assert points["xyz"].tolist() == [[1, 2, 3], [0, 0, -1]]
    assert points["rgba"].tolist() == [[255, 0, 0, 255], [255, 255, 255, 255]]
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "red", "green", "blue", "alpha"]
    lens = read_camera(calibration).color.scaled(64, 48)
    camera = next(proto for topic, _, proto in found if topic == "/camera/2/calibration")
    assert np.allclose(camera.K, lens.matrix.ravel())
    move = next(proto for topic, _, proto in found if topic == "/tf")
    assert (move.parent_frame_id, move.child_frame_id) == ("world", "2")
    assert np.allclose([move.translation.x, move.translation.y, move.translation.z], lens.pose[:3, 3])
    words = next(proto for topic, _, proto in found if topic == "/speech")
    assert words.message == "the saw"
    graph = next(proto for topic, _, proto in found if topic == "/graph")
    assert "nurse,saw,holding" in graph.message


def test_masks_are_in_class_colours(tmp_path: Path) -> None:
    import io

    from PIL import Image

    root = write_dataset(tmp_path / "data")
    export(root, tmp_path / "out", MMOR_NAME)
    found = read(tmp_path / "out" / f"{MMOR_NAME}.mcap")
    shown = np.asarray(Image.open(io.BytesIO(next(proto for topic, _, proto in found if topic == "/masks/1").data)))
    dataset = Dataset(root)
    timepoint = dataset.take(dataset.domain.find_take(MMOR_NAME)).timepoints[0]
    labels = read_label_mask(timepoint.several("label_masks")["1"])
    assert (dataset.domain.labels.colors_to_labels(shown) == labels).all()


def test_the_form_of_a_picture_is_that_of_its_bytes(tmp_path: Path) -> None:
    """A domain may let names end in .jpeg, and people rename files."""
    root = write_dataset(tmp_path / "data")
    domain = write(
        tmp_path / "room.yaml",
        mmor().to_yaml().replace("camera01_colorimage-{azure}.jpg", "camera01_colorimage-{azure}.jpeg"),
    )
    pictures = sorted((root / "MM-OR_data" / MMOR_NAME / "colorimage").glob("camera01_*.jpg"))
    write(pictures[0], picture("PNG"))
    for path in pictures:
        path.rename(path.with_suffix(".jpeg"))
    assert export(root, tmp_path / "out", MMOR_NAME, "--domain", str(domain)).exit_code == 0
    found = read(tmp_path / "out" / f"{MMOR_NAME}.mcap")
    assert [proto.format for topic, _, proto in found if topic == "/camera/1"] == ["png", "jpeg", "jpeg"]


def test_times_of_a_room_of_ones_own_and_what_is_missing(tmp_path: Path) -> None:
    """Half a second between timepoints; a camera that ends early is no error."""
    root = write_house(tmp_path / "kitchen")
    for frame in (2, 3):
        (root / f"takes/soup/views/door/{frame:06d}.jpg").unlink()
    assert export(root, tmp_path / "out", "soup").exit_code == 0
    found = read(tmp_path / "out/soup.mcap")
    assert [time for topic, time, _ in found if topic == "/camera/ceiling"] == [0, 500_000_000, 10**9, 1_500_000_000]
    assert [time for topic, time, _ in found if topic == "/camera/door"] == [0, 500_000_000]


def test_what_is_broken_costs_its_take_and_leaves_nothing(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    broken = write(root / "takes/soup/clouds/000002.npz", b"nothing")
    result = export(root, tmp_path / "out", "soup", "stew")
    assert result.exit_code == 1
    assert f"take soup is left out: {broken}" in result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["stew.mcap"]


def test_calibration_of_other_proportions_is_named(tmp_path: Path) -> None:
    """EgoExOR's pictures are square, its calibration is not."""
    root = write_house(tmp_path / "kitchen")
    path = write(root / "calibration/door.json", camera_file(color_size=(2048, 2048)))
    result = export(root, tmp_path / "out", "soup")
    assert f"{path}: pictures of 64x48 px do not have the proportions of the calibration" in result.output


def test_a_time_that_no_file_can_tell_is_named(tmp_path: Path) -> None:
    """It was a traceback of the library."""
    root = write_house(tmp_path / "kitchen")
    write(root / "takes/soup/take.yaml", "period: 900000000\nframes: 30\npictures: jpg\n")
    result = export(root, tmp_path / "out", "soup")
    assert "take.yaml: its timepoint 000021 is 1.89e+10 s late" in result.output
    assert not list((tmp_path / "out").glob("*"))


def test_without_the_extra_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from operating_room.errors import UserError

    monkeypatch.setitem(sys.modules, "mcap_protobuf", None)
    monkeypatch.setitem(sys.modules, "foxglove_schemas_protobuf", None)
    result = RUN.invoke(cli.app, ["export", "mcap", "soup", "--out", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert 'pip install "mmor[export]"' in str(result.exception)
