"""What cameras, microphones, words, robot screen and tracker get of a surgery with news.

Everything that is rendered, sounded or written for a sense is made from `told(surgery, sense)` alone: what is not in
there is nowhere in its files. Hands whose deed another sense tells look, sound and read the same whatever they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.story.news import EVERY, News
from operating_room_simulator.story.steps import ROBOT_PHASES, SURGEONS
from operating_room_simulator.story.story import Moment, Surgery

Sense = Literal["views", "sound", "speech", "screen", "tracker"]  # views: all cameras, their masks and depth
TOOLS = ("drill", "hammer", "instrument", "saw")
_LEAD = 3  # s that a deed announced early is annotated before hands move
_SHOWN = 2  # s that a tool is seen before the circulator's hand closes around it
# The step that a sense is told while a deed is covered: the wound, the page, the words and the tools say nothing of it.
_COVER: dict[Sense, str] = {
    "views": "cutting",
    "sound": "cutting",
    "speech": "",
    "screen": "suturing",
    "tracker": "cutting",
}
_PHASES = [phase for phase, _ in ROBOT_PHASES]
# Phases in which the robot is calibrated -> the one before, whose page does not say so.
_PHASE_BEFORE = {_PHASES[place]: _PHASES[place - 1] for place in (1, 6)}


@lru_cache(maxsize=16)
def told(surgery: Surgery, sense: Sense) -> Surgery:
    """The surgery as one sense gets it; without news, the surgery itself."""
    if surgery.news is None:
        return surgery
    early, closed = _early(surgery.moments, surgery.news), _closed_hands(surgery.moments)
    doers = {(m.step, t.subject) for m in surgery.moments for t in m.triplets if t.predicate == m.step}
    moments = tuple(_as_told(moment, surgery.news, sense, early, closed, doers) for moment in surgery.moments)
    return replace(surgery, moments=moments)


def _as_told(
    moment: Moment,
    news: News,
    sense: Sense,
    early: set[tuple[int, str]],
    closed: set[tuple[int, Triplet]],
    doers: set[tuple[str, str]],
) -> Moment:
    deeds = {deed for deed, _ in news.witnesses}
    covered = {deed for deed in deeds if news.witness(deed) not in (EVERY, sense)}
    resting = {deed for deed in deeds if (moment.second, deed) in early}
    covered = covered - resting if sense == "speech" else covered | resting
    hidden = (moment.step if moment.step != "calibration" else "calibrating") in covered
    triplets = []
    busy = {who for step, who in doers if step == moment.step} if hidden else set()
    if hidden:
        busy |= {triplet.subject for triplet in moment.triplets if triplet[::2] == ("nurse", "assisting")}
    for triplet in moment.triplets:
        if triplet.predicate in covered:
            if triplet.predicate != "calibrating":  # an instrument in hand says nothing of it
                busy.add(triplet.subject)
            triplet = triplet._replace(predicate=_look(triplet.predicate, resting))
        triplets.append(triplet)
    kept = tuple(t for t in triplets if (moment.second, t) not in closed and not _tells_tool(t, busy, hidden))
    things = moment.things
    if busy or any(second == moment.second for second, _ in closed):  # no gap on a table tells it, either
        shown = {name for triplet in kept for name in triplet[:2]}
        things = tuple(name for name in things if name not in TOOLS or name in shown)
    step = moment.step
    if hidden and (step != "calibration" or sense in ("speech", "screen")):
        step = _COVER[sense]
    phase = moment.robot_phase
    if sense == "screen" and "calibrating" in covered:
        phase = _PHASE_BEFORE.get(phase, phase)
    return replace(moment, step=step, triplets=kept, things=things, robot_phase=phase)


def _look(deed: str, resting: set[str]) -> str:
    """What a covered deed looks like: hands at rest before it, both hands on the knee or one on the robot during it."""
    return "closeTo" if deed in resting else "touching" if deed == "calibrating" else "manipulating"


def _tells_tool(triplet: Triplet, busy: set[str], hidden: bool) -> bool:
    """Whether a relation tells with what a covered deed is done: in pauses and as it is handed over, too."""
    subject, object_, predicate = triplet
    if predicate == "holding" and object_ in TOOLS:
        return subject in busy or (hidden and object_ != "instrument")
    return subject in busy and (object_, predicate) == ("mako_robot", "manipulating")


def _early(moments: Sequence[Moment], news: News) -> set[tuple[int, str]]:
    """(second, deed) of the first seconds of each stretch of a deed that is announced early."""
    found: set[tuple[int, str]] = set()
    for deed in news.early:
        last = -100
        for moment in moments:
            if any(t.predicate == deed and t.subject in SURGEONS for t in moment.triplets):
                if moment.second - last > 2 * _LEAD:
                    found |= {(moment.second + ahead, deed) for ahead in range(_LEAD)}
                last = moment.second
    return found


def _closed_hands(moments: Sequence[Moment]) -> set[tuple[int, Triplet]]:
    """(second, relation) in which the circulator carries a tool in a closed hand: only its taking is seen."""
    found: set[tuple[int, Triplet]] = set()
    since: dict[Triplet, int] = {}
    for moment in moments:
        carried = [t for t in moment.triplets if t.subject == "circulator" and t.object in TOOLS]
        held = [triplet for triplet in carried if triplet.predicate == "holding"]
        since = {triplet: since.get(triplet, moment.second) for triplet in held}
        found |= {(moment.second, t) for t in held if moment.second - since[t] >= _SHOWN}
    return found
