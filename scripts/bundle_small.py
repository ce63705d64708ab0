"""Put the two small models of a training folder into the package, in 16 bits.

Usage: python scripts/bundle_small.py FOLDER [TARGET]; FOLDER has panoptic_small, scene_graph_small or both.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from panoptic_segmentation.config.settings import read_config
from panoptic_segmentation.weights import checkpoints as segmenters
from scene_graph_generation.weights import checkpoints as graphs

PACKAGE = Path(__file__).parents[1]


def main(work: Path, target: Path) -> None:
    """Copy the models of `work` to `target`; the segmenter gets the test settings that it was trained with."""
    if (work / "panoptic_small").exists():
        model, card = segmenters.load_model(work / "panoptic_small" / "model.safetensors")
        config = read_config(work / "panoptic_small" / "config.yaml")
        card = replace(card, preprocessing=asdict(config.test))
        segmenters.save_model(target / "panoptic_small" / "model.safetensors", model, card, half=True)

    if (work / "scene_graph_small").exists():
        model, tokens = graphs.load_model(work / "scene_graph_small")
        graphs.save_model(target / "scene_graph_small", model, tokens, torch.float16)

    for path in sorted(target.glob("*/*")):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else PACKAGE / "mmor" / "checkpoints")
