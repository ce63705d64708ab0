"""Where GPUs are: no tensor is left on the CPU, and one process takes one of several."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.backend_registration as backends
from transformers import TrainingArguments

from scene_graph_generation.config.settings import to_mapping
from tests.operating_room.tiny_dataset import picture, write_dataset
from tests.recipes.small_panoptic import CONFIGS, STAGES, smaller
from tests.recipes.small_scene_graph import SMALL, mmor
from tests.scene_graph_generation.tiny_training import write_samples

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"), reason="this torch takes no backends in Python"
)
def test_everything_that_computes_stays_on_its_device(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.recipes.on_pretend_gpu", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads(ran.stdout.splitlines()[-1])
    assert len(results) == 24
    assert {name: wrong for name, wrong in results.items() if wrong} == {}


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers finds on a machine of four GPUs, where nobody has said that one process is for one of them."""
    find = TrainingArguments._setup_devices.func

    def found(arguments: TrainingArguments) -> torch.device:
        device = find(arguments)
        arguments._n_gpu = 4
        return device

    pretended = cached_property(found)
    pretended.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", pretended)
    monkeypatch.setattr(torch.nn.DataParallel, "__init__", lambda *_: pytest.fail("batches are split over all GPUs"))


@pytest.mark.usefixtures("four_gpus")
def test_a_training_of_scene_graphs_takes_one_of_several_gpus(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data")
    for path in data.glob("*/take_audio_embeddings_per_timepoint/*/*.pt"):
        torch.save(torch.ones(SMALL.model.pooler.audio_width), path)
    small = replace(SMALL, train=replace(SMALL.train, max_steps=1))
    (tmp_path / "small.yaml").write_text(json.dumps(to_mapping(small), default=str))
    files = ("--samples", data / "samples.json", "--data", data, "--out", tmp_path / "out")
    mmor("scene-graph", "train", "--config", tmp_path / "small.yaml", *files)


@pytest.mark.usefixtures("four_gpus")
def test_a_training_of_the_segmenter_takes_one_of_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dataset(tmp_path / "data")
    labels = np.zeros((48, 64), np.uint8)
    labels[4:20, 8:30] = 5
    for path in data.glob("*/*/*segmentation_export_*/*.png"):
        path.write_bytes(picture("PNG", labels))
    monkeypatch.chdir(tmp_path)
    config = ("--config-file", CONFIGS / "HybridOR" / "CTVIS_r50.yaml", "--data", data, "--workers", "1")
    mmor("panoptic", "train", *config, *smaller(STAGES[0]), "SOLVER.MAX_ITER", "1", "MODEL.WEIGHTS", "")
