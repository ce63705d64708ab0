"""The tiny dataset, as if it were all that was published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.domain.domain import mmor
from tests.operating_room.doctor import checks
from tests.operating_room.tiny_dataset import FOURDOR_NAME, MMOR_NAME, write_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.fixture
def only_these_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the published lists held the two takes of the tiny dataset only."""
    names = {"MMOR": (MMOR_NAME,), "4DOR": (FOURDOR_NAME,)}
    collections = tuple(
        replace(c, takes=names[c.name], splits=dict.fromkeys(("train", "small_train"), names[c.name]))
        for c in mmor().collections
    )
    monkeypatch.setattr(checks, "DOMAIN", replace(mmor(), collections=collections))
