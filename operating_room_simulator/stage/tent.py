"""A tent of cloth around the secondary table: cameras see its outside, depth sensors inside it see who is in there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from operating_room_simulator.stage.solids import BOX, ELLIPSOID, UPRIGHT, Color, Solid, Solids

_LENGTH, _WIDTH, _HEIGHT = 2.35, 1.95, 2.0  # m


@dataclass(frozen=True)
class Tent:
    """The box of a tent: two opposite corners, m."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def solid(self, color: Color) -> Solid:
        """What cameras see of it."""
        centre = [(a + b) / 2 for a, b in zip(self.low, self.high, strict=True)]
        half = [(b - a) / 2 for a, b in zip(self.low, self.high, strict=True)]
        return Solid(BOX, (centre[0], centre[1], centre[2]), UPRIGHT, (half[0], half[1], half[2]), color, "")

    def holds(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which points are inside."""
        return np.asarray(((points > self.low) & (points < self.high)).all(1))


def tent_at(half_x: float, half_y: float, side: int) -> Tent:
    """The tent in the corner of the secondary table of a room of this size (half, m)."""
    ends = sorted((-side * (half_y - 0.02), -side * (half_y - _WIDTH)))
    return Tent((half_x - _LENGTH, ends[0], 0.02), (half_x - 0.02, ends[1], _HEIGHT))


def surface_points(
    solids: Solids, tent: Tent, count: int, noise: np.random.Generator
) -> Float32[np.ndarray, "points 6"]:
    """Points (m) and colours (0..1) on what has a place in scene graphs or masks and stands in the tent.

    The solids share the points by their size; none where the tent is empty.
    """
    inside = np.flatnonzero(tent.holds(solids.centre) & (solids.label > 0))
    if not len(inside):
        return np.zeros((0, 6), np.float32)
    size = np.sort(solids.half[inside], 1)[:, 1:].prod(1)  # of the largest face
    chosen = inside[noise.choice(len(inside), count, p=size / size.sum())]
    local = noise.standard_normal((count, 3))
    flat = np.abs(local).max(1, keepdims=True)
    box = (solids.kind[chosen] == BOX)[:, None]
    local = np.where(box, local / flat, local / np.linalg.norm(local, axis=1, keepdims=True))
    tube = ~box[:, 0] & (solids.kind[chosen] != ELLIPSOID)
    around = np.linalg.norm(local[tube, :2], axis=1, keepdims=True)
    local[tube] = np.column_stack([local[tube, :2] / around, noise.uniform(-1, 1, tube.sum())])
    places = solids.centre[chosen] + np.einsum("ni,nij->nj", local * solids.half[chosen], solids.frame[chosen])
    return np.column_stack([places, np.clip(solids.color[chosen] / 255, 0, 1)]).astype(np.float32)
