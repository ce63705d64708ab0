"""The command line: what a user sees for a mistake, and that each command calls what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmor import cli
from operating_room.dataset import Dataset
from operating_room.takes import find_take

RUN = CliRunner()


def run(*arguments: str) -> int:
    """The exit code of the real entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("group", [(), ("data",), ("panoptic",), ("scene-graph",)])
def test_help_names_the_commands(group: tuple[str, ...]) -> None:
    result = RUN.invoke(cli.app, [*group, "--help"])
    assert result.exit_code == 0
    assert "Commands" in result.output


def test_mistakes_end_with_one_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", str(tmp_path / "nothing")) == 2
    assert run("data", "synthesize", "--out", str(tmp_path), "--size", "big") == 2
    assert run("scene-graph", "preprocess", "masks", "--data", str(tmp_path)) == 2
    assert run("panoptic", "train", "--config-file", str(tmp_path / "no.yaml")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)


def test_synthesize_check_and_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--take", "005_4DOR", "--seconds", "40", "--size", "32x24", "--workers", "1")
    assert run("data", "synthesize", "--out", str(tmp_path), *options) == 0
    recorded = Dataset(tmp_path).take(find_take("005_4DOR"))
    assert len(recorded.timepoints) == 40

    assert run("data", "convert-relations", str(tmp_path), "--out", str(tmp_path)) == 0
    samples = json.loads((tmp_path / "relationships_train.json").read_text())
    assert len(samples) == 40

    capsys.readouterr()
    assert run("data", "check", str(tmp_path), "--json") == 1  # nine takes of 4D-OR are absent
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(json.dumps(report))
    assert any("005_4DOR" in str(take) for take in report["takes"])
