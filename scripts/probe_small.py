"""What the small scene-graph model looks at: score it with modalities taken away at inference, or with wrong masks.

Usage: python scripts/probe_small.py MODEL DATA RELATIONS OUT [STRIDE] [SPLIT]; DATA holds prepared takes of SPLIT
(default: test), RELATIONS the relationships_*.json, OUT gets a predictions file a row. Every STRIDE-th second counts
(default: 3). One model for all rows: no row has been trained for what it lacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import SPLIT_NAMES, load_predictions, load_samples
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import score
from scene_graph_generation.inference.evaluate import score_constant_guess
from scene_graph_generation.inference.infer import SceneGraphGenerator, infer
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.weights.checkpoints import load_model

VIEWS = ("room_views", "station_views", "tracker_view")
CLOUD = ("point_cloud",)
MASKS = ("masks",)
SOUND = ("audio", "audio_embedding")
SPEECH = ("transcript",)
ROBOT = ("robot_screen", "tracker")
# Row -> (modalities without which a timepoint is shown, whether there is memory).
ROWS: dict[str, tuple[tuple[str, ...], bool]] = {
    "all": ((), True),
    "no views": (VIEWS, True),
    "no point cloud": (CLOUD, True),
    "no masks": (MASKS, True),
    "no views, point cloud, masks": (VIEWS + CLOUD + MASKS, True),
    "no speech": (SPEECH, True),
    "no sound": (SOUND, True),
    "no robot screen, tracker": (ROBOT, True),
    "all without memory": ((), False),
}


class Probe(SceneGraphGenerator):
    """A generator that is shown something else than there is."""

    change: Callable[[Timepoint], Timepoint]

    def read(self, timepoint: Timepoint, memory: str | None) -> Example:
        """The question about the changed timepoint."""
        return super().read(self.change(timepoint), memory)


def main(model: Path, data: Path, relations: Path, out: Path, stride: int = 3, split: str = "test") -> None:
    """Print a table row for each way to look."""
    samples = load_samples(relations / f"relationships_{SPLIT_NAMES[split]}.json")[::stride]
    dataset = Dataset(data)
    frames: dict[Any, list[str]] = {}
    for sample in samples:
        frames.setdefault(mmor().find_take(sample.take_name), []).append(sample.frame_id)
    others = {take: next(o for o in frames if o.dataset == take.dataset and o != take) for take in frames}

    def with_masks_of_another(timepoint: Timepoint) -> Timepoint:
        return timepoint.taking("masks", dataset.take(others[timepoint.take]).timepoint(timepoint.frame_id))

    changes: dict[str, tuple[Callable[[Timepoint], Timepoint], bool]] = {
        name: (lambda timepoint, without=without: timepoint.without(without), memory)
        for name, (without, memory) in ROWS.items()
    }
    changes["masks of another take"] = (with_masks_of_another, True)
    probe = Probe(*load_model(model))
    out.mkdir(parents=True, exist_ok=True)
    print("| shown | macro F1 | MM-OR | 4D-OR | answers as with all |")
    print("|---|---|---|---|---|")
    usual: dict[str, Any] = {}
    for name, (change, memory) in changes.items():
        probe.change = change
        file = out / f"{name.replace(', ', '_').replace(' ', '_')}.json"
        infer(probe, dataset, frames, file, memory)
        predictions = load_predictions(file)
        usual = usual or predictions
        same = sum(predictions[sample.sample_id] == usual[sample.sample_id] for sample in samples)
        parts = [[s for s in samples if mmor().find_take(s.take_name).dataset == d] for d in reversed(mmor().datasets)]
        f1 = [score(part, predictions, mmor()).overall.macro_f1 for part in (samples, *parts)]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in f1)} | {same} of {len(samples)} |", flush=True)
    training = relations / "relationships_train.json"
    if training.exists():
        guess = score_constant_guess(load_samples(training), samples, mmor()).overall.macro_f1
        print(f"| constant guess | {guess:.3f} | | | |")


if __name__ == "__main__":
    model, data, relations, out, *rest = sys.argv[1:]
    main(Path(model), Path(data), Path(relations), Path(out), int(rest[0]) if rest else 3, *rest[1:2])
