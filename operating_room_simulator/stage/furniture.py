"""The things of the simulated room: their footprints on the floor and their solids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from operating_room_simulator.stage.solids import (
    BOX,
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    Color,
    Number,
    Point,
    Solid,
    ball,
    between,
    rod,
    turned,
)

TABLE_TOP = 0.92  # m, upper side of the operating table
ARM_LINK = 0.6  # m, length of the two links of the robot's arm

Palette = Mapping[str, Color]


@dataclass(frozen=True)
class Placement:
    """Where a thing stands: position on the floor (m) and yaw (radians); its front looks along its own x axis."""

    x: float
    y: float
    yaw: float = 0.0

    def at(self, x: Number, y: Number, z: Number) -> Point:
        """World position of a point given in the thing's own frame."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return (self.x + c * x - s * y, self.y + s * x + c * y, z)


@dataclass(frozen=True)
class Footprint:
    """Half extents of a thing on the floor and the height at which it is touched, in m."""

    half_x: float
    half_y: float
    top: float


FOOTPRINTS = {
    "operating_table": Footprint(1.0, 0.3, TABLE_TOP),
    "instrument_table": Footprint(0.32, 0.65, 0.98),
    "secondary_table": Footprint(0.28, 0.5, 0.92),
    "anesthesia_equipment": Footprint(0.32, 0.34, 1.15),
    "mps_station": Footprint(0.3, 0.36, 1.02),
    "mako_robot": Footprint(0.36, 0.32, 1.05),
    "monitor": Footprint(0.15, 0.42, 1.25),
    "c_arm": Footprint(0.36, 0.3, 1.2),
    "tracker": Footprint(0.2, 0.2, 1.35),
}


class _Builder:
    """Collects the solids of one thing, given in the thing's own frame."""

    def __init__(self, entity: str, placement: Placement) -> None:
        self.entity = entity
        self.placement = placement
        self.frame = turned(placement.yaw)
        self.solids: list[Solid] = []

    def box(self, centre: Point, half: Point, color: Color) -> None:
        self.solids.append(Solid(BOX, self.placement.at(*centre), self.frame, half, color, self.entity))

    def blob(self, centre: Point, half: Point, color: Color) -> None:
        self.solids.append(Solid(ELLIPSOID, self.placement.at(*centre), self.frame, half, color, self.entity))

    def rod(self, start: Point, end: Point, radius: float, color: Color, kind: int = CYLINDER) -> None:
        place = self.placement.at
        self.solids.append(rod(kind, place(*start), place(*end), radius, color, self.entity))


def _operating_table(b: _Builder, palette: Palette) -> None:
    b.box((-0.1, 0, 0.06), (0.5, 0.24, 0.06), palette["metal"])
    b.box((-0.1, 0, 0.42), (0.2, 0.15, 0.36), palette["metal"])
    b.box((0, 0, TABLE_TOP - 0.06), (1.0, 0.29, 0.06), palette["mattress"])
    b.box((0, 0, TABLE_TOP - 0.14), (0.98, 0.3, 0.025), palette["metal"])
    b.box((-0.85, 0, TABLE_TOP + 0.02), (0.14, 0.18, 0.03), palette["pillow"])


def _instrument_table(b: _Builder, palette: Palette) -> None:
    b.box((0, 0, 0.9), (0.32, 0.65, 0.05), palette["cloth"])
    for y in (-0.655, 0.655):  # the cloth hangs down at both ends
        b.box((0, y, 0.68), (0.32, 0.012, 0.27), palette["cloth"])
    b.box((0.325, 0, 0.78), (0.012, 0.65, 0.17), palette["cloth"])
    b.box((0, 0, 0.12), (0.28, 0.6, 0.03), palette["metal"])
    for x, y in ((-0.26, -0.58), (0.26, -0.58), (-0.26, 0.58), (0.26, 0.58)):
        b.rod((x, y, 0), (x, y, 0.86), 0.022, palette["metal"])
    b.box((-0.1, -0.35, 0.975), (0.16, 0.22, 0.03), palette["tray"])
    b.box((-0.1, 0.3, 0.975), (0.16, 0.26, 0.03), palette["tray"])
    for y in (-0.48, -0.36, -0.24, 0.14, 0.26, 0.4):
        b.box((-0.1, y, 1.015), (0.13, 0.016, 0.012), palette["steel"])


def _secondary_table(b: _Builder, palette: Palette) -> None:
    b.box((0, 0, 0.88), (0.28, 0.5, 0.035), palette["steel"])
    b.box((0, 0, 0.3), (0.26, 0.48, 0.025), palette["steel"])
    for x, y in ((-0.23, -0.45), (0.23, -0.45), (-0.23, 0.45), (0.23, 0.45)):
        b.rod((x, y, 0), (x, y, 0.86), 0.022, palette["metal"])
    b.box((0, -0.22, 1.0), (0.15, 0.17, 0.085), palette["carton"])
    b.box((0.02, 0.25, 0.965), (0.13, 0.12, 0.05), palette["pillow"])
    b.box((0, 0.1, 0.42), (0.18, 0.22, 0.09), palette["carton"])


def _anesthesia_equipment(b: _Builder, palette: Palette) -> None:
    b.box((0, 0, 0.5), (0.32, 0.34, 0.42), palette["device"])
    b.box((0.325, 0, 0.4), (0.01, 0.26, 0.26), palette["device_dark"])
    b.box((-0.12, 0, 1.1), (0.18, 0.32, 0.2), palette["device"])
    b.box((0.05, 0, 1.5), (0.03, 0.26, 0.18), palette["device_dark"])
    b.box((0.085, 0, 1.5), (0.008, 0.23, 0.15), palette["vital_screen"])
    b.rod((0.15, -0.22, 0.95), (0.15, -0.22, 1.2), 0.06, (225, 190, 40))
    b.rod((0.15, -0.06, 0.95), (0.15, -0.06, 1.2), 0.06, (200, 60, 160))
    b.blob((0.28, 0.2, 0.9), (0.09, 0.09, 0.14), (60, 110, 80))


def _mps_station(b: _Builder, palette: Palette) -> None:
    b.box((-0.05, 0, 0.48), (0.22, 0.3, 0.44), palette["console"])
    b.box((0.12, 0, 0.98), (0.2, 0.34, 0.025), palette["console_top"])
    b.box((0.16, 0, 1.015), (0.09, 0.22, 0.012), (30, 30, 34))
    b.rod((-0.12, 0, 0.9), (-0.12, 0, 1.3), 0.04, palette["console"])
    b.box((-0.1, 0, 1.46), (0.03, 0.36, 0.23), (28, 28, 32))
    b.box((-0.065, 0, 1.46), (0.008, 0.33, 0.2), palette["robot_screen"])
    b.blob((-0.06, 0.1, 1.46), (0.012, 0.14, 0.12), (225, 220, 200))


def _mako_robot(b: _Builder, palette: Palette) -> None:
    b.box((0, 0, 0.3), (0.36, 0.32, 0.27), palette["robot"])
    b.box((0, 0, 0.62), (0.26, 0.27, 0.07), palette["robot_trim"])
    b.rod((0, 0, 0.65), (0, 0, ROBOT_SHOULDER), 0.16, palette["robot"])
    b.blob((0, 0, ROBOT_SHOULDER), (0.19, 0.19, 0.17), palette["robot_trim"])


def _monitor(b: _Builder, palette: Palette) -> None:
    b.box((0, 0, 0.05), (0.15, 0.26, 0.04), palette["device_dark"])
    b.rod((0, 0, 0.05), (0, 0, 1.5), 0.035, palette["metal"])
    b.box((0.05, 0, 1.62), (0.035, 0.46, 0.29), (24, 24, 28))
    b.box((0.09, 0, 1.62), (0.008, 0.42, 0.25), palette["monitor_screen"])
    b.box((0.099, -0.15, 1.68), (0.004, 0.22, 0.05), (235, 235, 225))


def _c_arm(b: _Builder, palette: Palette) -> None:
    b.box((-0.1, 0, 0.45), (0.26, 0.28, 0.38), palette["device"])
    b.box((-0.1, 0, 0.9), (0.2, 0.22, 0.08), palette["c_arm_trim"])
    b.box((0.2, 0, 1.1), (0.22, 0.07, 0.08), palette["c_arm_trim"])
    points = [(0.95 + 0.66 * math.cos(a), 0.0, 1.08 + 0.66 * math.sin(a)) for a in C_ANGLES]
    for start, end in itertools.pairwise(points):
        b.rod(start, end, 0.075, palette["device"], CAPSULE)
    b.rod((0.95, 0, 1.56), (0.95, 0, 1.8), 0.17, palette["device_dark"])
    b.box((0.95, 0, 0.42), (0.16, 0.16, 0.12), palette["device_dark"])


def _tracker(b: _Builder, palette: Palette) -> None:
    b.blob((0, 0, 0.05), (0.26, 0.26, 0.05), palette["device_dark"])
    b.rod((0, 0, 0.05), (0, 0, 1.85), 0.035, palette["metal"])
    b.rod((0.04, -0.34, 1.9), (0.04, 0.34, 1.9), 0.075, palette["tracker"], CAPSULE)
    for y in (-0.29, 0.29):
        b.rod((0.03, y, 1.9), (0.14, y, 1.9), 0.075, (25, 25, 30))


ROBOT_SHOULDER = 1.12  # m
C_ANGLES = [math.radians(a) for a in (90, 120, 150, 180, 210, 240, 270)]
_BUILDERS: Mapping[str, Callable[[_Builder, Palette], None]] = {
    "operating_table": _operating_table,
    "instrument_table": _instrument_table,
    "secondary_table": _secondary_table,
    "anesthesia_equipment": _anesthesia_equipment,
    "mps_station": _mps_station,
    "mako_robot": _mako_robot,
    "monitor": _monitor,
    "c_arm": _c_arm,
    "tracker": _tracker,
}


def thing_solids(entity: str, placement: Placement, palette: Palette) -> list[Solid]:
    """The solids of a piece of furniture; the robot comes without its arm."""
    builder = _Builder(entity, placement)
    _BUILDERS[entity](builder, palette)
    return builder.solids


def robot_arm_solids(placement: Placement, tip: Point, palette: Palette) -> list[Solid]:
    """The robot's arm of two links that reaches from its shoulder to `tip`, elbow up."""
    shoulder = placement.at(0, 0, ROBOT_SHOULDER)
    elbow = elbow_of(shoulder, tip, ARM_LINK, (0.0, 0.0, 1.0))
    base_array = placement.at(-0.1, 0.2, ROBOT_SHOULDER + 0.3)
    return [
        rod(CAPSULE, shoulder, elbow, 0.095, palette["robot"], "mako_robot"),
        ball(elbow, 0.13, palette["robot_trim"], "mako_robot"),
        rod(CAPSULE, elbow, tip, 0.075, palette["robot"], "mako_robot"),
        ball(tip, 0.085, palette["steel"], "mako_robot"),
        *marker_array(base_array, "mako_robot"),
    ]


def marker_array(centre: Point, entity: str) -> list[Solid]:
    """Three balls on a cross that the tracking camera follows."""
    x, y, z = centre
    return [
        ball((x + dx, y, z + dz), 0.03, (235, 235, 235), entity, marker=True)
        for dx, dz in ((-0.1, 0), (0.1, 0), (0, 0.12))
    ]


def robot_tip(placement: Placement, goal: Point) -> Point:
    """The point nearest to `goal` that the robot's arm can reach."""
    shoulder = placement.at(0, 0, ROBOT_SHOULDER)
    distance = math.dist(shoulder, goal)
    share = min(1.0, 1.95 * ARM_LINK / distance) if distance else 1.0
    return between(shoulder, goal, share)


def elbow_of(shoulder: Point, hand: Point, link: float, bend: Point) -> Point:
    """The elbow of two equal links from `shoulder` to `hand`, bent towards `bend`."""
    middle = between(shoulder, hand, 0.5)
    half = math.dist(shoulder, hand) / 2
    out = math.sqrt(max(link**2 - half**2, 0.0))
    axis = [(h - s) / (2 * half or 1.0) for s, h in zip(shoulder, hand)]
    along = sum(a * b for a, b in zip(axis, bend))
    side = [b - along * a for a, b in zip(axis, bend)]
    length = math.hypot(*side) or 1.0
    offset = out / length
    return (middle[0] + offset * side[0], middle[1] + offset * side[1], middle[2] + offset * side[2])
