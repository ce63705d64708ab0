"""Posed scenes: who stands where with what in hand, and the solids of all that moves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from operating_room_simulator.stage.bodies import (
    Figure,
    drape_solids,
    held_drape,
    leg_markers,
    patient_solids,
    standing_solids,
    tool_solids,
)
from operating_room_simulator.stage.floor import LOOSE, FloorPlan, host, plan_floor, present
from operating_room_simulator.stage.furniture import (
    FOOTPRINTS,
    TABLE_TOP,
    Placement,
    robot_arm_solids,
    robot_tip,
    thing_solids,
)
from operating_room_simulator.stage.gestures import figure_of, tasks_of
from operating_room_simulator.stage.room import Room
from operating_room_simulator.stage.solids import CYLINDER, UPRIGHT, Point, Solid, Solids, stack
from operating_room_simulator.story.steps import PEOPLE, STEPS
from operating_room_simulator.story.story import Moment, Surgery

_OPERATED = frozenset(STEPS[STEPS.index("cutting") :])


@dataclass(frozen=True)
class Scene:
    """Everything at one moment, in world coordinates (m)."""

    second: int
    people: Mapping[str, Figure]  # who stands; the patient is not among them
    patient: bool  # lies on the table
    things: Mapping[str, Placement]  # furniture and machines
    loose: Mapping[str, Point]  # drape and tools
    robot_tip: Point | None
    still: tuple[tuple[str, Placement], ...]  # things at their usual place; rendering keeps their picture
    moving: Solids  # all else


def pose(room: Room, surgery: Surgery) -> list[Scene]:
    """One scene per moment; positions are continuous in time.

    Relations that contradict each other are satisfied as far as the floor allows; see `floor`.
    """
    plans = plan_floor(room, surgery.moments)
    usual = {thing: Counter(p.things[thing] for p in plans if thing in p.things) for thing in FOOTPRINTS}
    still = {thing: places.most_common(1)[0][0] for thing, places in usual.items() if places}
    return [_scene(room, moment, plan, still) for moment, plan in zip(surgery.moments, plans)]


def _scene(room: Room, moment: Moment, plan: FloorPlan, usual: Mapping[str, Placement]) -> Scene:
    tip = _robot_goal(room, moment, plan)
    hosts = {entity: host(entity, moment.triplets, plan.things) for entity in LOOSE if entity in present(moment)}
    loose = _put_down(hosts, plan.things, tip)
    lying = [tool for tool in loose if tool != "drape"]
    figures: dict[str, Figure] = {}
    solids: list[Solid] = []
    chance = np.random.default_rng([room.seed, 11, moment.second]).normal(size=(len(PEOPLE), 6)).tolist()
    # Whoever assists reaches for the hand of another: that one first.
    helpers = {t.subject for t in moment.triplets if t.predicate == "assisting"}
    for person in sorted(plan.people, key=lambda name: (name in helpers, name)):
        tasks = tasks_of(room, moment, plan, person, figures, loose, tip)
        figure, grips = figure_of(room, moment, plan, person, tasks, chance[PEOPLE.index(person)])
        figures[person] = figure
        solids += [*standing_solids(person, figure, room.looks[person]), _shadow(room, figure)]
        for tool, (grip, aim) in zip(figure.tools, grips):
            loose[tool] = grip
            if tool == "drape":
                solids += held_drape(figure, room.palette["drape"])
            else:
                solids += tool_solids(tool, grip, aim, room.palette)
    for tool in lying:
        x, y, z = loose[tool]
        solids += tool_solids(tool, (x, y, z), (x + 0.3, y, z), room.palette)
    lies = "patient" in present(moment)
    if lies:
        operated = moment.step in _OPERATED
        solids += patient_solids(room.looks["patient"], room.knee, operated)
        solids += leg_markers(room.knee) if operated and "tracker" in plan.things else []
    spread = any(t.subject == "drape" and t.predicate in ("lyingOn", "closeTo") for t in moment.triplets)
    if spread or hosts.get("drape") == "operating_table":
        solids += drape_solids(room.knee, lies, room.palette["drape"])
    for thing, place in plan.things.items():
        if usual[thing] != place:
            solids += thing_solids(thing, place, room.palette)
    if tip:
        solids += robot_arm_solids(plan.things["mako_robot"], tip, room.palette)
    still = tuple((thing, place) for thing, place in sorted(plan.things.items()) if usual[thing] == place)
    return Scene(moment.second, figures, lies, plan.things, loose, tip, still, stack(solids, room.labels))


def _put_down(hosts: Mapping[str, str], things: Mapping[str, Placement], tip: Point | None) -> dict[str, Point]:
    """Where tools lie that nobody holds: on a table or at the robot's arm; and the drape."""
    places: dict[str, Point] = {}
    for slot, (entity, holder) in enumerate(hosts.items()):
        if entity == "drape" and holder == "operating_table":
            places[entity] = (0.0, 0.0, TABLE_TOP + 0.2)
        elif holder == "mako_robot" and tip:
            places[entity] = tip
        elif holder in things:
            places[entity] = things[holder].at(0.12, -0.4 + 0.22 * slot, FOOTPRINTS[holder].top + 0.05)
    return places


def _shadow(room: Room, figure: Figure) -> Solid:
    """The shade under a person: shows where on the floor somebody stands."""
    red, green, blue = room.palette["floor"]
    shade = (0.7 * red, 0.7 * green, 0.7 * blue)
    return Solid(CYLINDER, (figure.x, figure.y, 0.0), UPRIGHT, (0.34, 0.34, 0.004), shade, "")


def _robot_goal(room: Room, moment: Moment, plan: FloorPlan) -> Point | None:
    """Where the robot's arm ends: above the knee at work, in front of who deals with it, else folded."""
    place = plan.things.get("mako_robot")
    if place is None:
        return None
    visitors = [t for t in moment.triplets if t.object == "mako_robot" and t.subject in plan.people]
    busy = [t for t in visitors if t.predicate != "closeTo"]
    near_table = math.dist((place.x, place.y), room.knee[:2]) < 1.25
    if near_table and not any(t.predicate == "calibrating" for t in busy):
        x, y, z = room.knee
        return robot_tip(place, (x + 0.15, y, z + 0.3))
    if busy:
        x, y = plan.people[min(busy, key=lambda t: t.predicate != "calibrating").subject]
        return robot_tip(place, (place.x + 0.45 * (x - place.x), place.y + 0.45 * (y - place.y), 1.25))
    return robot_tip(place, place.at(0.35, 0.0, 1.35))
