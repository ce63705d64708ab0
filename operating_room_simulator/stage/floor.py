"""Where people and things stand on the floor so that each relation of a moment can be seen, and how they get there.

Wheeled things are placed first, then people, one after the other: on a grid of floor positions each takes the one where
the distances of its relations hold, people who have nothing to do with each other keep apart, and ways are short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.stage.furniture import FOOTPRINTS, Footprint, Placement
from operating_room_simulator.stage.room import Room
from operating_room_simulator.story.steps import PEOPLE
from operating_room_simulator.story.story import Moment

CLOSE, CONTACT = 0.7, 0.42  # m between a person's axis and the edge of a thing
NEXT_TO = 0.72  # m between two people
APART = 1.25  # m; who has no relation stays farther away than this if there is room
SURGERY = ("cementing", "cutting", "drilling", "hammering", "sawing", "suturing", "cleaning")
TOOL_OF = {"drilling": "drill", "hammering": "hammer", "sawing": "saw"}
LOOSE = ("drape", "drill", "hammer", "instrument", "saw")  # things without a place of their own
_KNEE = "knee"  # where surgery happens; a place, no entity
_GRID = 0.125  # m
_WALK, _PUSH = 2.0, 1.2  # m/s, speed of people and of wheeled things
# The thing farther to the right is the one that is pushed when two have to come together.
_MOBILITY = (
    *("operating_table", "mps_station", "monitor", "secondary_table", "instrument_table"),
    *("anesthesia_equipment", "tracker", "c_arm", "mako_robot"),
)
Spot = tuple[float, float]


@dataclass(frozen=True)
class Link:
    """Two people, things or places that have to be within `reach` m of each other, edge to axis."""

    first: str
    second: str
    reach: float
    contact: bool


@dataclass(frozen=True)
class FloorPlan:
    """Positions (m) at one moment."""

    people: Mapping[str, Spot]
    things: Mapping[str, Placement]


def present(moment: Moment) -> set[str]:
    """Everything that is in the room or in a relation."""
    return {*moment.people, *moment.things, *(name for triplet in moment.triplets for name in triplet[:2])}


def host(entity: str, triplets: Sequence[Triplet], there: Container[str]) -> str:
    """Where a loose thing is: with a person, on a table or at the robot. Other entities are their own host."""
    if entity not in LOOSE:
        return entity
    partners = {t.predicate: t.subject for t in triplets if t.object == entity and t.subject in PEOPLE}
    if "holding" in partners:
        return partners["holding"]
    if entity == "drape":
        return "operating_table"
    users = [t.subject for t in triplets if TOOL_OF.get(t.predicate) == entity]
    users += [partners[predicate] for predicate in ("manipulating", "preparing") if predicate in partners]
    machines = [name for t in triplets if entity in t[:2] for name in t[:2] if name in FOOTPRINTS]
    tables = [name for name in ("instrument_table", "secondary_table", "operating_table") if name in there]
    return [*users, *machines, *tables, *partners.values(), entity][0]


def links(moment: Moment) -> list[Link]:
    """The distances that the relations of a moment ask for."""
    found = []
    for subject, object_, predicate in moment.triplets:
        first, second = (host(name, moment.triplets, present(moment)) for name in (subject, object_))
        if predicate in SURGERY and object_ == "patient" and first in PEOPLE:
            second = _KNEE
        contact = predicate not in ("closeTo", "assisting")
        if first == second or (first in LOOSE or second in LOOSE) or {first, second} == {"patient", "operating_table"}:
            continue
        if second in PEOPLE and first not in PEOPLE:
            first, second = second, first
        people = [name for name in (first, second) if name in PEOPLE and name != "patient"]
        reach = NEXT_TO if len(people) == 2 else 0.6 if second == _KNEE else CONTACT if contact else CLOSE
        found.append(Link(first, second, reach if people else 0.3 if contact else 0.45, contact))
    return found


def plan_floor(room: Room, moments: Sequence[Moment]) -> list[FloorPlan]:
    """Positions at every moment of a take; nobody moves faster than a hurried walk."""
    return _Planner(room).plan(moments)


class _Planner:
    def __init__(self, room: Room) -> None:
        self.room = room
        x = np.arange(-room.half_x + 0.4, room.half_x - 0.39, _GRID)
        y = np.arange(-room.half_y + 0.4, room.half_y - 0.39, _GRID)
        self.grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(float)
        self.fields: dict[tuple[str, Placement], np.ndarray] = {}
        side, knee = room.surgeon_side, room.knee[0]
        self.work_spots: dict[str, Spot] = {  # where each role likes to stand at the table
            "head_surgeon": (knee, side * 0.6),
            "assistant_surgeon": (knee - 0.1, -side * 0.6),
            "nurse": (knee - 0.75, side * 0.6),
            "anaesthetist": (-1.4, 0.0),
            "circulator": (-0.5, -side * 0.6),
            "mps": (1.3, -side * 0.6),
            "student": (-0.6, -side * 0.9),
            "unrelated_person": (-1.0, -side * 0.8),
        }
        x, y = room.half_x, room.half_y
        self.idle_spots: dict[str, Spot] = {  # and where without anything to do
            "head_surgeon": (-0.5, side * 1.7),
            "assistant_surgeon": (-0.3, -side * 1.6),
            "nurse": (2.2, side * 1.7),
            "anaesthetist": (-x + 0.6, 0.0),
            "circulator": (1.6, -side * 1.6),
            "mps": (-2.2, -side * (y - 0.6)),
            "student": (-0.7, side * (y - 0.6)),
            "unrelated_person": (-2.2, side * (y - 0.6)),
        }
        self.engaged = {  # where wheeled things stand when they work at the table
            "mako_robot": Placement(knee + 0.74, side * 0.95, -side * math.pi / 2),
            "c_arm": Placement(knee + 0.4, -side * 0.95, side * math.pi / 2),
            "anesthesia_equipment": Placement(-1.2, side * 0.98, -side * 0.6),
        }

    def plan(self, moments: Sequence[Moment]) -> list[FloorPlan]:
        plans: list[FloorPlan] = []
        busy: list[set[str]] = []
        last_key: object = None
        spots: dict[str, Spot] = dict(self.idle_spots)
        for moment in moments:
            there = present(moment)
            wanted = links(moment)
            busy.append({name for link in wanted for name in (link.first, link.second)})
            key = (frozenset(there), frozenset(wanted))
            if key != last_key:
                things = self._things(wanted, there)
                spots.update(self._people(wanted, sorted(there & set(self.idle_spots)), things, spots))
                last_key = key
            plans.append(FloorPlan({name: spots[name] for name in spots if name in there}, things))
        return self._move(plans, busy)

    # --- things ---

    def _things(self, wanted: Sequence[Link], there: set[str]) -> dict[str, Placement]:
        """Things stay parked unless a relation needs them elsewhere."""
        placed: dict[str, Placement] = {}
        for thing in _MOBILITY:
            if thing not in there:
                continue
            parked = self.room.parked[thing]
            needs = [(target, gap) for target, gap in _needs(thing, wanted) if target in {_KNEE, "patient", *placed}]
            placed[thing] = parked
            if needs and thing != "operating_table":
                candidates = [parked, self.engaged.get(thing, parked)]
                costs = [
                    self._thing_costs(thing, place.yaw, np.array([[place.x, place.y]]), needs, placed)[0]
                    for place in candidates
                ]
                fitting = [place for place, cost in zip(candidates, costs) if cost < 1]
                placed[thing] = fitting[0] if fitting else self._best_place(thing, needs, placed)
        return placed

    def _thing_costs(
        self,
        thing: str,
        yaw: float,
        centres: np.ndarray,
        needs: list[tuple[str, float]],
        placed: Mapping[str, Placement],
    ) -> Float[np.ndarray, " n"]:
        foot = FOOTPRINTS[thing]
        c, s = math.cos(yaw), math.sin(yaw)
        steps = [(a * foot.half_x, b * foot.half_y) for a, b in itertools.product((-1, 0, 1), repeat=2)]
        rim = np.array([(c * x - s * y, s * x + c * y) for x, y in steps])
        points = (centres[:, None] + rim).reshape(-1, 2)

        gaps = {
            other: self._distance(other, placed, points).reshape(len(centres), -1).min(1)
            for other in {*placed, *(target for target, _ in needs)}
        }
        cost = np.zeros(len(centres))
        for target, reach in needs:
            cost += 20 * np.maximum(gaps[target] - reach, 0)
        wanted = {target for target, _ in needs}
        if wanted & {"patient", _KNEE}:
            wanted.add("operating_table")
        for other in placed:
            distance = gaps[other]
            cost += 30 * (distance < 0.08)
            if other not in wanted:
                cost += 0.3 * np.maximum(APART - distance, 0)
        return cost

    def _best_place(self, thing: str, needs: list[tuple[str, float]], placed: Mapping[str, Placement]) -> Placement:
        parked = self.room.parked[thing]
        cost = self._thing_costs(thing, parked.yaw, self.grid, needs, placed)
        cost += 0.3 * self._away((parked.x, parked.y))
        x, y = self.grid[int(cost.argmin())]
        return Placement(float(x), float(y), parked.yaw)

    # --- people ---

    def _people(
        self, wanted: Sequence[Link], people: Sequence[str], things: Mapping[str, Placement], spots: Mapping[str, Spot]
    ) -> dict[str, Spot]:
        related = {person: [link for link in wanted if person in (link.first, link.second)] for person in people}
        # Those tied to things first, those tied to people after them.
        order = sorted(people, key=lambda person: -sum(1 + 2 * (link.second not in PEOPLE) for link in related[person]))
        found: dict[str, Spot] = {}
        for _ in range(3):
            before = dict(found)
            for person in order:
                found[person] = self._best_spot(
                    person, related[person], things, found, found.get(person, spots[person])
                )
            if found == before:
                break
        return found

    def _best_spot(
        self,
        person: str,
        related: Sequence[Link],
        things: Mapping[str, Placement],
        others: Mapping[str, Spot],
        now: Spot,
    ) -> Spot:
        partners = {link.second if link.first == person else link.first: link for link in related}
        at_table = bool({"patient", "operating_table", _KNEE} & set(partners))
        cost = 0.12 * self._away(now)
        liked = self.work_spots if at_table else self.idle_spots
        cost += (0.25 if at_table else 0.1) * self._away(liked[person])
        for thing in things:
            distance = self._field(thing, things[thing])
            cost += 30 * (distance < 0.24)
            if thing not in partners and not (thing == "operating_table" and at_table):
                cost += 1.2 * np.maximum(APART - distance, 0)
        for other, spot in others.items():
            if other == person:
                continue
            distance = self._away(spot)
            cost += 30 * np.maximum(0.52 - distance, 0)
            if other not in partners:
                cost += 0.7 * np.maximum(APART - distance, 0)
        for other, link in partners.items():
            if other in others:
                distance = self._away(others[other])
            elif other in things:
                distance = self._field(other, things[other])
            elif other in ("patient", _KNEE):
                distance = self._distance(other, things, self.grid)
            else:
                continue
            excess = np.maximum(distance - link.reach, 0)
            cost += 25 * excess + 3 * (excess > 0)
            if not link.contact:  # close, but out of reach
                cost += 2 * np.maximum(0.5 - distance, 0)
        x, y = self.grid[int(cost.argmin())]
        return (float(x), float(y))

    # --- distances ---

    def _away(self, spot: Spot) -> Float[np.ndarray, " n"]:
        """Distance of all grid positions to a spot."""
        return np.hypot(self.grid[:, 0] - spot[0], self.grid[:, 1] - spot[1])

    def _field(self, thing: str, place: Placement) -> np.ndarray:
        """Distance of all grid positions to a thing."""
        if (thing, place) not in self.fields:
            self.fields[thing, place] = distance_to(place, FOOTPRINTS[thing], self.grid)
        return self.fields[thing, place]

    def _distance(self, target: str, things: Mapping[str, Placement], points: np.ndarray) -> np.ndarray:
        if target == _KNEE:
            return np.hypot(*(points - self.room.knee[:2]).T)
        if target == "patient":
            return distance_to(self.room.parked["operating_table"], PATIENT, points)
        return distance_to(things[target], FOOTPRINTS[target], points)

    # --- motion ---

    def _move(self, plans: Sequence[FloorPlan], busy: Sequence[set[str]]) -> list[FloorPlan]:
        people = {name: [plan.people.get(name) for plan in plans] for name in self.idle_spots}
        ways = {name: walk(track, [name in b for b in busy], _WALK) for name, track in people.items()}
        for name, way in ways.items():
            for second, spot in enumerate(way):
                if spot is not None and spot != people[name][second]:
                    others = [place for other in ways if other != name and (place := ways[other][second])]
                    way[second] = self._sidestep(spot, plans[second].things, others)
        rolled: dict[str, list[Placement | None]] = {}
        for thing in _MOBILITY:
            track = [plan.things.get(thing) for plan in plans]
            spots = [(place.x, place.y) if place else None for place in track]
            way = walk(spots, [thing in b for b in busy], _PUSH)
            rolled[thing] = [
                place and (Placement(*spot, place.yaw) if spot else None) for place, spot in zip(track, way)
            ]
        return [
            FloorPlan(
                {name: spot for name, way in ways.items() if (spot := way[i]) is not None},
                {name: place for name, way in rolled.items() if (place := way[i]) is not None},
            )
            for i in range(len(plans))
        ]

    def _sidestep(self, spot: Spot, things: Mapping[str, Placement], others: Sequence[Spot]) -> Spot:
        """The free grid position nearest to a spot on the way."""
        blocked = np.zeros(len(self.grid), bool)
        for thing, place in things.items():
            blocked |= self._field(thing, place) < 0.24
        for other in others:
            blocked |= self._away(other) < 0.5
        far = self._away(spot) + 100.0 * blocked
        x, y = self.grid[int(far.argmin())]
        return (float(x), float(y))


PATIENT = Footprint(0.95, 0.24, 1.1)  # the lying patient


def distance_to(place: Placement, foot: Footprint, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Distance (m) of floor positions to a footprint; 0 inside."""
    c, s = math.cos(place.yaw), math.sin(place.yaw)
    x, y = points[:, 0] - place.x, points[:, 1] - place.y
    return np.hypot(
        np.maximum(np.abs(c * x + s * y) - foot.half_x, 0), np.maximum(np.abs(c * y - s * x) - foot.half_y, 0)
    )


def _needs(thing: str, wanted: Sequence[Link]) -> list[tuple[str, float]]:
    """How near a thing has to be to others: by its own relations, and by people who deal with both at once."""
    needs = []
    for link in wanted:
        if thing not in (link.first, link.second):
            continue
        other = link.second if link.first == thing else link.first
        if other not in PEOPLE or other == "patient":
            needs.append((other, link.reach))
            continue
        for second in wanted:  # the person stands between the two
            if second != link and other in (second.first, second.second):
                third = second.second if second.first == other else second.first
                needs.append((third, 0.85 * (link.reach + second.reach)))
    return needs


def walk(track: Sequence[Spot | None], busy: Sequence[bool], speed: float) -> list[Spot | None]:
    """Positions each second of someone who wants to be at `track[t]` at second t, None while absent.

    Who is free before a change sets off early, who is free after it arrives late, otherwise half and half.
    """
    way = list(track)
    for t in range(1, len(track)):
        start, goal = track[t - 1], track[t]
        if start is None or goal is None or start == goal:
            continue
        between = math.ceil(math.dist(start, goal) / speed) - 1
        early = between if not busy[t - 1] else 0 if not busy[t] else between // 2
        for i in range(between):
            second = t - early + i
            if 0 <= second < len(way) and track[second] is not None:
                share = (i + 1) / (between + 1)
                way[second] = (start[0] + share * (goal[0] - start[0]), start[1] + share * (goal[1] - start[1]))
    for before, t in itertools.pairwise(range(len(way))):
        start, goal = way[before], way[t]
        if start is not None and goal is not None and (distance := math.dist(start, goal)) > speed:
            share = speed / distance
            way[t] = (start[0] + share * (goal[0] - start[0]), start[1] + share * (goal[1] - start[1]))
    return way
