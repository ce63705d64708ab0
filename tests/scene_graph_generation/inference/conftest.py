"""A take of MM-OR and one of 4D-OR, for tests of inference."""

from __future__ import annotations

import pytest

from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Nobody changes it."""
    return Dataset(write_dataset(tmp_path_factory.mktemp("data")))
