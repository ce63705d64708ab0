"""A made-up take of any domain: who does what to what, from when to when, and the scene graph of each moment.

Every person of the staff does one thing after the other, some seconds each, with a pause to walk in between. The less
telling the level of a predicate, the more often it is seen. Nothing small is in two hands at once.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.any_room.cast import Cast, Habit, cast_of

_LONG, _PAUSE = (4.0, 9.0), (1.5, 3.0)  # s, of an activity and between two
_MORE = 1.5  # how much more often predicates of the next, less telling level are seen
_TRIES = 6
MOST_TIMEPOINTS = 1_000_000  # frame ids have six digits


@dataclass(frozen=True)
class Activity:
    """What somebody does for some seconds."""

    person: str
    predicate: str
    object: str
    tool: str | None  # held meanwhile
    start_s: float
    end_s: float

    def is_on(self, time_s: float) -> bool:
        """Whether it is going on."""
        return self.start_s <= time_s < self.end_s


@dataclass(frozen=True)
class Story:
    """A take to be simulated; everything else follows from it."""

    domain: Domain
    take: Take
    seed: int
    seconds: float
    period: float  # s between timepoints

    @property
    def frames(self) -> int:
        """How many timepoints."""
        return math.ceil(self.seconds / self.period - 1e-9)

    def time(self, frame: int) -> float:
        """When a timepoint is, in s from the start."""
        return frame * self.period

    @cached_property
    def cast(self) -> Cast:
        """The parts of its domain."""
        return cast_of(self.domain)

    @cached_property
    def activities(self) -> tuple[Activity, ...]:
        """All that is done, in the order of time."""
        return tuple(sorted(_activities(self), key=lambda activity: (activity.start_s, activity.person)))

    def between(self, start_s: float, end_s: float) -> list[Activity]:
        """What is done at some time from start to end, in the order of time."""
        return _overlapping(self.activities, start_s, end_s)

    def now(self, frame: int) -> dict[str, Activity]:
        """What each person does at a timepoint; who does nothing is left out."""
        time = self.time(frame)
        return {each.person: each for each in self.between(time, time) if each.is_on(time)}

    def graph(self, frame: int) -> tuple[Triplet, ...]:
        """The scene graph of a timepoint, sorted; one relation at most of a subject to an object."""
        cast, graph = self.cast, dict[tuple[str, str], str]()
        near, hold, lie = (cast.of_kind(kind) for kind in ("near", "hold", "lie"))
        for activity in self.now(frame).values():
            graph[activity.person, activity.object] = activity.predicate
            if activity.tool and hold:
                graph[activity.person, activity.tool] = hold
            if near and cast.bed and activity.object == cast.patient:  # who deals with the patient is at the bed
                graph.setdefault((activity.person, cast.bed), near)
        if cast.patient and cast.bed and lie:
            graph[cast.patient, cast.bed] = lie
        return tuple(sorted(Triplet(*pair, predicate) for pair, predicate in graph.items()))


def tell(domain: Domain, take: Take, seed: int, seconds: float | int, period: float | None = None) -> Story:
    """Make up a take.

    Args:
        domain: its domain.
        take: its name.
        seed: same take and seed, same story.
        seconds: its length in s.
        period: s between timepoints; None is that of the dataset.

    Raises:
        UserError: a number is out of range, or nobody in the domain could do anything.
    """
    period = domain.collection(take).period if period is None else period
    if not (0 < period < math.inf and period <= seconds < math.inf and seed >= 0):
        raise UserError(f"a take of {seconds:g} s with a timepoint every {period:g} s has none; ask for a longer one")
    story = Story(domain, take, seed, float(seconds), period)
    if story.frames > MOST_TIMEPOINTS:
        raise UserError(f"a take of {seconds:g} s with a timepoint every {period:g} s has more than {MOST_TIMEPOINTS}")
    cast_of(domain)
    return story


def _activities(story: Story) -> list[Activity]:
    cast, habits = story.cast, story.cast.habits
    rank = {name: number for number, level in enumerate(story.domain.language.levels) for name in level}
    draw = random.Random(f"story {story.take.sample_name} {story.seed}")
    told: dict[str, list[Activity]] = {}
    for person in cast.staff:
        mine = [name for name, habit in habits.items() if person in habit.actors]
        weights = [_MORE ** rank[name] / sum(rank[name] == rank[other] for other in mine) for name in mine]
        own: list[Activity] = []
        start = draw.uniform(0.0, _PAUSE[1])
        while mine and start < story.seconds:
            end = start + draw.uniform(*_LONG)
            meanwhile = [
                other for track in told.values() for other in _overlapping(track, start - _PAUSE[0], end + _PAUSE[0])
            ]
            busy = {name for other in meanwhile for name in (other.object, other.tool)}
            for _ in range(_TRIES):
                predicate = draw.choices(mine, weights)[0]
                object_ = draw.choice(habits[predicate].objects)
                if object_ in cast.small and object_ in busy:
                    continue
                if object_ in cast.staff and not _can_meet(person, object_, meanwhile, cast):
                    continue
                tool = _free_tool(habits[predicate], busy)
                own.append(Activity(person, predicate, object_, tool, start, min(end, story.seconds)))
                break
            start = end + draw.uniform(*_PAUSE)
        told[person] = own
    return [activity for own in told.values() for activity in own]


def _overlapping(activities: Sequence[Activity], start_s: float, end_s: float) -> list[Activity]:
    """Those of activities in the order of their start that go on at some time from start to end."""
    first = bisect_left(activities, start_s - _LONG[1], key=_start)
    last = bisect_right(activities, end_s, key=_start)
    return [activity for activity in activities[first:last] if activity.end_s > start_s]


def _start(activity: Activity) -> float:
    return activity.start_s


def _can_meet(person: str, other: str, meanwhile: Sequence[Activity], cast: Cast) -> bool:
    """Whether one can go to another: both would not know where to, if the other went to somebody as well."""
    going = {activity.person for activity in meanwhile if activity.object in cast.staff}
    return person != other and other not in going and all(activity.object != person for activity in meanwhile)


def _free_tool(habit: Habit, busy: set[str | None]) -> str | None:
    return None if habit.tool in busy else habit.tool
