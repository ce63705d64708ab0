"""`mmor data import egoexor`, as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import numpy as np

from mmor import cli
from tests.operating_room.importers.tiny_egoexor import split_rows, tiny_take, write_legacy


def run(*arguments: str) -> int:
    """The exit code of the real entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take = tiny_take("MISS", 1, 2, frames=2)
    source = write_legacy(tmp_path / "miss_1.h5", [take, tiny_take(frames=1)], {"train": split_rows(take)})
    out = tmp_path / "out"
    command = ("data", "import", "egoexor", str(source), "--out", str(out), "--workers", "1")
    assert run(*command, "--take", "MISS_1_2", "--pictures", "png") == 0
    told = capsys.readouterr()
    assert "release: legacy, 1 files, 2 takes" in told.out
    assert "MISS_1_2: 20 pictures" in told.out
    assert not told.err
    assert {path.name for path in out.iterdir()} == {"domain.yaml", "splits.yaml", "takes"}
    assert {path.name for path in (out / "takes/MISS_1_2").iterdir()} == {
        *("take.yaml", "views", "gaze", "hands", "clouds", "audio", "graphs"),
    }
    assert len(list((out / "takes/MISS_1_2/views").glob("*/*.png"))) == 20
    assert run(*command, "--take", "MISS_1_2") == 2
    assert "pictures png, not jpg" in capsys.readouterr().err


def test_what_is_left_out_is_told_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tiny_take(number=2, frames=2)
    bad.arrays["hand_tracking/positions"] = np.zeros((1, 3, 17), np.float32)
    (tmp_path / "in").mkdir()
    write_legacy(tmp_path / "in/a.h5", [tiny_take(frames=1), bad])
    (tmp_path / "in/b.h5").write_bytes((tmp_path / "in/a.h5").read_bytes()[:5000])
    options = ("--gaze", "stored", "--period", "0.1", "--colours", "as_evaluated", "--workers", "1")
    assert run("data", "import", "egoexor", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options) == 1
    cut, rows = capsys.readouterr().err.strip().splitlines()
    assert cut == f"left out: {tmp_path / 'in/b.h5'}: is cut off; download it again"
    assert rows.startswith(f"left out: {tmp_path / 'in/a.h5'}:/data/Ultrasound/1/take/2/hand_tracking/positions: ")


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "import", "egoexor", str(tmp_path / "no.h5"), "--out", str(tmp_path / "out")) == 2
    assert run("data", "import", "egoexor", str(tmp_path), "--out", str(tmp_path / "out"), "--period", "0") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
