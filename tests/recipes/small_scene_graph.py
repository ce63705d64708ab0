"""The published trainings of stage 2 at a thousandth of their size, by settings alone: every switch is their own."""

from __future__ import annotations

from dataclasses import replace

from scene_graph_generation.config import MODALITIES, PointConfig
from tests.scene_graph_generation.tiny_training import SHORT

POINTS = PointConfig(depths=(1, 1), channels=(8, 16), heads=(1, 2), mlp_ratio=1, patch=32, voxel=0.2, drop_path=0.1)
SMALL = replace(SHORT, model=replace(SHORT.model, points=POINTS, modalities=MODALITIES))
