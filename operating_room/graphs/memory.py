"""Temporal memory: what changed in the room so far, as the text that precedes a prompt.

Data specification, section 5. A `Memory` is fed one timepoint after the other and does constant work for each, whatever
the length of the take; the published code rebuilt everything from the first frame (fix 4 of section 11).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from random import Random
from typing import NamedTuple

from operating_room.domain.language import NONE, Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet

SHORT_ENTRIES = 5  # newest changes, told one by one
MAX_CHARACTERS = 5000  # evaluation keeps this many of the newest characters
REMOVED = "not "  # prefix of the predicate of a relation that ended
STYLES = ("short", "long", "longshort")

# Training draws a style by one uniform number: the first bound above it wins, None means no memory at all.
SCENE_GRAPH_STYLES = ((0.5, None), (0.666, "short"), (0.833, "long"), (1.0, "longshort"))
DOWNSTREAM_STYLES = ((0.1, None), (0.25, "short"), (0.4, "long"), (1.0, "longshort"))
DROP_PROBABILITY = 0.5  # of a history entry, in training only


class Change(NamedTuple):
    """An entry of the change log: at `time` (s) a relation appeared, or ended (predicate `not ...`)."""

    time: int
    triplet: Triplet


class Memory:
    """The memory of one take, timepoint by timepoint.

    The text is the same as `memory_text(memory.log, style)` gives, which goes through the whole log.

    Args:
        forgotten: predicates that are not remembered, in every spelling (`Language.forgotten_spellings`).
        several: a pair may have several predicates at once (`Language.several_predicates`), each remembered for itself.
    """

    def __init__(self, forgotten: Collection[str], several: bool = False) -> None:
        self.log: list[Change] = []
        self._forgotten, self._several = forgotten, several
        # (subject, object), with several predicates the triplet -> predicate, as the log implies
        self.state: dict[tuple[str, ...], str] = {}
        self._told: set[Triplet] = set()
        self._long = ""

    @classmethod
    def of(cls, language: Language) -> Memory:
        """What is remembered of a room."""
        return cls(language.forgotten_spellings, language.several_predicates)

    def add(self, triplets: Iterable[Triplet], time: int) -> None:
        """Remember the graph of the timepoint at `time` (s); graphs must come in the order of time.

        A pair whose predicate changes logs nothing and keeps its old predicate (quirk 3 of section 11), unless a pair
        may have several.
        """
        frame = {
            self._key(t): t.predicate
            for t in triplets
            if t.predicate not in self._forgotten and NONE not in (t.subject, t.object)
        }
        appeared = [(key, predicate) for key, predicate in frame.items() if key not in self.state]
        ended = [(key, REMOVED + predicate) for key, predicate in self.state.items() if key not in frame]
        for (subject, object_, *_), predicate in appeared + ended:
            self._log(Change(time, Triplet(subject, object_, predicate)))

    def text(self, style: str = "longshort") -> str:
        """Everything added so far as text: for the prompt at time t, ask before adding the graph of t.

        Raises:
            UserError: the style does not exist.
        """
        return _compose(self._long, "".join(_entry(change) for change in self.log[-SHORT_ENTRIES:]), style)

    def trim(self) -> None:
        """Forget the part of the log that no text needs any more, so that a memory without end stays small."""
        del self.log[:-SHORT_ENTRIES]

    def _key(self, triplet: Triplet) -> tuple[str, ...]:
        """What of a triplet is in a memory once."""
        return triplet if self._several else triplet[:2]

    def _log(self, change: Change) -> None:
        self.log.append(change)
        triplet = change.triplet
        if triplet.predicate.startswith(REMOVED):  # also when a model generated such a predicate
            ended = triplet._replace(predicate=triplet.predicate.removeprefix(REMOVED))
            self.state.pop(self._key(ended), None)
        else:
            self.state[self._key(triplet)] = triplet.predicate
        if len(self.log) > SHORT_ENTRIES:
            left = self.log[-SHORT_ENTRIES - 1]  # has just left the short part
            if _is_new(left, self._told):
                self._long += _entry(left)


def memory_text(
    log: Sequence[Change], style: str = "longshort", drop_probability: float = 0.0, generator: Random | None = None
) -> str:
    """The memory of a change log, entries dropped at random as in training; `Memory.text` without dropping is faster.

    Args:
        log: entries before the timepoint of the prompt, see `changes_before`.
        style: one of `STYLES`.
        drop_probability: chance of each entry to be left out; the long part does not tell a dropped one later.
        generator: source of the draws, needed if `drop_probability` is above 0.

    Raises:
        UserError: the style does not exist.
        ValueError: dropping without a generator.
    """
    if drop_probability > 0 and generator is None:
        raise ValueError("dropping entries of the history needs a random generator")

    def kept() -> bool:
        return generator is None or generator.random() >= drop_probability

    told: set[Triplet] = set()
    long = [_entry(change) for change in log[:-SHORT_ENTRIES] if _is_new(change, told) and kept()]
    short = [_entry(change) for change in log[-SHORT_ENTRIES:] if kept()]
    return _compose("".join(long), "".join(short), style)


def changes_before(log: Sequence[Change], time: int) -> Sequence[Change]:
    """The entries of a log that a prompt at `time` (s) may know: those strictly before it."""
    return log[: bisect_left(log, time, key=lambda change: change.time)]


def truncate(text: str) -> str:
    """Memory text as evaluation passes it on: at most the newest 5000 characters, after `...`."""
    return text if len(text) <= MAX_CHARACTERS else "..." + text[-MAX_CHARACTERS:]


def draw_style(styles: Sequence[tuple[float, str | None]], generator: Random) -> str | None:
    """Draw the memory style of a training sample from `SCENE_GRAPH_STYLES` or `DOWNSTREAM_STYLES`."""
    draw = generator.random()
    return next(style for bound, style in styles if draw < bound)


def unswapped(triplets: Iterable[Triplet]) -> list[Triplet]:
    """Triplets as the published downstream code remembers them: object and predicate in each other's place.

    Mirrors quirk 4 of section 11: closeTo relations stay in, several objects of a subject under one predicate collapse
    to the last one, a removal reads `nurse,closeTo,not instrument_table`. For the memory that was meant, add the
    triplets as they are.
    """
    return [Triplet(subject, predicate, object_) for subject, object_, predicate in triplets]


def _is_new(change: Change, told: set[Triplet]) -> bool:
    """Whether the long part names this entry: appeared, and for the first time. Registers it."""
    if change.triplet.predicate.startswith(REMOVED) or change.triplet in told:
        return False
    told.add(change.triplet)
    return True


def _entry(change: Change) -> str:
    return ",".join(change.triplet) + "; "


def _compose(long: str, short: str, style: str) -> str:
    parts = {"long": f"Long: {long}", "short": f"Short: {short}", "longshort": f"Long: {long}Short: {short}"}
    if style not in parts:
        raise UserError(f"memory style {style!r} does not exist; choose one of {', '.join(STYLES)}")
    return parts[style][:-2]
