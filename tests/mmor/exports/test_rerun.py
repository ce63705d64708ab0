"""A take as an .rrd file, read back by rerun; skips where rerun-sdk (280 MB) is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from mmor import cli
from mmor.exports.rerun import export_rerun
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.operating_room.cameras import camera_file
from tests.operating_room.tiny_dataset import FOURDOR_NAME, MMOR_NAME, label_picture, write, write_dataset

RUN = CliRunner()


def printed(path: Path) -> str:
    """What rerun itself says is in a file, which it also checks."""
    command = [sys.executable, "-m", "rerun", "rrd"]
    subprocess.run([*command, "verify", str(path)], check=True, capture_output=True, timeout=120)
    done = subprocess.run([*command, "print", str(path)], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def test_everything_of_a_take(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra rerun is not installed")
    root = write_dataset(tmp_path / "data")
    write(root / "MM-OR_data" / MMOR_NAME / "camera02.json", camera_file())
    arguments = [MMOR_NAME, FOURDOR_NAME, "--data", str(root), "--out", str(tmp_path / "out")]
    result = RUN.invoke(cli.app, ["export", "rerun", *arguments])
    assert result.exit_code == 0, result.output
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {MMOR_NAME, FOURDOR_NAME}
    assert "EncodedImage" in printed(tmp_path / "out" / f"{FOURDOR_NAME}.rrd")  # whose graphs are empty
    text = printed(tmp_path / "out" / f"{MMOR_NAME}.rrd")
    for sign in ("AnnotationContext", "EncodedImage", "SegmentationImage", "Points3D", "GraphNodes", "GraphEdges"):
        assert sign in text, sign
    for place in ("/camera/2 ", "/camera/1/masks", "/cloud", "/graph", "/text/speech", "Pinhole", "Transform3D"):
        assert place in text, place


def test_masks_are_laid_over_the_pixels_of_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another size covered a corner of its picture. Without rerun: what it would be given."""
    said = MagicMock()
    said.RecordingStream.return_value.save = Path.touch
    monkeypatch.setitem(sys.modules, "rerun", said)
    root = write_dataset(tmp_path / "data")
    for mask in root.rglob("*export_*/*.png"):
        write(mask, label_picture(5, size=24))
    dataset = Dataset(root)
    export_rerun(dataset.take(dataset.named(MMOR_NAME)), tmp_path)
    assert {call.args[0].shape for call in said.SegmentationImage.call_args_list} == {(48, 64)}
    assert [call.args[0] for call in said.TextLog.call_args_list] == ["the saw"] * 3


def test_without_the_extra_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    result = RUN.invoke(cli.app, ["export", "rerun", "soup", "--out", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert 'pip install "mmor[rerun]"' in str(result.exception)
