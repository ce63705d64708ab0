"""Arrays are read whole or refused in a sentence; nothing in them is run."""

from __future__ import annotations

import ast
import io
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operating_room.errors import UserError
from operating_room.files.array_files import read_gaze, read_hands
from operating_room.files.readers import read_point_cloud
from tests.operating_room.tiny_house import array, cloud_arrays

ANYTHING = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    gaze = np.array([[1, 30.5, 20, 0.7], [2, -1, -1, 1]], np.float32)
    hands = np.full((2, 17), np.nan, np.float32)
    (tmp_path / "gaze.npy").write_bytes(array(gaze))
    (tmp_path / "hands.npy").write_bytes(array(hands))
    np.testing.assert_array_equal(read_gaze(tmp_path / "gaze.npy"), gaze)
    np.testing.assert_array_equal(read_hands(tmp_path / "hands.npy"), hands)
    (tmp_path / "none.npy").write_bytes(array(gaze[:0]))
    assert read_gaze(tmp_path / "none.npy").shape == (0, 4)


@pytest.mark.parametrize(("read", "columns"), [(read_gaze, 4), (read_hands, 17)])
def test_half_a_camera_is_none(tmp_path: Path, read: Callable[[Path], np.ndarray], columns: int) -> None:
    """Page and model took 1.5 for camera 1; `mmor data check` alone said that it is wrong."""
    path = tmp_path / "rows.npy"
    path.write_bytes(array(np.array([[1] * columns, [1.5] * columns], np.float32)))
    with pytest.raises(UserError, match=r"rows\.npy: has the camera number 1\.5"):
        read(path)


def test_a_cloud_is_in_metres_and_fractions(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npz"
    points = np.array([[0, 0, 0], [1, 2, 3], [np.nan, 0, 0]], np.float32)
    colors = np.array([[0, 0, 0], [255, 51, 0], [9, 9, 9]], np.uint8)
    np.savez_compressed(path, points=points, colors=colors)
    np.testing.assert_allclose(read_point_cloud(path), [[0, 0, 0, 0, 0, 0], [1, 2, 3, 1, 0.2, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"points": np.zeros((2, 3), np.float32)}, "has no array 'colors'"),
        ({"points": np.zeros((2, 3)), "colors": np.zeros((2, 3), np.uint8)}, "points float64"),
        ({"points": np.zeros((2, 3), np.float32), "colors": np.zeros((1, 3), np.uint8)}, "colors uint8 [1, 3]"),
        ({"points": np.float32(1), "colors": np.zeros((2, 3), np.uint8)}, "points float32 []"),
        ({"points": np.array([None]), "colors": np.zeros((2, 3), np.uint8)}, "no readable .npz"),
        ({"points": np.full((20, 3), 1e-5, np.float32), "colors": np.zeros((20, 3), np.uint8)}, "points are in metres"),
    ],
)
def test_other_arrays_are_no_cloud(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    path = tmp_path / "cloud.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(UserError) as refusal:
        read_point_cloud(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert expected in str(refusal.value)


class Trap:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_numpy_does_not_pack_is_not_unpacked(tmp_path: Path, packed: int) -> None:
    path = tmp_path / "cloud.npz"
    with zipfile.ZipFile(path, "w", packed) as archive, zipfile.ZipFile(io.BytesIO(cloud_arrays())) as usual:
        for name in usual.namelist():
            archive.writestr(name, usual.read(name))
    with pytest.raises(UserError, match=r"'points\.npy' is packed in another way than numpy does"):
        read_point_cloud(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap(tmp_path / "trapped")], object), allow_pickle=True)
    (tmp_path / "gaze.npy").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"no readable \.npy"):
        read_gaze(tmp_path / "gaze.npy")
    assert not (tmp_path / "trapped").exists()


@ANYTHING
@given(st.data())
def test_damaged_arrays_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = array(np.ones((3, 4), np.float32))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "gaze.npy").write_bytes(bytes(damaged)[: data.draw(st.integers(0, len(damaged)))])
    try:
        told = str(read_gaze(tmp_path / "gaze.npy").shape[1])
    except UserError as error:
        told = str(error)
    assert told == "4" or told.startswith(f"{tmp_path / 'gaze.npy'}: ")


@ANYTHING
@given(st.data())
def test_damaged_clouds_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(cloud_arrays())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "cloud.npz").write_bytes(bytes(damaged)[: data.draw(st.integers(0, len(damaged)))])
    try:
        told = str(read_point_cloud(tmp_path / "cloud.npz").shape[1])
    except UserError as error:
        told = str(error)
    assert told == "6" or told.startswith(f"{tmp_path / 'cloud.npz'}: ")


def test_no_more_is_unpacked_than_an_archive_says(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((100, 3), dtype=np.float32)
    small, path = array(points), tmp_path / "cloud.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", small + bytes(100 << 20))
        archive.writestr("colors.npy", array(np.zeros((100, 3), np.uint8)))
    data = bytearray(path.read_bytes())
    size, checksum = struct.pack("<I", len(small)), struct.pack("<I", zlib.crc32(small))
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28], data[entry + 16 : entry + 20] = size, checksum
    data[22:26], data[14:18] = size, checksum
    path.write_bytes(data)
    tracemalloc.start()
    with suppress(UserError):  # what it says it has can be read, or is refused
        assert np.array_equal(read_point_cloud(path)[:, :3], points)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_colours_that_were_fractions_are_refused(tmp_path: Path) -> None:
    """0.7 as uint8 is 0 and rounded 1: all points were black, and nobody was told."""
    path = tmp_path / "cloud.npz"
    np.savez(path, points=np.zeros((2, 3), np.float32), colors=np.array([[0, 1, 1], [1, 0, 0]], np.uint8))
    with pytest.raises(UserError, match=r"cloud\.npz: its colours are 0 and 1.* save them as 0 to 255"):
        read_point_cloud(path)


def test_two_threads_never_read_headers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 says SystemError then, now and then: `data check` called sound clouds broken, and `infer` ended."""
    (tmp_path / "cloud.npz").write_bytes(cloud_arrays())
    parse, alone = ast.literal_eval, Lock()

    def parse_alone(text: Any) -> Any:
        assert alone.acquire(blocking=False)
        try:
            time.sleep(0.002)
            return parse(text)
        finally:
            alone.release()

    monkeypatch.setattr(ast, "literal_eval", parse_alone)
    with ThreadPoolExecutor(4) as threads:
        clouds = list(threads.map(read_point_cloud, [tmp_path / "cloud.npz"] * 8))
    assert all(np.array_equal(cloud, clouds[0]) for cloud in clouds)
