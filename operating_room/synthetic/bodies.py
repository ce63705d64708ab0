"""Solids of people, of what they hold and of the drape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from operating_room.categories import BY_ENTITY
from operating_room.synthetic.furniture import TABLE_TOP, Placement, elbow_of, marker_array
from operating_room.synthetic.room import Looks
from operating_room.synthetic.solids import (
    BOX,
    CAPSULE,
    CYLINDER,
    ELLIPSOID,
    UPRIGHT,
    Color,
    Point,
    Solid,
    along,
    ball,
    rod,
    turned,
)

_BACKGROUND = BY_ENTITY["__background__"].label
_SHOES: Color = (52.0, 54.0, 60.0)
_HAIR: Color = (60.0, 42.0, 30.0)
_EYES: Color = (40.0, 45.0, 55.0)
_STEEL: Color = (185.0, 190.0, 198.0)


@dataclass(frozen=True)
class Figure:
    """A standing person: feet on the floor (m), facing (radians), how far the chest leans forward (m), hands."""

    x: float
    y: float
    facing: float
    lean: float
    right_hand: Point
    left_hand: Point

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
    label = BY_ENTITY[role].label
    place, frame, lean = figure.place, turned(figure.facing), figure.lean
    tall, wide = looks.height, looks.width
    chest = place.at(0.6 * lean, 0, 0.7 * tall - 0.1 * lean)
    head = place.at(0.03 + 1.15 * lean, 0, 0.925 * tall - 0.42 * lean)

    def of_head(x: float, z: float, half: Point, color: Color) -> Solid:
        return Solid(ELLIPSOID, place.at(0.03 + 1.15 * lean + x, 0, head[2] + z), frame, half, color, label)

    solids = [
        rod(CAPSULE, place.at(0, -0.1 * wide, 0.06), place.at(0, -0.09 * wide, 0.4 * tall), 0.075, _SHOES, label),
        rod(CAPSULE, place.at(0, 0.1 * wide, 0.06), place.at(0, 0.09 * wide, 0.4 * tall), 0.075, _SHOES, label),
        Solid(ELLIPSOID, place.at(0.1 * lean, 0, 0.48 * tall), frame, (0.17 * wide, 0.235 * wide, 0.26 * tall),
              looks.gown, label),
        Solid(ELLIPSOID, chest, frame, (0.15 * wide, 0.245 * wide, 0.19 * tall), looks.gown, label),
        of_head(0, 0, (0.105, 0.09, 0.13), looks.skin),
        of_head(-0.015, 0.045, (0.115, 0.102, 0.1), looks.cap),
    ]  # fmt: skip
    if looks.hood:
        solids.append(of_head(-0.025, -0.06, (0.115, 0.125, 0.16), looks.cap))
        solids.append(of_head(0.06, 0.0, (0.065, 0.085, 0.06), _EYES))
    if looks.mask:
        solids.append(of_head(0.055, -0.055, (0.065, 0.075, 0.055), looks.mask))
    for side, hand in ((-1, figure.right_hand), (1, figure.left_hand)):
        start = shoulder(place, looks, lean, side)
        outwards = place.at(-0.3, side * 0.8, 0)
        bend = (outwards[0] - place.x, outwards[1] - place.y, -0.7)
        elbow = elbow_of(start, hand, arm_length(looks) / 2, bend)
        solids.append(rod(CAPSULE, start, elbow, 0.065 * wide, looks.gown, label))
        solids.append(rod(CAPSULE, elbow, hand, 0.052, looks.gown if looks.sleeves else looks.skin, label))
        solids.append(ball(hand, 0.06, looks.gloves if looks.sleeves else looks.skin, label))
    return solids


def patient_solids(looks: Looks, knee: Point, operated: bool) -> list[Solid]:
    """The patient on the table, head at negative x, the knee to be operated on bent; a wound once surgery began."""
    label = BY_ENTITY["patient"].label
    side = math.copysign(1.0, knee[1])
    top = TABLE_TOP

    def limb(start: Point, end: Point, radius: float, color: Color) -> Solid:
        return rod(CAPSULE, start, end, radius, color, label)

    solids = [
        Solid(ELLIPSOID, (-0.82, 0, top + 0.13), UPRIGHT, (0.13, 0.09, 0.11), looks.skin, label),
        Solid(ELLIPSOID, (-0.86, 0, top + 0.14), UPRIGHT, (0.11, 0.1, 0.11), looks.cap, label),
        Solid(ELLIPSOID, (-0.4, 0, top + 0.11), UPRIGHT, (0.34, 0.21, 0.13), looks.gown, label),
        limb((-0.6, 0.23, top + 0.08), (-0.1, 0.25, top + 0.06), 0.05, looks.skin),
        limb((-0.6, -0.23, top + 0.08), (-0.1, -0.25, top + 0.06), 0.05, looks.skin),
        limb((-0.1, side * 0.09, top + 0.1), knee, 0.085, looks.skin),
        limb(knee, (knee[0] + 0.34, knee[1], top + 0.07), 0.065, looks.skin),
        limb((-0.1, -side * 0.1, top + 0.09), (0.9, -side * 0.1, top + 0.07), 0.075, looks.skin),
    ]
    if operated:
        solids.append(
            Solid(
                ELLIPSOID, (knee[0] + 0.02, knee[1], knee[2] + 0.05), UPRIGHT, (0.09, 0.05, 0.05), (176, 24, 30), label
            )
        )
    return solids


def leg_markers(knee: Point) -> list[Solid]:
    """Marker arrays that the robot's tracking camera follows, on thigh and shin."""
    label = BY_ENTITY["patient"].label
    x, y, z = knee
    return [*marker_array((x - 0.16, y, z + 0.17), label), *marker_array((x + 0.17, y, z + 0.07), label)]


def drape_solids(knee: Point, on_patient: bool, color: Color) -> list[Solid]:
    """The drape over the patient, with the knee left free, or flat over an empty table."""
    label = BY_ENTITY["drape"].label
    top = TABLE_TOP

    def sheet(start: float, end: float, height: float) -> list[Solid]:
        x, half = (start + end) / 2, (end - start) / 2
        parts = [Solid(BOX, (x, s * 0.335, top - 0.12), UPRIGHT, (half, 0.012, 0.2), color, label) for s in (-1, 1)]
        parts.append(Solid(BOX, (x, 0, top + 0.06), UPRIGHT, (half, 0.335, 0.02), color, label))
        if height:
            parts.append(Solid(ELLIPSOID, (x, 0, top + 0.05), UPRIGHT, (1.1 * half, 0.34, height), color, label))
        return parts

    if not on_patient:
        return sheet(-0.6, 0.95, 0.0)
    screen = Solid(BOX, (-0.62, 0, top + 0.32), UPRIGHT, (0.012, 0.42, 0.3), color, label)
    return [*sheet(-0.6, knee[0] - 0.14, 0.24), *sheet(knee[0] + 0.26, 1.03, 0.17), screen]


def held_drape(figure: Figure, color: Color) -> list[Solid]:
    """A cloth that hangs from both hands."""
    right, left = figure.right_hand, figure.left_hand
    middle = ((right[0] + left[0]) / 2, (right[1] + left[1]) / 2, (right[2] + left[2]) / 2)
    facing = turned(figure.facing)
    label = BY_ENTITY["drape"].label
    return [
        Solid(BOX, (middle[0], middle[1], middle[2] - 0.27), facing, (0.015, 0.36, 0.3), color, label),
        Solid(ELLIPSOID, middle, facing, (0.08, 0.38, 0.07), color, label),
    ]


def tool_solids(tool: str, grip: Point, aim: Point, palette: Mapping[str, Color]) -> list[Solid]:
    """A tool held at `grip` and pointing at `aim`: one of the loose entities, or what only an action shows."""
    label = BY_ENTITY[tool].label if tool in BY_ENTITY else _BACKGROUND  # instrument, scalpel, ... have no category
    length = math.dist(grip, aim) or 1.0
    direction = [(a - g) / length for g, a in zip(grip, aim)]

    def ahead(distance: float, drop: float = 0.0) -> Point:
        return (
            grip[0] + distance * direction[0],
            grip[1] + distance * direction[1],
            grip[2] + distance * direction[2] - drop,
        )

    if tool == "drill":
        return [
            rod(CAPSULE, ahead(-0.06), ahead(0.14), 0.05, palette["drill"], label),
            rod(CAPSULE, ahead(-0.02), ahead(-0.02, 0.14), 0.034, palette["drill"], label),
            rod(CYLINDER, ahead(0.14), ahead(0.32), 0.014, _STEEL, label),
        ]
    if tool == "saw":
        return [
            rod(CAPSULE, ahead(-0.06), ahead(0.14), 0.05, palette["saw"], label),
            rod(CAPSULE, ahead(-0.02), ahead(-0.02, 0.14), 0.034, palette["saw"], label),
            Solid(BOX, ahead(0.25), along(grip, aim), (0.012, 0.05, 0.1), _STEEL, label),
        ]
    if tool == "hammer":
        head = along(ahead(0.2, 0.09), ahead(0.2, -0.09))
        return [
            rod(CAPSULE, ahead(-0.1), ahead(0.2), 0.024, palette["saw"], label),
            Solid(CYLINDER, ahead(0.2), head, (0.045, 0.045, 0.09), _STEEL, label),
        ]
    if tool == "cementer":
        return [
            rod(CAPSULE, ahead(-0.1), ahead(0.2), 0.05, palette["cementer"], label),
            rod(CYLINDER, ahead(0.2), ahead(0.34), 0.018, (235, 232, 220), label),
            rod(CAPSULE, ahead(0.0), ahead(0.0, 0.14), 0.034, (235, 232, 220), label),
        ]
    if tool == "cloth":
        return [ball(ahead(0.05), 0.085, (240, 240, 235), label)]
    if tool == "pointer":
        return [rod(CYLINDER, grip, ahead(0.2), 0.014, (60, 200, 90), label), *marker_array(ahead(-0.02, -0.08), label)]
    return [rod(CYLINDER, ahead(-0.08), ahead(0.22), 0.014, _STEEL, label), ball(grip, 0.03, _STEEL, label)]
