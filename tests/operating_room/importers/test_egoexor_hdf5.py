"""Reading HDF5 in blocks, whatever its chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operating_room.importers.egoexor import hdf5
from operating_room.importers.egoexor.hdf5 import (
    BadRecording,
    blocks,
    column_length,
    dataset_at,
    group_at,
    open_hdf5,
    text,
)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 5),
    chunk=st.none() | st.integers(1, 50),
    most=st.integers(1, 400),
    one_column=st.booleans(),
)
def test_blocks_hold_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, chunk: int | None, most: int, one_column: bool
) -> None:
    """Whole chunks, and no more than allowed unless a single row of chunks is more."""
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    length = min(chunk or 1, rows)
    chunks = None if chunk is None else (length, 1 if one_column else columns)
    with h5py.File(tmp_path_factory.mktemp("blocks") / "a.h5", "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "READ_BYTES", most)
        dataset = file.create_dataset("a", data=values, chunks=chunks)
        found = list(blocks(dataset))
        assert all(first % length == 0 for first, _ in found)
        assert max(block.nbytes for _, block in found) <= max(most, length * columns * 4)
        assert 1 <= column_length(dataset) <= columns
        np.testing.assert_array_equal(np.concatenate([block for _, block in found]), values)


@given(value=st.text())
def test_text_as_hdf5_stores_it(value: str) -> None:
    """Section 2: names are text or bytes."""
    assert text(value) == text(np.array([value], object)) == value
    encoded = value.encode("utf-8", "surrogatepass")
    assert text(encoded) == (value if encoded.decode("utf-8", "ignore") == value else None)


@pytest.mark.parametrize("value", [None, 3, b"\xff", ["a", "b"], np.array(["a", "b"]), np.zeros(1)])
def test_what_is_no_text(value: object) -> None:
    assert text(value) is None


def test_a_chunk_of_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:  # what nobody wrote takes no room
        file.create_dataset("large", (2, 1 << 30), np.uint8, chunks=(2, 1 << 30), compression="gzip")
    with open_hdf5(tmp_path / "a.h5") as file, pytest.raises(BadRecording, match="in chunks of 2147 MB"):
        dataset_at(file, "large")


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/array"] = np.zeros(3)
    with open_hdf5(tmp_path / "a.h5") as file:
        assert group_at(file, "nowhere") is dataset_at(file, "group/nowhere") is None
        for found, told in (
            (lambda: group_at(file, "group/array"), "group/array: is no group"),
            (lambda: dataset_at(file, "group"), "group: is no array"),
            (lambda: dataset_at(file, "group/array/deeper"), "group/array: is no group"),
        ):
            with pytest.raises(BadRecording, match=told):
                found()
