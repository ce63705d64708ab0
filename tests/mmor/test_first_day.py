"""A first day: the lines of docs/first_day.md as they stand there, one after the other, and what they leave behind."""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mmor.cli import app
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_predictions, load_samples
from tests.mmor.documents import ROOT, commands

LINES = [command.text for command in commands(ROOT / "docs" / "first_day.md") if command.is_whole]
# Tested elsewhere: minutes long, over a network, in a browser, without end, or for other tools.
ELSEWHERE = {
    "check": "test_check.py",
    "checkpoints download": "test_checkpoints.py",
    "data import": "cli/test_cli_import.py",
    "data stats": "../operating_room/doctor/test_statistics.py",
    "export coco-panoptic": "exports/test_export_masks.py",
    "export cvat": "exports/test_export_masks.py",
    "export fiftyone": "exports/test_fiftyone.py",
    "export mcap": "exports/test_mcap.py",
    "export rerun": "exports/test_rerun.py",
    "import masks": "exports/test_masks_back.py",
    "live": "live/test_live_command.py",
    "view": "viewer/test_viewer_server.py",
}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Result]]]:
    """The folder of a user who has typed all lines, and what each has said."""
    folder = tmp_path_factory.mktemp("day")
    said: dict[str, Result] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in LINES:
            words = [name for word in shlex.split(line)[1:] for name in sorted(glob.glob(word)) or [word]]
            said[line] = CliRunner().invoke(app, words)
            if line.startswith("mmor data check"):
                assert said[line].exit_code == 1  # gaps: nothing is prepared yet
                continue
            assert said[line].exit_code == 0, f"{line}\n{said[line].output}\n{said[line].exception!r}"
        yield folder / "first", said


def said(results: dict[str, Result], beginning: str) -> str:
    (result,) = (result for line, result in results.items() if line.startswith(f"mmor {beginning}"))
    return result.stdout


def test_every_command_of_the_readme_is_in_it_or_tested_elsewhere() -> None:
    named = set()
    for row in re.findall(r"^\| [^|]+ \| (`mmor [^|]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE):
        first, *more = (words.split() for words in re.findall(r"`([^`]+)`", row))
        group = [word for word in first[1:3] if re.fullmatch(r"[a-z-]+", word)]
        named |= {" ".join(group), *(f"{group[0]} {words[0]}" for words in more if not words[0].startswith("-"))}
    assert len(named) > 15
    day = {" ".join(line.split()[1:3]) for line in LINES} | {line.split()[1] for line in LINES}
    assert named - day == set(ELSEWHERE)
    assert all((ROOT / "tests" / "mmor" / file).exists() for file in ELSEWHERE.values())


def test_from_takes_to_scores(day: tuple[Path, dict[str, Result]]) -> None:
    folder, results = day
    assert "0 broken" in said(results, "data check")
    assert len(load_samples(folder / "relationships_train.json")) == 40
    assert "STQ" in said(results, "panoptic evaluate")
    graphs = load_predictions(folder / "graphs.json")
    assert set(graphs) == {f"{take}_00000{second}" for take in ("004_PKA_MMOR", "002_4DOR") for second in (0, 1)}
    for name in ("with_memory", "without_memory"):
        assert len(json.loads((folder / f"{name}.json").read_text())["samples"]) == 4
    assert "4 timepoints in both files" in said(results, "compare")
    assert set(json.loads((folder / "downstream.json").read_text())) >= {"definitions", "about"}
    assert "reads: views, cloud, audio, masks, robot, tracker, speech" in said(results, "checkpoints inspect")


def test_everything_is_prepared_now(day: tuple[Path, dict[str, Result]]) -> None:
    folder, _ = day
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    gaps = [line for line in result.stdout.splitlines() if line.startswith("gap")]
    assert all("are absent" in line for line in gaps), result.stdout


def test_nothing_but_ours_is_written_to_the_folder(day: tuple[Path, dict[str, Result]]) -> None:
    folder, _ = day
    assert [path.name for path in folder.parent.iterdir()] == ["first"]
    assert not list(folder.rglob("*partial*"))


def test_nothing_of_libraries_is_said(day: tuple[Path, dict[str, Result]]) -> None:
    _, results = day
    for line, result in results.items():
        assert "Warning" not in result.stderr, line
        assert not isinstance(result.exception, UserError), line
