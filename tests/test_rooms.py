"""The rooms of the house: imports run one way, and no folder is crowded (docs/architecture.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("operating_room", "operating_room_simulator", "computing"),
    *("panoptic_segmentation", "scene_graph_generation", "mmor"),
)
MOST_FILES = 12


def test_imports_run_one_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_no_room_is_crowded() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert len(folders) > len(PACKAGES)
    crowded = {
        str(folder.relative_to(ROOT)): len(files)
        for folder in folders
        if len(files := [path for path in folder.glob("*.py") if path.stem != "__init__"]) > MOST_FILES
    }
    assert not crowded
