"""`mmor demo`: the whole chain with another segmenter, and what is refused before anything is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from computing.experiments import CONFIGS
from computing.machine import seeded
from mmor.demo import run_demo, train_models
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


def test_both_models_are_trained_by_workers_that_leave_ctrl_c_to_the_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They once had a pool of their own, which knew nothing of Ctrl-C."""
    for step in ("synthesize", "convert", "prepare"):
        monkeypatch.setattr(f"mmor.demo.{step}", lambda *_, **__: None)
    (tmp_path / "data" / "MM-OR_data").mkdir(parents=True)
    given: list[tuple[str, int]] = []

    def in_workers(function: Any, items: Sequence[str], workers: int, title: str) -> Iterator[None]:
        given.extend((item, workers) for item in items)
        monkeypatch.setattr("mmor.demo._train_segmenter", lambda *_: done.append("segmenter"))
        monkeypatch.setattr("mmor.demo._train_graphs", lambda *_: done.append("graphs"))
        yield from map(function, items)

    done: list[str] = []
    monkeypatch.setattr("mmor.demo.in_workers", in_workers)
    train_models(tmp_path, tmp_path / "models")
    assert given == [("panoptic_small", 2), ("scene_graph_small", 2)]
    assert done == ["segmenter", "graphs"]
