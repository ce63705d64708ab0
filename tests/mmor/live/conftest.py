"""A take as it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.domain.domain import mmor
from operating_room_simulator.story.story import script_surgery
from operating_room_simulator.writer import write_take

TAKE = mmor().find_take("004_PKA")
SECONDS = (30, 31, 32, 44, 45)  # of a surgery of 60 s; these are drawn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A take as it is recorded, without anything that is made of it later."""
    root = tmp_path_factory.mktemp("data")
    whole = script_surgery(TAKE, 7, 60)
    moments = [replace(whole.moments[second], second=place) for place, second in enumerate(SECONDS)]
    write_take(root, replace(whole, moments=tuple(moments)), size=(128, 96))
    return root
