"""What people do with their hands: tasks from relations, and the figure that carries them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from operating_room_simulator.stage.bodies import Figure, arm_length, shoulder
from operating_room_simulator.stage.floor import LOOSE, SURGERY, TOOL_OF, FloorPlan
from operating_room_simulator.stage.furniture import FOOTPRINTS, TABLE_TOP, Footprint, Placement
from operating_room_simulator.stage.room import Room
from operating_room_simulator.stage.solids import Point, within
from operating_room_simulator.story.story import Moment

# What the working hand holds when the action itself says so; those of `TOOL_OF` are entities.
_ACTION_TOOLS = {**TOOL_OF, "cementing": "cementer", "cleaning": "cloth", "suturing": "needle", "cutting": "scalpel"}
_BENT = {"suturing": 0.14, "cutting": 0.08, "cementing": 0.18, "cleaning": 0.04}  # m further forward, with news
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


@dataclass(frozen=True)
class Task:
    """What a hand has to do: reach `target`, perhaps with a tool; with both hands if they are free."""

    target: Point | None  # None: in front of the chest
    tool: str | None = None
    both: bool = False


def tasks_of(
    room: Room,
    moment: Moment,
    plan: FloorPlan,
    person: str,
    figures: Mapping[str, Figure],
    loose: Mapping[str, Point],
    tip: Point | None,
) -> list[Task]:
    """What the hands of a person have to do, most telling first."""
    relations = [t for t in moment.triplets if t.subject == person and t.predicate in _ORDER and t.object != person]
    relations.sort(key=lambda t: _ORDER.index(t.predicate))
    x, y = plan.people[person]
    tasks: list[Task] = []
    used: set[str] = set()
    for _, object_, predicate in relations:
        both = predicate in _TWO_HANDED
        if object_ in LOOSE and (predicate == "holding" or object_ not in loose):
            # Whatever tool an action shows is the instrument that is held.
            if object_ not in used and not (object_ == "instrument" and used):
                tasks.append(Task(None, object_, both or object_ == "drape"))  # in front of the chest
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
        tasks.append(Task(target, tool, both))
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
    return on_top_of(plan.things[entity], FOOTPRINTS[entity], x, y)


def on_top_of(place: Placement, foot: Footprint, x: float, y: float) -> Point:
    """The point on top of a thing that is nearest to a spot."""
    c, s = math.cos(place.yaw), math.sin(place.yaw)
    ahead, aside = c * (x - place.x) + s * (y - place.y), c * (y - place.y) - s * (x - place.x)
    inner_x, inner_y = 0.75 * foot.half_x, 0.85 * foot.half_y
    return place.at(min(max(ahead, -inner_x), inner_x), min(max(aside, -inner_y), inner_y), foot.top + 0.04)


def figure_of(
    room: Room, moment: Moment, plan: FloorPlan, person: str, tasks: Sequence[Task], chance: Sequence[float]
) -> tuple[Figure, list[tuple[Point, Point]]]:
    """A person whose hands do the tasks, and of each tool in them the grip and what it points at.

    `chance` holds six normal numbers that make the person sway and the hands move.
    """
    looks = room.looks[person]
    x, y = plan.people[person]
    x, y = x + 0.012 * chance[0], y + 0.012 * chance[1]
    goals = [task.target for task in tasks if task.target]
    face = goals[0] if goals else _sight(room, moment, plan, person)
    facing = math.atan2(face[1] - y, face[0] - x) + 0.05 * chance[2]
    place = Placement(x, y, facing)
    far = max((math.dist((x, y), goal[:2]) for goal in goals[:2]), default=0.0)
    lean = min(max(far - 0.42, 0.0), 0.28)
    if room.news is not None:
        deeds = {t.predicate for t in moment.triplets if t.subject == person}
        lean = min(lean + max((_BENT.get(deed, 0.0) for deed in deeds), default=0.0), 0.4)
    chest = 0.7 * looks.height
    forward = place.at(0.9, 0.0, chest + 0.25)
    hands: list[Point] = []
    tools: list[str] = []
    grips: list[tuple[Point, Point]] = []
    for task in tasks:
        if len(hands) == 2:  # both hands work already; one of them holds the tool
            used = hands[len(tools) % 2]
        else:
            goal = task.target or place.at(0.36 + lean, 0.24 * len(hands) - 0.12, chest)
            free = 2 - len(hands) if task.both else 1
            for _ in range(free):
                side = 2 * len(hands) - 1  # right first
                aim = _hand_goal(place, goal, task, side if free == 2 else 0, chance)
                hands.append(within(shoulder(place, looks, lean, side), aim, arm_length(looks)))
            used = hands[-free]
        if task.tool:
            tools.append(task.tool)
            grips.append((used, task.target or forward))
    for side in (-1, 1)[len(hands) :]:  # gowned people keep idle hands in front of the belly, others let them hang
        gowned = place.at(0.26, side * 0.1, 0.62 * looks.height)
        hands.append(gowned if looks.sleeves else place.at(0.08, side * 0.27, 0.46 * looks.height))
    return Figure(x, y, facing, lean, hands[0], hands[1], tuple(tools)), grips


def _hand_goal(place: Placement, goal: Point, task: Task, side: int, chance: Sequence[float]) -> Point:
    """Where a hand goes for a task; `side` is 0 for a hand that works alone. A tool reaches the goal, not the hand."""
    spread = 0.34 if task.tool == "drape" else 0.11
    back, lift = -0.02, 0.02 * chance[3]
    if task.tool and task.target:
        back, lift = -0.16, 0.1 + 0.02 * abs(chance[3])
        if task.tool == "hammer":
            lift += 0.05 * abs(chance[4])
    x, y, _ = place.at(back, side * spread, 0)
    return (goal[0] + x - place.x, goal[1] + y - place.y, goal[2] + lift)


def _sight(room: Room, moment: Moment, plan: FloorPlan, person: str) -> Point:
    """Where somebody looks whose hands are free: at what is close, else at the operation."""
    for subject, object_, _ in moment.triplets:
        if person in (subject, object_) and subject != object_:
            other = object_ if subject == person else subject
            if other in plan.things and other != "operating_table":
                return (plan.things[other].x, plan.things[other].y, 1.0)
            if other in plan.people:
                return (*plan.people[other], 1.4)
    return room.knee
