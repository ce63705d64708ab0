"""Experiment files are found from any folder, by our names and by the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from computing.experiments import CONFIGS, find_experiment


def test_ours_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / "panoptic" / "HybridOR" / "CTVIS_r50.yaml"
    for name in ("configs/panoptic/HybridOR/CTVIS_r50.yaml", "configs/dvis_Plus/HybridOR/CTVIS_r50.yaml"):
        assert find_experiment(Path(name)) == file
    assert find_experiment(Path("configs/scene_graph/base.yaml")) == CONFIGS / "scene_graph" / "base.yaml"


def test_a_user_s_own_file_goes_first_and_a_missing_one_stays_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("configs/panoptic/small.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("SEED: 1")
    assert find_experiment(own) == own
    for name in ("configs/panoptic/none.yaml", "small.yaml", "other/small.yaml", "configs"):
        assert find_experiment(Path(name)) == Path(name)
