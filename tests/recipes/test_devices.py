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


# How often a training step of a batch waits for its GPU to do all that it was given, and where. Each has a reason: an
# assignment is found on the CPU (in each layer; in each frame where a tracker aligns it), neighbours and merged points
# have to be counted before there is room for them, the library looks at its attention mask.
CLOUDS = {
    "point_serialization.voxelise: tolist": 1,  # whether the clouds can be encoded, and how large they are
    "point_transformer.forward: unique_consecutive": 1,  # per stage but the first
    "point_transformer.forward: tolist": 1,
    "sparse_convolution.find_neighbours: unique_consecutive": 3,  # per stage, and for the stem
    "sparse_convolution.find_neighbours: nonzero": 3,
    "sparse_convolution.find_neighbours: tolist": 3,
}
ALLOWED = {
    "CTVIS_r50": {"matching.match_pictures: copy": 4},
    "DVIS_Plus_Online_R50": {
        "matching.follow: copy": 2,
        "matching.match_clip: copy": 2,
    },
    "DVIS_Plus_Online_R50 unguided": {
        "matching.follow: copy": 2,
        "matching.match_clip: copy": 4,
    },
    "DVIS_Plus_Offline_R50": {
        "matching.follow: copy": 4,
        "matching.match_pictures: copy": 2,
    },
    "DVIS_Plus_Offline_R50 unguided": {
        "matching.follow: copy": 4,
        "matching.match_pictures: copy": 2,
    },
    "small_encoder_only": {"matching.match_clip: copy": 6},  # of two clips, in each of three layers
    "from scratch": {"mm2sg.forward: _local_scalar_dense": 2, **CLOUDS},
    "fine-tuning": {"mm2sg.forward: _local_scalar_dense": 2, **CLOUDS},
}


@pytest.fixture(scope="module")
def on_pretend_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What `on_pretend_gpu.py` prints."""
    if not hasattr(backends, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch takes no backends in Python")
    command = [sys.executable, "-m", "tests.recipes.on_pretend_gpu", str(tmp_path_factory.mktemp("pretend"))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_everything_that_computes_stays_on_its_device(on_pretend_gpu: dict[str, dict]) -> None:
    wrong = on_pretend_gpu["wrong"]
    assert len(wrong) == 30
    assert {name: what for name, what in wrong.items() if what} == {}


def test_a_training_step_waits_for_its_gpu_no_more_than_it_must(on_pretend_gpu: dict[str, dict]) -> None:
    waits = on_pretend_gpu["waits"]
    assert waits.keys() == ALLOWED.keys()
    more = {
        f"{training}, {place}": (count, ALLOWED[training].get(place, 0))
        for training, places in waits.items()
        for place, count in places.items()
        if count > ALLOWED[training].get(place, 0)
    }
    assert more == {}, "waits in a step, and how many there may be"


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
