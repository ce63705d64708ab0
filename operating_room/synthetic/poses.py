"""Posed scenes: who stands where, what every hand does, and the solids of all that moves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from operating_room.synthetic.bodies import (
    Figure,
    arm_length,
    drape_solids,
    held_drape,
    leg_markers,
    patient_solids,
    shoulder,
    standing_solids,
    tool_solids,
)
from operating_room.synthetic.floor import LOOSE, SURGERY, TOOL_OF, FloorPlan, host, plan_floor, present
from operating_room.synthetic.furniture import (
    FOOTPRINTS,
    TABLE_TOP,
    Placement,
    robot_arm_solids,
    robot_tip,
    thing_solids,
)
from operating_room.synthetic.room import Room
from operating_room.synthetic.solids import CYLINDER, UPRIGHT, Point, Solid, Solids, between, stack
from operating_room.synthetic.steps import STEPS
from operating_room.synthetic.story import Moment, Surgery
from operating_room.vocabulary import PEOPLE

# What the working hand holds when the action itself says so; the first three are entities.
_ACTION_TOOLS = {**TOOL_OF, "cementing": "cementer", "cleaning": "cloth", "suturing": "needle", "cutting": "scalpel"}
_TWO_HANDED = ("preparing", "manipulating")
_ORDER = (
    *SURGERY,
    "calibrating",
    "scanning",
    "manipulating",
    "preparing",
    "touching",
    "lyingOn",
    "holding",
    "assisting",
)
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


_FRONT: Point = (math.nan, math.nan, math.nan)  # in front of the chest, wherever the person stands


@dataclass(frozen=True)
class _Task:
    """What a hand has to do: reach `target`, perhaps holding a tool; with both hands if they are free."""

    target: Point
    tool: str | None = None
    both: bool = False


def _scene(room: Room, moment: Moment, plan: FloorPlan, usual: Mapping[str, Placement]) -> Scene:
    there = present(moment)
    chance = np.random.default_rng([room.seed, 11, moment.second]).normal(size=(len(PEOPLE), 8))
    tip = _robot_goal(room, moment, plan)
    loose: dict[str, Point] = {}
    for slot, entity in enumerate(LOOSE):
        if entity in there and (place := plan.things.get(host(entity, moment.triplets, there))):
            loose[entity] = place.at(0.12, -0.4 + 0.22 * slot, FOOTPRINTS["instrument_table"].top + 0.05)
            if host(entity, moment.triplets, there) == "mako_robot" and tip:
                loose[entity] = tip
    figures: dict[str, Figure] = {}
    solids: list[Solid] = []
    # Whoever assists reaches for the hand of another: that one first.
    helpers = {t.subject for t in moment.triplets if t.predicate == "assisting"}
    for person in sorted(plan.people, key=lambda name: (name in helpers, name)):
        tasks = _tasks(room, moment, plan, person, figures, loose, tip)
        figure, tools = _figure(room, plan, moment, person, tasks, chance[PEOPLE.index(person)])
        figures[person] = figure
        solids += standing_solids(person, figure, room.looks[person])
        solids.append(_shadow(room, figure.x, figure.y))
        for tool, grip, aim in tools:
            loose[tool] = grip
            solids += (
                held_drape(figure, room.palette["drape"])
                if tool == "drape"
                else tool_solids(tool, grip, aim, room.palette)
            )
    held = {tool for tool in loose if tool in LOOSE}
    for tool in held - {"drape"}:
        if plan.things.get(host(tool, moment.triplets, there)):
            x, y, z = loose[tool]
            solids += tool_solids(tool, (x, y, z), (x + 0.3, y, z), room.palette)
    lies = "patient" in there
    if lies:
        solids += patient_solids(room.looks["patient"], room.knee, moment.step in _OPERATED)
        if moment.step in _OPERATED and "tracker" in there:
            solids += leg_markers(room.knee)
    if any(t.subject == "drape" and t.predicate in ("lyingOn", "closeTo") for t in moment.triplets) or (
        "drape" in there and "drape" not in loose
    ):
        solids += drape_solids(room.knee, lies, room.palette["drape"])
        loose.setdefault("drape", (0.0, 0.0, TABLE_TOP + 0.2))
    still = tuple((thing, place) for thing, place in sorted(plan.things.items()) if usual[thing] == place)
    for thing, place in plan.things.items():
        if usual[thing] != place:
            solids += thing_solids(thing, place, room.palette)
    if tip:
        solids += robot_arm_solids(plan.things["mako_robot"], tip, room.palette)
    return Scene(moment.second, figures, lies, plan.things, loose, tip, still, stack(solids))


def _shadow(room: Room, x: float, y: float) -> Solid:
    """The shade under a person: shows where on the floor somebody stands."""
    red, green, blue = room.palette["floor"]
    return Solid(CYLINDER, (x, y, 0.0), UPRIGHT, (0.34, 0.34, 0.004), (0.7 * red, 0.7 * green, 0.7 * blue), 0)


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


def _tasks(
    room: Room,
    moment: Moment,
    plan: FloorPlan,
    person: str,
    figures: Mapping[str, Figure],
    loose: Mapping[str, Point],
    tip: Point | None,
) -> list[_Task]:
    """What the hands of a person have to do, most telling first."""
    relations = [t for t in moment.triplets if t.subject == person and t.predicate in _ORDER and t.object != person]
    relations.sort(key=lambda t: _ORDER.index(t.predicate))
    x, y = plan.people[person]
    tasks: list[_Task] = []
    used: set[str] = set()
    for _, object_, predicate in relations:
        both = predicate in _TWO_HANDED
        if object_ in LOOSE and (predicate == "holding" or object_ not in loose):
            # Whatever tool an action shows is the instrument that is held.
            if object_ not in used and not (object_ == "instrument" and used):
                tasks.append(_Task(_FRONT, object_, both or object_ == "drape"))  # in front of the chest
                used.add(object_)
            continue
        tool = _ACTION_TOOLS.get(predicate) if object_ == "patient" else None
        if predicate == "calibrating":
            tool = "pointer"
        if tool:
            used.add(tool)
        if object_ == "patient" and predicate in SURGERY:
            target = (room.knee[0], room.knee[1], room.knee[2] + 0.08)
        elif object_ == "mako_robot" and tip:
            target = tip
        elif object_ in loose:
            target = loose[object_]
        elif object_ in figures:
            hand = figures[object_].right_hand
            target = (hand[0], hand[1], hand[2] + 0.05)
        elif object_ in plan.people:
            target = (*plan.people[object_], 1.15)
        elif object_ in plan.things or object_ == "patient":
            target = _nearest(room, plan, object_, x, y)
        else:
            continue
        tasks.append(_Task(target, tool, both))
    return tasks


def _nearest(room: Room, plan: FloorPlan, entity: str, x: float, y: float) -> Point:
    """The point of a thing or of the patient that somebody at (x, y) touches."""
    if entity == "patient":
        if abs(x - room.knee[0]) < 0.35:
            return (
                room.knee[0] + 0.5 * (x - room.knee[0]),
                0.5 * room.knee[1] + 0.12 * math.copysign(1, y),
                TABLE_TOP + 0.2,
            )
        return (min(max(x, -0.85), 0.85), min(max(y, -0.15), 0.15), TABLE_TOP + 0.16)
    place, foot = plan.things[entity], FOOTPRINTS[entity]
    c, s = math.cos(place.yaw), math.sin(place.yaw)
    ahead, aside = c * (x - place.x) + s * (y - place.y), c * (y - place.y) - s * (x - place.x)
    inner_x, inner_y = 0.75 * foot.half_x, 0.85 * foot.half_y
    return place.at(min(max(ahead, -inner_x), inner_x), min(max(aside, -inner_y), inner_y), foot.top + 0.04)


def _figure(
    room: Room, plan: FloorPlan, moment: Moment, person: str, tasks: Sequence[_Task], chance: Float[np.ndarray, " n"]
) -> tuple[Figure, list[tuple[str, Point, Point]]]:
    """A person whose hands do the tasks, and the tools in them: name, grip, aim."""
    looks = room.looks[person]
    x, y = plan.people[person]
    x, y = x + 0.012 * chance[0], y + 0.012 * chance[1]
    goals = [task.target for task in tasks if not math.isnan(task.target[0])]
    face = goals[0] if goals else _sight(room, plan, moment, person)
    facing = math.atan2(face[1] - y, face[0] - x) + 0.05 * chance[2]
    place = Placement(x, y, facing)
    far = max((math.dist((x, y), goal[:2]) for goal in goals[:2]), default=0.0)
    lean = min(max(far - 0.42, 0.0), 0.28)
    waist, chest = 0.62 * looks.height, 0.7 * looks.height
    sterile = looks.sleeves
    rest = [  # sterile hands are kept in front of the belly, others hang down
        place.at(0.26, side * 0.1, waist) if sterile else place.at(0.08, side * 0.27, 0.46 * looks.height)
        for side in (-1, 1)
    ]
    hands: list[Point | None] = [None, None]
    tools: list[tuple[str, Point, Point]] = []
    for task in tasks:
        wanted = task.target
        if math.isnan(wanted[0]):
            wanted = place.at(0.36 + lean, -0.12 if hands[0] is None else 0.12, chest)
        free = [i for i in (0, 1) if hands[i] is None]
        if not free:
            if task.tool:  # both hands work already; one of them holds it
                tools.append((task.tool, hands[len(tools) % 2] or wanted, place.at(0.9, 0.0, chest + 0.25)))
            continue
        used = free if task.both else free[:1]
        for i in used:
            side = (-1, 1)[i]
            spread = (0.34 if task.tool == "drape" else 0.11) * side if len(used) == 2 else 0.04 * side
            offset = place.at(-0.02, spread, 0)
            jitter = 0.02 * chance[3 + i]
            goal = (wanted[0] + offset[0] - place.x, wanted[1] + offset[1] - place.y, wanted[2] + jitter)
            if task.tool and task.tool != "drape" and task.target is wanted:  # the tool reaches it, not the hand
                back = place.at(-0.16, 0.05 * side, 0.0)
                goal = (wanted[0] + back[0] - place.x, wanted[1] + back[1] - place.y, wanted[2] + 0.1 + abs(jitter))
                if task.tool == "hammer":
                    goal = (goal[0], goal[1], goal[2] + 0.05 * abs(chance[5]))
            hands[i] = _within_reach(shoulder(place, looks, lean, side), goal, arm_length(looks))
        if task.tool:
            grip = hands[used[0]] or wanted
            aim = wanted if task.target is wanted else place.at(0.9, 0.0, chest + 0.25)
            tools.append((task.tool, grip, aim))
    right, left = (hand if hand else still for hand, still in zip(hands, rest))
    return Figure(x, y, facing, lean, right, left, tuple(tool for tool, _, _ in tools)), tools


def _sight(room: Room, plan: FloorPlan, moment: Moment, person: str) -> Point:
    """Where somebody looks whose hands are free: at what is close, else at the operation."""
    for subject, object_, _ in moment.triplets:
        if person in (subject, object_) and subject != object_:
            other = object_ if subject == person else subject
            if other in plan.things and other != "operating_table":
                return (plan.things[other].x, plan.things[other].y, 1.0)
            if other in plan.people:
                return (*plan.people[other], 1.4)
    return room.knee


def _within_reach(start: Point, goal: Point, reach: float) -> Point:
    distance = math.dist(start, goal)
    return between(start, goal, min(1.0, reach / distance) if distance else 1.0)
