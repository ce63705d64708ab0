"""Solids of people, of what they hold and of the drape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from operating_room_simulator.stage.furniture import TABLE_TOP, Placement, elbow_of, marker_array
from operating_room_simulator.stage.room import Looks
from operating_room_simulator.stage.solids import (
    BOX,
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    UPRIGHT,
    Color,
    Point,
    Solid,
    ball,
    rod,
    turned,
)

_SHOES: Color = (52.0, 54.0, 60.0)
_HAIR: Color = (60.0, 42.0, 30.0)
_EYES: Color = (40.0, 45.0, 55.0)
_BLOOD: Color = (176.0, 24.0, 30.0)


@dataclass(frozen=True)
class Figure:
    """A standing person: feet on the floor (m), facing (radians), how far the chest leans forward (m), hands."""

    x: float
    y: float
    facing: float
    lean: float
    right_hand: Point
    left_hand: Point
    tools: tuple[str, ...] = ()  # what the hands hold

    @property
    def place(self) -> Placement:
        """The person's own frame: front along x."""
        return Placement(self.x, self.y, self.facing)


def shoulder(figure: Placement, looks: Looks, lean: float, side: int) -> Point:
    """The right (side -1) or left (1) shoulder."""
    return figure.at(0.02 + lean, side * 0.2 * looks.width, 0.81 * looks.height - 0.3 * lean)


def arm_length(looks: Looks) -> float:
    """From shoulder to the middle of the hand, stretched, in m."""
    return 0.4 * looks.height


def standing_solids(role: str, figure: Figure, looks: Looks) -> list[Solid]:
    """A person on two feet."""
    place, frame, lean = figure.place, turned(figure.facing), figure.lean
    tall, wide = looks.height, looks.width
    chest = place.at(0.5 * lean, 0, 0.65 * tall - 0.1 * lean)
    ahead, top = 0.03 + 1.15 * lean, 0.925 * tall - 0.42 * lean  # where the head is
    head = [(0, 0, (0.105, 0.09, 0.13), looks.skin), (-0.015, 0.045, (0.115, 0.102, 0.1), looks.cap)]
    if looks.hood:
        head += [(-0.025, -0.06, (0.115, 0.125, 0.16), looks.cap), (0.06, 0, (0.065, 0.085, 0.06), _EYES)]
    if looks.mask:
        head += [(0.055, -0.055, (0.065, 0.075, 0.055), looks.mask)]
    solids = [
        rod(CAPSULE, place.at(0, -0.1 * wide, 0.06), place.at(0, -0.09 * wide, 0.4 * tall), 0.075, _SHOES, role),
        rod(CAPSULE, place.at(0, 0.1 * wide, 0.06), place.at(0, 0.09 * wide, 0.4 * tall), 0.075, _SHOES, role),
        Solid(ELLIPSOID, place.at(0.1 * lean, 0, 0.43 * tall), frame, (0.15 * wide, 0.215 * wide, 0.23 * tall),
              looks.gown, role),
        Solid(ELLIPSOID, chest, frame, (0.155 * wide, 0.245 * wide, 0.245 * tall), looks.gown, role),
        *(Solid(ELLIPSOID, place.at(ahead + x, 0, top + z), frame, half, color, role) for x, z, half, color in head),
    ]  # fmt: skip
    for side, hand in ((-1, figure.right_hand), (1, figure.left_hand)):
        start = shoulder(place, looks, lean, side)
        outwards = place.at(-0.3, side * 0.8, 0)
        bend = (outwards[0] - place.x, outwards[1] - place.y, -0.7)
        elbow = elbow_of(start, hand, arm_length(looks) / 2, bend)
        solids.append(rod(CAPSULE, start, elbow, 0.065 * wide, looks.gown, role))
        solids.append(rod(CAPSULE, elbow, hand, 0.052, looks.gown if looks.sleeves else looks.skin, role))
        solids.append(ball(hand, 0.06, looks.gloves if looks.sleeves else looks.skin, role))
    return solids


def patient_solids(looks: Looks, knee: Point, operated: bool) -> list[Solid]:
    """The patient on the table, head at negative x, the knee to be operated on bent; a wound once surgery began."""
    side = math.copysign(1.0, knee[1])
    top = TABLE_TOP

    shin = (knee[0] + 0.34, knee[1], top + 0.07)
    limbs: list[tuple[Point, Point, float]] = [
        ((-0.6, 0.23, top + 0.08), (-0.1, 0.25, top + 0.06), 0.05),
        ((-0.6, -0.23, top + 0.08), (-0.1, -0.25, top + 0.06), 0.05),
        ((-0.1, side * 0.09, top + 0.1), knee, 0.085),
        (knee, shin, 0.065),
        ((-0.1, -side * 0.1, top + 0.09), (0.9, -side * 0.1, top + 0.07), 0.075),
    ]
    solids = [
        Solid(ELLIPSOID, (-0.82, 0, top + 0.13), UPRIGHT, (0.13, 0.09, 0.11), looks.skin, "patient"),
        Solid(ELLIPSOID, (-0.86, 0, top + 0.14), UPRIGHT, (0.11, 0.1, 0.11), looks.cap, "patient"),
        Solid(ELLIPSOID, (-0.4, 0, top + 0.11), UPRIGHT, (0.34, 0.21, 0.13), looks.gown, "patient"),
        *(rod(CAPSULE, start, end, radius, looks.skin, "patient") for start, end, radius in limbs),
    ]
    if operated:
        wound = (knee[0] + 0.02, knee[1], knee[2] + 0.05)
        solids.append(Solid(ELLIPSOID, wound, UPRIGHT, (0.09, 0.05, 0.05), _BLOOD, "patient"))
    return solids


def leg_markers(knee: Point) -> list[Solid]:
    """Marker arrays that the robot's tracking camera follows, on thigh and shin."""
    x, y, z = knee
    return [*marker_array((x - 0.16, y, z + 0.17), "patient"), *marker_array((x + 0.17, y, z + 0.07), "patient")]


def drape_solids(knee: Point, on_patient: bool, color: Color) -> list[Solid]:
    """The drape over the patient, with the knee left free, or flat over an empty table."""
    top = TABLE_TOP

    def sheet(start: float, end: float, height: float) -> list[Solid]:
        x, half = (start + end) / 2, (end - start) / 2
        parts = [Solid(BOX, (x, s * 0.335, top - 0.12), UPRIGHT, (half, 0.012, 0.2), color, "drape") for s in (-1, 1)]
        parts.append(Solid(BOX, (x, 0, top + 0.06), UPRIGHT, (half, 0.335, 0.02), color, "drape"))
        if height:
            parts.append(Solid(ELLIPSOID, (x, 0, top + 0.05), UPRIGHT, (1.1 * half, 0.34, height), color, "drape"))
        return parts

    if not on_patient:
        return sheet(-0.6, 0.95, 0.0)
    screen = Solid(BOX, (-0.62, 0, top + 0.32), UPRIGHT, (0.012, 0.42, 0.3), color, "drape")
    return [*sheet(-0.6, knee[0] - 0.14, 0.24), *sheet(knee[0] + 0.26, 1.03, 0.17), screen]


def held_drape(figure: Figure, color: Color) -> list[Solid]:
    """A cloth that hangs from both hands."""
    right, left = figure.right_hand, figure.left_hand
    middle = ((right[0] + left[0]) / 2, (right[1] + left[1]) / 2, (right[2] + left[2]) / 2)
    facing = turned(figure.facing)
    return [
        Solid(BOX, (middle[0], middle[1], middle[2] - 0.27), facing, (0.015, 0.36, 0.3), color, "drape"),
        Solid(ELLIPSOID, middle, facing, (0.08, 0.38, 0.07), color, "drape"),
    ]


# Parts of tools: kind, two ends as (m ahead of the grip, m below it), radius (m), material.
_TOOLS: dict[str, tuple[tuple[int, tuple[float, float], tuple[float, float], float, str], ...]] = {
    "drill": (
        (CAPSULE, (-0.06, 0.0), (0.14, 0.0), 0.05, "drill"),
        (CAPSULE, (-0.02, 0.0), (-0.02, 0.14), 0.034, "drill"),
        (CYLINDER, (0.14, 0.0), (0.32, 0.0), 0.014, "steel"),
    ),
    "saw": (
        (CAPSULE, (-0.06, 0.0), (0.14, 0.0), 0.05, "saw"),
        (CAPSULE, (-0.02, 0.0), (-0.02, 0.14), 0.034, "saw"),
        (BOX, (0.14, 0.0), (0.34, 0.0), 0.034, "steel"),
    ),
    "hammer": (
        (CAPSULE, (-0.1, 0.0), (0.2, 0.0), 0.024, "saw"),
        (CYLINDER, (0.2, 0.09), (0.2, -0.09), 0.045, "steel"),
    ),
    "cementer": (
        (CAPSULE, (-0.1, 0.0), (0.2, 0.0), 0.05, "cementer"),
        (CYLINDER, (0.2, 0.0), (0.34, 0.0), 0.018, "pillow"),
        (CAPSULE, (0.0, 0.0), (0.0, 0.14), 0.034, "pillow"),
    ),
    "cloth": ((CAPSULE, (0.0, 0.0), (0.1, 0.03), 0.08, "pillow"),),
    "pointer": (
        (CYLINDER, (0.0, 0.0), (0.2, 0.0), 0.016, "robot_trim"),
        (CYLINDER, (0.0, 0.0), (-0.02, -0.08), 0.012, "robot_trim"),
    ),
    "instrument": (
        (CYLINDER, (-0.08, 0.0), (0.22, 0.0), 0.015, "steel"),
        (CAPSULE, (-0.1, 0.0), (-0.04, 0.0), 0.03, "steel"),
    ),
}


# Parts of small things that tell what is done, in rooms with news; without it they are instruments, cloth and cementer.
_FINE_TOOLS: dict[str, tuple[tuple[int, tuple[float, float], tuple[float, float], float, str], ...]] = {
    "needle": (
        (CYLINDER, (-0.08, 0.0), (0.14, 0.0), 0.018, "gold"),
        (CAPSULE, (0.12, 0.0), (0.02, -0.3), 0.014, "thread"),
        (CAPSULE, (0.02, -0.3), (-0.16, -0.12), 0.014, "thread"),
    ),
    "scalpel": (
        (CAPSULE, (-0.12, 0.0), (0.08, 0.0), 0.02, "blade_grip"),
        (BOX, (0.08, 0.0), (0.2, 0.0), 0.014, "steel"),
    ),
    "cloth": (
        (CAPSULE, (0.0, 0.0), (0.12, 0.03), 0.085, "swab"),
        (CAPSULE, (0.0, 0.03), (-0.02, 0.16), 0.06, "swab"),
    ),
    "cementer": (
        (CAPSULE, (-0.14, 0.0), (0.2, 0.0), 0.062, "cementer"),
        (CYLINDER, (-0.3, 0.0), (-0.14, 0.0), 0.02, "steel"),
        (CYLINDER, (-0.3, -0.06), (-0.3, 0.06), 0.03, "pillow"),
        (CYLINDER, (0.2, 0.0), (0.38, 0.0), 0.02, "pillow"),
        (CAPSULE, (0.0, 0.0), (0.0, 0.16), 0.036, "pillow"),
    ),
}


def tool_solids(tool: str, grip: Point, aim: Point, palette: Mapping[str, Color]) -> list[Solid]:
    """A tool held at `grip` and pointing at `aim`; one without own parts, like a scalpel, is an instrument.

    Instruments, cloth and pointer have no segmentation category in MM-OR: there they are background.
    """
    length = math.dist(grip, aim) or 1.0
    x, y, z = ((a - g) / length for g, a in zip(grip, aim))
    solids = []
    shapes = _FINE_TOOLS if tool in _FINE_TOOLS and "thread" in palette else _TOOLS
    for kind, (a, drop_a), (b, drop_b), radius, material in shapes.get(tool, _TOOLS["instrument"]):
        start = (grip[0] + a * x, grip[1] + a * y, grip[2] + a * z - drop_a)
        end = (grip[0] + b * x, grip[1] + b * y, grip[2] + b * z - drop_b)
        solids.append(rod(kind, start, end, radius, palette[material], tool))
    if tool == "pointer":
        solids += marker_array((grip[0] - 0.02 * x, grip[1] - 0.02 * y, grip[2] + 0.08), tool)
    return solids
