"""The scripts that train the small models: nothing of a held-out take is learnt from."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

from operating_room.domain.domain import mmor

ROOT = Path(__file__).parents[2]


def test_training_with_eyes_learns_from_no_held_out_take(tmp_path: Path) -> None:
    """The script is run with a command that only notes what it is called with."""
    said, command = tmp_path / "said.txt", tmp_path / "mmor"
    command.write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n')
    command.chmod(0o755)
    asked = os.environ | {"MMOR": str(command), "ROOMS": "3", "ANSWERED": "2", "SHORT": "2", "HEARD": "1"}
    subprocess.run(["bash", "scripts/train_eyes.sh", str(tmp_path / "work")], cwd=ROOT, env=asked, check=True)
    calls = [line.split() for line in said.read_text().splitlines()]
    assert {tuple(call[:2]) for call in calls} >= {("data", "synthesize"), ("scene-graph", "train")}
    taken = {name for call in calls for flag, name in pairwise(call) if flag == "--take"}
    more = {"501_SIM", "502_SIM", "1001_SIM"}
    assert taken == more | {f"{number}_{kind}" for number in (401, 402, 403) for kind in ("SIM", "4DOR")}
    dark = {name for call in calls for flag, name in pairwise(call) if flag == "--without-cameras"}
    assert dark == {"1001_SIM"}
    held_out = {take.name for split in ("val", "test") for take in mmor().split_takes(split)}
    assert not taken & held_out
    assert {call[call.index("--split") + 1] for call in calls if "samples" in call} == {"own"}
    assert all(call[call.index("--data") + 1] == str(tmp_path / "work" / "data") for call in calls if "--data" in call)
