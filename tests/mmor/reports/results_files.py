"""Small results files of every kind, as `evaluate` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmor.reports.page import write_report
from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import save_predictions
from operating_room.graphs.scene_graph import Sample, Triplet
from panoptic_segmentation.scores.vpq import Quality, VideoQuality, WindowQuality
from scene_graph_generation.inference.evaluate import evaluate
from tests.operating_room.graphs import random_samples

TAKES = ("001_4DOR", "002_PKA_MMOR")


def graph_results(path: Path, wrong: int = 3, samples: Sequence[Sample] | None = None) -> Path:
    """Of scene graphs; every `wrong`-th timepoint is answered with the graph of the one before it."""
    samples = random_samples(80, 1, TAKES) if samples is None else samples
    said: dict[str, Sequence[Triplet]] = {}
    for place, sample in enumerate(samples):
        said[sample.sample_id] = samples[place - 1].triplets if place % wrong == 0 else sample.triplets
    predictions = path.with_suffix(".predictions.json")
    save_predictions(predictions, said)
    evaluate(samples, predictions, mmor(), path)
    return path


def mask_results(path: Path, found: int = 8) -> Path:
    """Of masks: three videos, two categories, the second of which has `found` of 10 tubes."""
    per_video = {
        f"001_PKA_{camera}": {
            1: Quality(8.5 + camera / 10, 10, 0, 0),
            2: Quality(0.8 * found, found, 0, 10 - found),
        }
        for camera in (1, 2, 3)
    }
    names = {1: "patient", 2: "drill"}
    quality = VideoQuality({length: WindowQuality(per_video, names) for length in (4, 8)}, names)
    stq = {"association": 0.5, "iou": 0.5, "stq": 0.5}
    about = {"version": "0.1", "split": "test", "takes": ["001_PKA_MMOR"], "videos": 3, "frames": 30}
    path.write_text(json.dumps({**about, **quality.to_json(), "instances": None, "stq": stq}))
    return path


def task_results(path: Path, answer: str = "turn on") -> Path:
    """Of downstream tasks: the robot phase alone, which turns on at each of 60 timepoints."""
    names = [f"002_PKA_MMOR_{place:06d}" for place in range(60)]
    scores = {"precision": 1.0, "recall": 1.0, "f1-score": 1.0, "support": 60}
    one = {
        "task": "robot_phase",
        "overall": {"turn on": scores, "accuracy": 1.0, "macro avg": scores, "weighted avg": scores},
        "macro": scores,
        "takes": {"002_PKA": {"turn on": scores, "macro avg": scores}},
        "unknown_labels": [],
        "intervals": {"macro f1-score": [0.9, 1.0], "turn on": [0.9, 1.0]},
    }
    record = {
        "next_action": {"label": None, "model": "cut: 3"},
        "robot_phase": {"label": "Turn on", "model": answer},
        "sterility_breach": {"label": [], "model": "No"},
    }
    content = {"task": "downstream", "about": {"domain": "mmor"}, "tasks": {"robot_phase": {"model": one}}}
    path.write_text(json.dumps({**content, "definitions": {}, "problems": [], "samples": dict.fromkeys(names, record)}))
    return path


def changed(path: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a results file after a change."""
    content = json.loads(path.read_text())
    change(content)
    out.write_text(json.dumps(content))
    return out


def page_of(out: Path, *results: Path, **options: Any) -> str:
    """The page of these results, written to `out`."""
    write_report(results, out / "page.html", **options)
    return (out / "page.html").read_text("utf-8")
