"""Readers on files that no camera and no program of ours has written, but somebody may hand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operating_room.errors import UserError
from operating_room.files.readers import read_bytes, read_json, read_picture, read_point_cloud


@pytest.mark.parametrize("read", [read_bytes, read_json, read_picture])
def test_a_file_beyond_all_memory_is_one_line(read: object, tmp_path: Path) -> None:
    """A sparse file takes no room on the disk; reading it was a MemoryError."""
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(UserError, match=r"x\.json: is 8796 GB large, and .* GB of memory are free"):
        read(path)  # ty: ignore[call-non-callable]


def _cloud(path: Path, fields: str, sizes: str, kinds: str, dtype: list[tuple[str, str]]) -> Path:
    points = np.zeros(20, dtype)
    for axis in "xyz":
        points[axis] = np.linspace(0, 3000, 20)
    header = f"VERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {kinds}\nCOUNT{' 1' * len(dtype)}\nWIDTH 20\nHEIGHT 1\n"
    path.write_bytes(f"{header}VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\nDATA binary\n".encode() + points.tobytes())
    return path


def test_the_packed_colours_of_a_cloud_are_those_of_four_bytes(tmp_path: Path) -> None:
    """Of two packed fields the first was taken, whatever its size: a ValueError of numpy."""
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f8"), ("rgba", "<u4")]
    path = _cloud(tmp_path / "x.pcd", "x y z rgb rgba", "4 4 4 8 4", "F F F F U", dtype)
    assert read_point_cloud(path).shape == (20, 6)


@pytest.mark.parametrize("line", ["", "# 5 6000 7 8"])
def test_a_line_of_a_cloud_without_a_point_is_no_point(line: str, tmp_path: Path) -> None:
    """It counted as one of the stated points: a cloud that was cut off was read as whole."""
    path = tmp_path / "x.pcd"
    header = "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\n"
    header += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA ascii\n"
    path.write_text(f"{header}1 2 3 4\n{line}\n5 6000 7 8\n")
    with pytest.raises(UserError, match="truncated: 2 of 3 points"):
        read_point_cloud(path)
    path.write_text(f"{header}1 2 3 4\n{line}\n5 6000 7 8\n6 600 7 8\n{line}\n")
    assert len(read_point_cloud(path)) == 3
