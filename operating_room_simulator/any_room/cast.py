"""What the names of a domain stand for in a simulated room: who acts, what is large, how a relation looks.

A domain says only what things are called, so this goes by words that people use: an entity with `table` or `machine` in
its name stands on the floor, other things fit in a hand. Everything is the same for all takes of a domain; what a
predicate is done to, by whom and with what is drawn once for each (a `Habit`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from operating_room.domain.domain import Domain
from operating_room.errors import UserError

PATIENT = "patient"  # an entity of this name lies on the bed
Kind = Literal["near", "hold", "look", "lie", "act"]
# Predicates in lower case without blanks and underscores; all others are acts: hands on something.
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("closeto", "nextto", "near", "nearby", "beside", "by", "standingat"), "near"),
    **dict.fromkeys(("holding", "carrying", "wearing", "grasping"), "hold"),
    **dict.fromkeys(("looking", "lookingat", "watching", "observing", "checking"), "look"),
    **dict.fromkeys(("lyingon", "lying", "sittingon", "restingon", "on"), "lie"),
}
_LARGE = re.compile(
    "table|bed|chair|couch|machine|equipment|monitor|screen|station|robot|cart|trolley|stand|scope|bin|lamp|light|room"
    "|desk|cabinet|pump|console|disk|controller|door|arm|device|shelf"
)
_BED, _TABLE = re.compile("table|bed|chair|couch"), re.compile("table|trolley|cart|desk|shelf")
_WAYS = 2  # things that an act is done to


@dataclass(frozen=True)
class Habit:
    """How an act is done in a domain."""

    actors: tuple[str, ...]
    objects: tuple[str, ...]
    tool: str | None  # in the hand meanwhile


@dataclass(frozen=True)
class Cast:
    """The entities and predicates of a domain in their parts."""

    domain: Domain
    staff: tuple[str, ...]  # people on their feet
    patient: str | None
    bed: str | None  # what the patient lies on
    large: tuple[str, ...]  # stands on the floor; the bed is not among them
    small: tuple[str, ...]  # fits in a hand
    kinds: Mapping[str, Kind]  # of predicates

    @cached_property
    def table(self) -> str | None:
        """Where small things lie that nobody holds."""
        tables = [name for name in self.large if _TABLE.search(name)]
        return next(iter((*tables, *self.large)), self.bed)

    def of_kind(self, kind: Kind) -> str | None:
        """The first predicate of a kind."""
        return next((name for name in self.kinds if self.kinds[name] == kind), None)

    @cached_property
    def habits(self) -> Mapping[str, Habit]:
        """How the predicates are done that somebody of the staff does."""
        things = (*self.large, *((self.bed,) if self.bed else ()))
        patient = (self.patient,) if self.patient else ()
        holds = self.of_kind("hold") is not None
        found = {}
        for predicate, kind in self.kinds.items():
            draw = random.Random(f"habit {self.domain.name} {predicate}")
            if kind == "near":
                objects = (*things, *patient, *self.staff)
            elif kind == "hold":
                objects = self.small
            elif kind == "look":
                objects = (*self.large, *patient) or self.staff
            elif kind == "lie":
                continue
            else:
                rest = [*self.large, *self.small, *(self.staff if len(self.staff) > 1 else ())] or [*things]
                objects = tuple(
                    dict.fromkeys((*(patient if draw.random() < 0.6 else ()), *draw.sample(rest, len(rest))))
                )
                objects = objects[:_WAYS]
            if not objects:
                continue
            actors = tuple(draw.sample(self.staff, max(1, (len(self.staff) + 1) // 2))) if kind == "act" else self.staff
            tools = [name for name in self.small if name not in objects]
            tool = draw.choice(tools) if kind == "act" and holds and tools and draw.random() < 0.7 else None
            found[predicate] = Habit(actors, objects, tool)
        return found


def cast_of(domain: Domain) -> Cast:
    """The parts of a domain.

    Raises:
        UserError: nobody is there who could do anything, or there is nothing to be done.
    """
    language = domain.language
    patient = PATIENT if PATIENT in language.entities else None
    staff = tuple(name for name in language.people if name != patient)
    if not staff:
        raise UserError(f"domain {domain.name}: names no people who do something; list them under people in language")
    things = [name for name in language.entities if name not in (*staff, patient)]
    beds = [name for name in things if _BED.search(name)]
    bed = next((name for name in beds if "operat" in name or "patient" in name), next(iter(beds), None))
    large = tuple(name for name in things if name != bed and _LARGE.search(name))
    small = tuple(name for name in things if name != bed and name not in large)
    kinds = {name: _KINDS.get(re.sub(r"[\s_]", "", name.lower()), "act") for name in language.predicates}
    cast = Cast(domain, staff, patient, bed, large, small, kinds)
    if not cast.habits:
        raise UserError(f"domain {domain.name}: has no predicate that its people could do to anything; name more")
    return cast
