"""Logging to Weights & Biases, offline: nothing leaves this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from operating_room.files.atomic import write_json
from panoptic_segmentation.config.settings import save_config
from scene_graph_generation.config.settings import to_mapping
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY
from tests.scene_graph_generation.tiny_training import GRAPHS, TAKE, with_settings, write_samples

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")


def mmor(place: Path, *arguments: str | Path) -> str:
    """Run a command with wandb's files in a folder; its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(place)}
    command = [sys.executable, "-m", "mmor.cli", *map(str, arguments)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def missing(place: Path, *words: bytes) -> list[bytes]:
    """Which words are not in what the one run in the folder has stored to be sent later."""
    (stored,) = (place / "wandb").glob("offline-run-*/*.wandb")
    said = stored.read_bytes()
    return [word for word in words if word not in said]


def test_scene_graph_training_and_its_table(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data")
    experiment = with_settings(["train.max_steps=2", "train.save_steps=1"])
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(experiment), default=str))))
    files = ("--config", tmp_path / "tiny.yaml", "--samples", data / "samples.json", "--data", data)
    run = tmp_path / "run"
    mmor(tmp_path / "a", "scene-graph", "train", *files, "--out", run, "--report_to", "wandb", "--run_name", "tiny run")
    assert not missing(tmp_path / "a", b"train/loss", b"train/learning_rate", b"tiny run")

    records = [{"take_name": TAKE, "frame_id": f"{i:06d}", "relationships": graph} for i, graph in enumerate(GRAPHS)]
    write_json(data / "relationships_train.json", records)
    split = ("--split", "train", "--data", data, "--relations", data)
    mmor(tmp_path / "b", "scene-graph", "evaluate-all", run, *split, "--wandb", "tiny project")
    assert not missing(tmp_path / "b", b"macro F1", b"macro recall", b"run mmor_train", b"tiny project")
    steps = [line.split(",")[0] for line in (run / "mmor_train.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "final"]


@pytest.mark.parametrize(
    "command",
    [
        ("panoptic", "train", "--config-file", "configs/panoptic/small.yaml", "--report-to", "wandb"),
        ("scene-graph", "train", "--samples", "x.json", "--out", "x", "--report_to", "wandb"),
    ],
)
def test_without_a_key_nothing_is_started(command: tuple[str, ...], tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    (tmp_path / "MM-OR_data").mkdir()
    finished = subprocess.run(
        [sys.executable, "-m", "mmor.cli", *command, "--data", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=environment | {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 2
    *_, line = finished.stderr.strip().splitlines()
    assert line.startswith(f"error: {command[-2]} wandb: No API key configured")
    assert line.endswith("set WANDB_MODE=offline")
    assert "Traceback" not in finished.stderr


def test_panoptic_training(tmp_path: Path) -> None:
    write_take(tmp_path / "data", 7)
    save_config(TINY, tmp_path / "config.yaml")
    files = ("--config-file", tmp_path / "config.yaml", "--data", tmp_path / "data", "--out", tmp_path / "run")
    mmor(tmp_path, "panoptic", "train", *files, "--workers", "1", "--report-to", "wandb")
    assert not missing(tmp_path, b"train/loss", b"train/loss_mask", b"train/learning_rate")
