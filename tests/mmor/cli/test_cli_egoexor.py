"""EgoExOR from its HDF5 files to both scores, as it is typed: import, check, samples, training, evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import torch

from computing.experiments import find_experiment
from mmor import cli
from operating_room.domain.domain import bundled
from scene_graph_generation.config.settings import ALL_MODALITIES, read_experiment
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import SampleOptions
from scene_graph_generation.samples.sample_modalities import choose_modalities
from tests.operating_room.importers.tiny_egoexor import split_rows, tiny_take, write_legacy

PUBLISHED, SMALL = (Path("configs/scene_graph") / name for name in ("egoexor.yaml", "small_egoexor.yaml"))
TINY = """
model:
  vision: {image_size: 28, width: 16, layers: 1, heads: 2, mlp: 32, feature_layer: -1}
  pooler: {branches: ego_exo, layers: 1, heads: 2, mlp: 32, max_views: 9, mask_channels: [8, 8, 8, 8, 16]}
  points: {depths: [1], channels: [8], heads: [1], patch: 16, voxel: 0.2}
  language: {width: 32, layers: 1, heads: 2, mlp: 64, positions: 1024}
  modalities: [views, cloud, audio, gaze, hands]
vocabulary: 1024
pretrain: {steps: 2, batch_size: 2}
train: {max_steps: 2, batch_size: 2, accumulation: 1, save_steps: 2, log_steps: 1, augment: true, shuffle_views: true}
"""


def run(*arguments: str | Path) -> int:
    """The exit code of the real entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


def test_from_the_files_to_both_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    takes = [tiny_take("MISS", 1, 2, frames=3), tiny_take("MISS", 1, 1, frames=2, seed=1), tiny_take(frames=2, seed=2)]
    splits = {"train": split_rows(takes[0]), "test": [*split_rows(takes[1]), *split_rows(takes[2])]}
    source, data = write_legacy(tmp_path / "all.h5", takes, splits), tmp_path / "data"
    assert run("data", "import", "egoexor", source, "--out", data, "--workers", "1") == 0
    preprocess = ("scene-graph", "preprocess", "audio-embeddings", "--data", data, "--audio-encoder", "mel")
    assert run(*preprocess, "--workers", "1") == 0
    assert run("data", "check", data) == 0  # a frame without graph is normal (egoexor.md, section 2)
    assert run("data", "convert-relations", data) == 0
    assert run("scene-graph", "samples", "--data", data, "--permutations", "2") == 0
    published = ("--split", "test", "--form", "egoexor", "--permutations", "1", "--no-temporal-augmentation")
    assert run("scene-graph", "samples", "--data", data, *published) == 0
    test_file = data / "llava_samples" / "test_1perm_Falsetemp_Falsetempaug_EgoExOR_drophistory0.5.json"
    assert len(json.loads(test_file.read_text())) == 4
    (samples,) = (data / "llava_samples").glob("train_2perm_*_EGO_*GAZE_HANDS*.json")
    config, model = tmp_path / "tiny.yaml", tmp_path / "model"
    config.write_text(TINY)
    files = ("--samples", samples, "--data", data, "--out", model)
    assert run("scene-graph", "train", "--config", config, *files, "--dry-run") == 0
    capsys.readouterr()
    for more in ((), ("--dry-run",)):
        blind = ("--samples", test_file, "--data", data, "--out", tmp_path / "blind")
        assert run("scene-graph", "train", "--config", config, *blind, *more) == 2
        told = capsys.readouterr()
        assert "names places in EgoExOR's HDF5 files and no pictures" in told.out + told.err
    assert run("scene-graph", "train", "--config", config, *files) == 0
    capsys.readouterr()
    for roles in ("as_trained", "as_evaluated"):
        asked = ("--model", model, "--data", data, "--relations", test_file, "--max-new-tokens", "4", "--roles", roles)
        assert run("scene-graph", "evaluate", *asked) == 0
        told = capsys.readouterr().out
        assert "f1_official and f1_truth differ" in told
    results = [json.loads(path.read_text()) for path in sorted((model / "evaluation").glob("*.json"))]
    assert [result["about"].get("roles") for result in results] == [None, "as_evaluated"]
    for result in results:
        assert {*result["egoexor"]} == {"definitions", "f1_official", "f1_truth"}
        assert {*result["egoexor"]["f1_truth"]} == {"MISS", "Ultrasound", "all"}
        assert result["overall"]["samples"] == 4
        assert result["egoexor"]["f1_truth"]["all"]["macro_f1"] == result["overall"]["macro"]["f1-score"]
        assert result["modalities"]["gaze"]["timepoints"] == 4


def test_the_published_options() -> None:
    """egoexor.md, section 9; the sample file is the one that `mmor scene-graph samples --permutations 4` writes."""
    experiment = read_experiment(find_experiment(PUBLISHED))
    train, start, pooler = experiment.train, experiment.start, experiment.model.pooler
    assert (pooler.branches, pooler.layers, pooler.heads, pooler.max_views, pooler.mlp) == ("ego_exo", 3, 16, 9, 4096)
    assert (start.bits, start.lora and (start.lora.rank, start.lora.alpha)) == (4, (128, 256))
    assert (start.vision_layers, start.base) == (12, "liuhaotian/llava-v1.5-7b")
    assert (train.learning_rate, train.projector_learning_rate, train.batch_size, train.accumulation) == (
        2e-5,
        2e-5,
        2,
        8,
    )
    assert (train.epochs, train.warmup, train.max_grad_norm, train.weight_decay) == (1, 0.03, 0.1, 0)
    assert (train.augment, train.modality_dropout) == (False, 0)
    options = SampleOptions(4, augment_memory=False, modalities=choose_modalities(None, bundled("egoexor")))
    assert experiment.files.samples[0].name == options.file_name("train")


def test_the_small_model_is_small_and_reads_all_that_the_takes_have() -> None:
    experiment = read_experiment(find_experiment(SMALL))
    assert {"views", "cloud", "audio", "gaze", "hands"} == {*experiment.model.modalities} < {*ALL_MODALITIES}
    with torch.device("meta"):
        model = MM2SG(experiment.model)
    assert sum(parameter.numel() for parameter in model.parameters()) < 20e6
