"""A training that takes seconds, for tests; as a program it runs in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.mapping import with_setting
from scene_graph_generation.config.settings import (
    Experiment,
    LanguageConfig,
    MM2SGConfig,
    PoolerConfig,
    TrainConfig,
    VisionConfig,
    with_vocabulary,
)
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.samples.survey import survey
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.train import train
from tests.operating_room.tiny_dataset import write_dataset

TAKE = "001_PKA_MMOR"
GRAPHS = [
    [Triplet("nurse", "instrument_table", "preparing"), Triplet("head_surgeon", "patient", "cutting")],
    [Triplet("head_surgeon", "patient", "drilling")],
    [],
]
EXPERIMENT = Experiment(
    model=MM2SGConfig(
        vision=VisionConfig(image_size=28, width=16, layers=1, heads=2, mlp=32, feature_layer=-1),
        pooler=PoolerConfig(layers=1, heads=2, mlp=32, mask_channels=(8, 8, 8, 8, 16), dropout=0.0),
        language=LanguageConfig(width=64, layers=2, heads=4, mlp=128, positions=512),
        modalities=("views", "masks", "robot", "tracker", "speech"),
    ),
    train=TrainConfig(
        max_steps=90,
        batch_size=3,
        accumulation=1,
        learning_rate=1e-2,
        max_grad_norm=1.0,
        modality_dropout=0.0,
        shuffle_views=False,
        token_weights=False,
        canonical_order=True,
        save_steps=60,
    ),
    vocabulary=1024,
)
# A few steps over several epochs with everything that is random switched on.
SHORT = replace(
    EXPERIMENT,
    model=replace(EXPERIMENT.model, pooler=replace(EXPERIMENT.model.pooler, dropout=0.1)),
    train=replace(
        EXPERIMENT.train,
        max_steps=10,
        batch_size=2,
        save_steps=3,
        log_steps=1,
        modality_dropout=0.5,
        shuffle_views=True,
        token_weights=True,
        order="balanced",
    ),
)


def write_samples(root: Path) -> Path:
    """A dataset with a training file `samples.json` of six samples in it."""
    write_dataset(root)
    for second in range(3):  # the words tell the three timepoints apart
        path = root / "MM-OR_data" / "take_transcripts_per_timepoint" / "001_PKA" / f"{second + 1:06d}.json"
        path.write_text(json.dumps({"text": ["scalpel please", "the drill", "hello"][second]}))
    samples = [Sample(TAKE, f"{second:06d}", tuple(graph)) for second, graph in enumerate(GRAPHS)]
    records = training_records(Dataset(root), samples, SampleOptions(permutations=2), Random(0))
    write_json(root / "samples.json", list(records))
    return root


def training_samples(
    path: Path, config: TrainConfig = SHORT.train, branches: Literal["one", "ego_exo"] = "one"
) -> TrainingSamples:
    """The samples of a file in the folder of its data, as `SHORT` shows them."""
    records, _, tokens = survey(
        [path], config.canonical_order, False, lambda texts: train_tokens(texts, SHORT.vocabulary, mmor().language)
    )
    settings = with_vocabulary(SHORT.model, tokens.size)
    settings = replace(settings, pooler=replace(settings.pooler, branches=branches))
    return TrainingSamples(records, Dataset(path.parent), config, ExampleReader(settings, tokens))


def losses(out: Path) -> dict[int, float]:
    """Step -> loss as logged last."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def with_settings(settings: Iterable[str]) -> Experiment:
    """`SHORT` with settings like `train.batch_size=1`."""
    experiment = SHORT
    for setting in settings:
        name, _, value = setting.partition("=")
        experiment = with_setting(experiment, name, value, name)
    return experiment


def main(data: str, out: str, *settings: str) -> None:
    """Run `SHORT` with these settings."""
    experiment = with_settings(settings)
    train(experiment, [Path(data) / "samples.json"], Dataset(Path(data)), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
