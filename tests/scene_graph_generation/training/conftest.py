"""Samples that trainings read, a training with checkpoints, and the published one as shapes only."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from computing.experiments import CONFIGS
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import Experiment, read_experiment, to_mapping
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.starting_point import meta_model
from scene_graph_generation.training.train import train
from tests.scene_graph_generation.tiny_training import SHORT, write_samples

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples.json and what it names."""
    return write_samples(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def published() -> Experiment:
    """The published training."""
    base = read_experiment(CONFIGS / "scene_graph" / "base.yaml")
    return replace(base, train=replace(base.train, deepspeed=ZERO2, report_to="none"))


@pytest.fixture(scope="module")
def model(published: Experiment) -> MM2SG:
    """Its model, shapes only."""
    return meta_model(published, published.model)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After six steps, with checkpoints at 3 and 6."""
    out = tmp_path_factory.mktemp("trained")
    run(with_train(max_steps=6), data, out)
    return out


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """The same, stopped before its end."""
    folder = shutil.copytree(trained, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    return folder


def with_train(**settings: object) -> Experiment:
    """A short training with other settings of its section `train`."""
    return replace(SHORT, train=replace(SHORT.train, **settings))


def run(experiment: Experiment, data: Path, out: Path) -> None:
    """Train here."""
    train(experiment, [data / "samples.json"], Dataset(data), out)


def command(experiment: Experiment, data: Path, out: Path, **limits: int) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, with limits of the system."""
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(experiment), default=str))))
    words = ("--config", file, "--samples", data / "samples.json", "--data", data, "--out", out)

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return subprocess.run(
        [sys.executable, "-m", "mmor.cli", "scene-graph", "train", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=300,
    )
