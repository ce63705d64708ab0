"""Takes to prepare."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.operating_room.tiny_dataset import write_dataset, write_mmor


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two takes of MM-OR and one of 4D-OR without anything that preprocessing writes."""
    write_dataset(tmp_path)
    write_mmor(tmp_path / "MM-OR_data", "002_PKA")
    for data in ("MM-OR_data", "4D-OR_data"):
        for path in (tmp_path / data).glob("*per_timepoint*"):
            shutil.rmtree(path)
    return tmp_path
