"""Solid shapes that everything in the simulated room is made of: boxes, ellipsoids, capsules and cylinders.

Each has an orthonormal frame; capsules and cylinders have their axis along the third frame vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from operating_room.domain.labels import Labels

BOX, ELLIPSOID, CAPSULE, CYLINDER = range(4)
Number = float | int  # shape checking at run time does not take an int for a float
Point = tuple[Number, Number, Number]
Color = tuple[Number, Number, Number]  # 0..255
Frame = tuple[Point, Point, Point]
UPRIGHT: Frame = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class Solid(NamedTuple):
    """One shape. `half`: half edges of a box, semi-axes of an ellipsoid, else radius, radius, half length (m)."""

    kind: int
    centre: Point
    frame: Frame
    half: Point
    color: Color
    entity: str  # what it is a part of; empty for nothing that graphs or masks know
    marker: bool = False  # reflects infrared light


@dataclass(frozen=True)
class Solids:
    """Solids as arrays, the form in which they are drawn."""

    kind: UInt8[np.ndarray, " n"]
    centre: Float[np.ndarray, "n 3"]
    frame: Float[np.ndarray, "n 3 3"]
    half: Float[np.ndarray, "n 3"]
    color: Float[np.ndarray, "n 3"]
    label: UInt8[np.ndarray, " n"]  # raw label; 0, the background, for entities without category
    marker: Bool[np.ndarray, " n"]


def stack(solids: Sequence[Solid], labels: Labels) -> Solids:
    """Arrays of a list of solids, labelled by the categories of a domain."""
    count = len(solids)
    kind, centre, frame, half, color, entity, marker = zip(*solids) if solids else [()] * 7
    known = labels.by_entity
    return Solids(
        np.array(kind, np.uint8),
        np.array(centre, float).reshape(count, 3),
        np.array(frame, float).reshape(count, 3, 3),
        np.array(half, float).reshape(count, 3),
        np.array(color, float).reshape(count, 3),
        np.array([known[name].label if name in known else 0 for name in entity], np.uint8),
        np.array(marker, bool),
    )


def between(start: Point, end: Point, share: float) -> Point:
    """The point that lies `share` of the way from `start` to `end`."""
    return (
        start[0] + share * (end[0] - start[0]),
        start[1] + share * (end[1] - start[1]),
        start[2] + share * (end[2] - start[2]),
    )


def within(start: Point, goal: Point, reach: float) -> Point:
    """The goal, or of one farther away than `reach` the point on the way to it."""
    distance = math.dist(start, goal)
    return between(start, goal, min(1.0, reach / distance) if distance else 1.0)


def turned(yaw: float) -> Frame:
    """The frame turned by `yaw` (radians) about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return ((c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0))


def along(start: Point, end: Point) -> Frame:
    """A frame whose third vector points from `start` to `end`."""
    x, y, z = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    length = math.sqrt(x * x + y * y + z * z) or 1.0
    x, y, z = x / length, y / length, z / length
    flat = math.hypot(x, y)
    if flat < 1e-6:
        return UPRIGHT
    side = (-y / flat, x / flat, 0.0)
    return ((side[1] * z, -side[0] * z, side[0] * y - side[1] * x), side, (x, y, z))


def rod(kind: int, start: Point, end: Point, radius: float, color: Color, entity: str) -> Solid:
    """A capsule, cylinder or square bar from `start` to `end` (m)."""
    centre = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2)
    return Solid(kind, centre, along(start, end), (radius, radius, math.dist(start, end) / 2), color, entity)


def ball(centre: Point, radius: float, color: Color, entity: str, *, marker: bool = False) -> Solid:
    """A sphere."""
    return Solid(ELLIPSOID, centre, UPRIGHT, (radius, radius, radius), color, entity, marker)
