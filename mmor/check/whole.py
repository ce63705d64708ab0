"""Self-test of the commands' own functions from end to end: a simulated take through both stages on this machine.

A few steps of each training and the bundled models on a few frames: that it runs, and that what comes out can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch

from computing.experiments import CONFIGS
from mmor.check.measure import Outcome
from mmor.demo import BUNDLED, GRAPHS, SEGMENTER, prepare
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_samples
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.writer import synthesize
from panoptic_segmentation.config.settings import read_config
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.inference.predict import load as load_segmenter
from panoptic_segmentation.inference.predict import predict
from panoptic_segmentation.training.train import train as train_segmenter
from scene_graph_generation.config.settings import PretrainConfig, read_experiment
from scene_graph_generation.inference.infer import SceneGraphGenerator, infer
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.training.train import train as train_graphs
from scene_graph_generation.weights.checkpoints import load_model

TAKE = mmor().find_take("001_PKA")  # of the training split
SECONDS, FRAMES, STEPS = 40, 2, 2
SEED = 77
_SHORT = ("SOLVER.MAX_ITER", str(STEPS), "SOLVER.IMS_PER_BATCH", "2", "SOLVER.CHECKPOINT_PERIOD", str(STEPS))
_SMALL = ("INPUT.SAMPLING_FRAME_NUM", "2", "INPUT.MIN_SIZE_TRAIN", "[96]", "INPUT.MIN_SIZE_TEST", "96")


def whole_path(device: torch.device) -> Outcome:
    """Simulate, train both stages for some steps, segment, write graphs; the note says how long each took."""
    with TemporaryDirectory(prefix="mmor-check-") as folder, redirect_stdout(StringIO()):
        return Outcome(note=", ".join(_steps(Path(folder), device)))


def _steps(work: Path, device: torch.device) -> list[str]:
    data, notes = work / "data", []

    def timed(what: str, run: Callable[[], object]) -> None:
        start = time.perf_counter()
        run()
        notes.append(f"{what} {time.perf_counter() - start:.1f} s")

    timed("simulate", lambda: synthesize(data, [TAKE], SECONDS, SEED, size=(160, 120), workers=1))
    recorded = Dataset(data)
    videos = [replace(video, frames=video.frames[:FRAMES]) for video in find_videos(recorded, [TAKE])]
    timed("train segmenter", lambda: _train_segmenter(work, data))
    model_file = BUNDLED / SEGMENTER / "model.safetensors"
    timed(
        "segment",
        lambda: predict(*load_segmenter(model_file, recorded.domain), videos, work / "masks", "check", model_file),
    )
    timed("prepare", lambda: prepare(data, [TAKE], None))
    convert(Dataset(data), data)
    timed("train scene graphs", lambda: _train_graphs(work, data))
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS, device=device), str(device))
    dataset = Dataset(data)
    frames = [timepoint.frame_id for timepoint in dataset.take(TAKE).timepoints[:FRAMES]]
    timed("write graphs", lambda: infer(generator, dataset, {TAKE: frames}, work / "graphs.json"))
    return notes


def _train_segmenter(work: Path, data: Path) -> None:
    config = read_config(CONFIGS / "panoptic" / "small.yaml", (*_SHORT, *_SMALL))
    train_segmenter(config, Dataset(data), work / "segmenter", work / "ground_truth")


def _train_graphs(work: Path, data: Path) -> None:
    experiment = read_experiment(CONFIGS / "scene_graph" / "small.yaml")
    seeing = replace(experiment.pretrain or PretrainConfig(), steps=STEPS, batch_size=2)
    shorter = replace(experiment.train, max_steps=STEPS, batch_size=2)
    samples = load_samples(data / "relationships_train.json")
    options = SampleOptions(permutations=1)
    records = list(training_records(Dataset(data), samples, options, Random(SEED)))[: 4 * STEPS]
    write_json(work / options.file_name("train"), records)
    experiment = replace(experiment, pretrain=seeing, train=shorter)
    train_graphs(experiment, [work / options.file_name("train")], Dataset(data), work / "graphs")
