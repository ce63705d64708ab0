"""Commands that are ended from outside leave nothing behind in the folder for temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmor.exports.cvat import export_cvat
from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import MMOR_NAME, write_dataset

CODE = """
import sys, time
from mmor import cli
from mmor.check import run, whole
from mmor.exports import masks_back
def begun(*_):
    print("begun", file=sys.__stdout__, flush=True)
    time.sleep(60)
whole._steps = masks_back._with_labelmap = begun
run.self_test = lambda full: iter([whole.whole_path(None)])
cli.main()
"""


@pytest.mark.parametrize("command", ["check", "import"])
def test_nothing_stays_in_the_folder_for_temporary_files(tmp_path: Path, command: str) -> None:
    """Gigabytes of unpacked masks did after `kill`, and in jobs of a cluster that ran out of time."""
    root, temporary = write_dataset(tmp_path / "data"), tmp_path / "temporary"
    temporary.mkdir()
    arguments = [command, "--data", str(root)]
    if command == "import":
        exported = export_cvat(Dataset(root).take(mmor().find_take(MMOR_NAME)), tmp_path / "out")
        arguments[1:1] = ["masks", str(exported), MMOR_NAME]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "begun\n":
            assert line, process.communicate()[1]
        assert list(temporary.glob("mmor*"))
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGTERM)
    assert "Traceback" not in said
    assert not list(temporary.glob("mmor*"))
