"""The published trainings of stage 2 at a thousandth of their size, by settings alone: every switch is their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from typer.testing import CliRunner

from computing.experiments import CONFIGS
from mmor.cli import app
from operating_room.domain import domain as domains
from scene_graph_generation.config.settings import MODALITIES, PointConfig, to_mapping, with_vocabulary
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.training_data import read_records, record_text
from scene_graph_generation.weights.checkpoints import save_model
from tests.operating_room.tiny_dataset import write_dataset
from tests.scene_graph_generation.config.test_arguments import BASE, DOWNSTREAM, TEMPORAL
from tests.scene_graph_generation.tiny_training import SHORT

POINTS = PointConfig(depths=(1, 1), channels=(8, 16), heads=(1, 2), mlp_ratio=1, patch=32, voxel=0.2, drop_path=0.1)
_LANGUAGE = replace(
    SHORT.model.language, positions=1024
)  # 4096 and more text than a tiny vocabulary puts into few tokens
SMALL = replace(SHORT, model=replace(SHORT.model, language=_LANGUAGE, points=POINTS, modalities=MODALITIES))
PUBLISHED = {"base": BASE, "temporal": TEMPORAL, "downstream": DOWNSTREAM}


def mmor(*words: object) -> None:
    """Run a command in this process; an error is an exception."""
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exit_code:
        raise AssertionError(f"{' '.join(map(str, words))}: {result.output}") from result.exception


def write_recipe(root: Path) -> Path:
    """A dataset with the training files of the three trainings, made by the commands, and the two bases.

    Below `root`: data, samples, base (language model) and clip.
    """
    data = write_dataset(root / "data")
    for path in data.glob("*/take_audio_embeddings_per_timepoint/*/*.pt"):
        torch.save(torch.ones(SMALL.model.pooler.audio_width), path)
    mmor("data", "convert-relations", data, "--out", root)
    annotated = ("--data", data, "--relations", root, "--out", root / "samples")
    mmor("scene-graph", "samples", *annotated, "--permutations", 2, "--mixed-modalities")
    mmor("scene-graph", "samples", *annotated, "--permutations", 2, "--mixed-modalities", "--temporal")
    mmor("downstream", "samples", *annotated, "--per-timepoint", 2)
    texts = [record_text(record) for path in sorted((root / "samples").glob("*.json")) for record in read_records(path)]
    tokens = train_tokens(texts, SMALL.vocabulary, domains.mmor().language)
    torch.manual_seed(0)
    model = MM2SG(with_vocabulary(SMALL.model, tokens.size))
    save_model(root / "base", model, tokens)
    model.vision.clip.save_pretrained(root / "clip")
    mmor("scene-graph", "samples", *annotated, "--permutations", 2, "--mixed-modalities", "--tokenizer", root / "base")
    return root


def samples_of(root: Path, training: str) -> Path:
    """The training file of `base`, `temporal` or `downstream`."""
    names = {
        "base": "train_*_Falsetemp_*.json",
        "temporal": "train_*_Truetemp_*.json",
        "downstream": "downstream_*.json",
    }
    (path,) = (root / "samples").glob(names[training])
    return path


def small_file(root: Path, training: str, **train: Any) -> Path:
    """The published experiment file with small sizes, the bases of `root`, and some settings of `train`."""
    values = yaml.safe_load((CONFIGS / "scene_graph" / f"{training}.yaml").read_text())
    values["model"] = {
        name: value for name, value in plain(to_mapping(SMALL.model)).items() if name not in ("language", "modalities")
    }
    values["start"] |= {"base": str(root / "base"), "lora": {"rank": 4, "alpha": 8, "dropout": 0.05}}
    if training != "downstream":
        values["start"] |= {"vision": str(root / "clip"), "vision_layers": 1}
        values["files"]["token_frequencies"] = str(root / "samples" / "train_token_freqs_7b_2perm.json")
    values["files"] |= {"samples": [str(samples_of(root, training))], "data": str(root / "data")}
    values["train"] |= {"batch_size": 2, "accumulation": 2, "workers": 0, "report_to": "none", "save_steps": 1}
    values["train"] |= {"learning_rate": 1e-3, "projector_learning_rate": 1e-3, **train}
    path = root / f"{training}_{len(list(root.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def published_words(root: Path, training: str, **options: object) -> list[str]:
    """A published command as it is typed, and then smaller values: of what is given twice, the last holds."""
    smaller: dict[str, object] = {
        "model_name_or_path": root / "base",
        "lora_r": 4,
        "lora_alpha": 8,
        "data_path": samples_of(root, training),
        "image_folder": root / "data",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "model_max_length": SMALL.model.max_length,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "save_steps": 1,
    }
    if training != "downstream":
        frequencies = root / "samples" / "train_token_freqs_7b_2perm.json"
        smaller |= {
            "vision_tower": root / "clip",
            "unfreeze_n_vision_tower_layers": 1,
            "token_weight_path": frequencies,
        }
    words = PUBLISHED[training].split()
    return words + [str(word) for name, value in (smaller | options).items() for word in (f"--{name}", value)]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Ready for YAML."""
    return {
        name: plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
