"""`mmor demo`: the whole chain with another segmenter, and what is refused before anything is done."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from computing.experiments import CONFIGS
from computing.machine import seeded
from mmor.demo import run_demo
from operating_room.errors import UserError
from panoptic_segmentation.config.settings import read_config
from panoptic_segmentation.scores.evaluate import results_path
from panoptic_segmentation.weights.checkpoints import build_model, save_model
from panoptic_segmentation.weights.model_card import ModelCard


def test_the_chain_runs_with_the_encoder_only_segmenter(tmp_path: Path) -> None:
    config = read_config(CONFIGS / "panoptic" / "small_encoder_only.yaml", ())
    with seeded(0):
        model = build_model(config.kind, config.segmenter, config.video)
    file = tmp_path / "model.safetensors"
    save_model(file, model, ModelCard(config.kind, config.segmenter, config.video, asdict(config.test)))
    out = tmp_path / "out"
    report = run_demo(out, 40, 2026, train=False, segmenter=file)
    assert "Take 004_PKA" in report.read_text(encoding="utf-8")
    masks = json.loads(results_path(out / "panoptic", "test").read_text())
    assert masks["vpq"] < 50  # random weights: the bundled segmenter has 78


def test_what_cannot_be_used_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --train or --segmenter"):
        run_demo(tmp_path / "out", 40, 2026, train=True, segmenter=tmp_path)
    with pytest.raises(UserError, match=r"none\.safetensors"):
        run_demo(tmp_path / "out", 40, 2026, train=False, segmenter=tmp_path / "none.safetensors")
    assert not (tmp_path / "out").exists()
