"""What each sense has to tell in a take: which of them tells a deed, and what hides or blurs it.

Without news every sense tells whatever it can. With news each deed of a take has a witness, the one sense that tells
it; `senses` makes of a surgery what each of them gets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from operating_room.domain.collection import Take
from operating_room_simulator.story.steps import playbook_of

EVERY = "every"  # a witness: all senses tell, as without news
MEMORY = "memory"  # a witness: no sense tells; what happened before does

# Deed -> (relative frequency, witness). Cutting and suturing are left to memory together: which of the two a covered
# pair of hands does follows from whether the patient was cut already.
_MMOR: dict[str, tuple[tuple[int, str], ...]] = {
    "cutting": ((1, EVERY), (3, "views"), (2, "speech")),
    "suturing": ((1, EVERY), (4, "views"), (2, "speech")),
    "drilling": ((1, EVERY), (2, "views"), (2, "sound"), (1, "speech"), (2, "screen")),
    "sawing": ((1, EVERY), (2, "views"), (2, "sound"), (1, "speech"), (2, "screen")),
    "hammering": ((1, EVERY), (2, "views"), (3, "sound"), (2, "speech")),
    "cementing": ((1, EVERY), (4, "views"), (3, "speech")),
    "cleaning": ((1, EVERY), (3, "views"), (2, "sound"), (2, "speech")),
    "calibrating": ((1, EVERY), (1, "views"), (1, "speech"), (1, "screen"), (3, "tracker")),
}
_BY_MEMORY = 0.35  # share of takes in which nothing but memory tells cutting from suturing
_TEAMS = (("head_surgeon", "assistant_surgeon", "nurse"), ("circulator", "anaesthetist", "mps", "unrelated_person"))


@dataclass(frozen=True)
class News:
    """What is particular about the senses in one take."""

    witnesses: tuple[tuple[str, str], ...]  # deed -> the sense that tells it, EVERY or MEMORY
    early: tuple[str, ...] = ()  # deeds that are announced, and annotated, before hands move
    alike: tuple[tuple[str, ...], ...] = ()  # people who wear the clothes of the first of them
    tent: bool = False  # cloth around the secondary table: no camera sees what is in there, depth sensors do
    grain: float = 3.0  # sensor noise, grey levels
    dropped: tuple[tuple[str, int, int], ...] = ()  # room or station camera that has no pictures in [first, last)

    def witness(self, deed: str) -> str:
        """Who tells a deed; EVERY for those without entry."""
        return dict(self.witnesses).get(deed, EVERY)

    def is_dropped(self, camera: str, second: int) -> bool:
        """Whether `room1`, `station0`, ... has no picture of a second."""
        return any(name == camera and first <= second < last for name, first, last in self.dropped)


def draw_news(take: Take, seed: int, seconds: int) -> News:
    """The news of a take; the same take, seed and length give the same."""
    rng = random.Random(f"news {take.sample_name} {seed}")
    multimodal = playbook_of(take).multimodal
    witnesses = {
        deed: rng.choices([who for _, who in choices], [weight for weight, _ in choices])[0] if multimodal else "views"
        for deed, choices in _MMOR.items()
        if multimodal or deed != "calibrating"
    }
    if rng.random() < _BY_MEMORY:
        witnesses |= {"cutting": MEMORY, "suturing": MEMORY}
        if multimodal and witnesses["calibrating"] in (EVERY, "tracker"):  # trackers on the bones would tell
            witnesses["calibrating"] = "screen"
    early = tuple(deed for deed in witnesses if multimodal and witnesses[deed] != MEMORY and rng.random() < 0.3)
    cameras = [f"room{n}" for n in range(1, 6 if multimodal else 7)]
    dropped = []
    if rng.random() < 0.4:  # single cameras
        for camera in rng.sample([*cameras, *(["station0", "station2"] if multimodal else [])], k=rng.randint(1, 2)):
            first = rng.randrange(seconds)
            dropped.append((camera, first, first + rng.randint(10, max(11, seconds // 2))))
    if rng.random() < 0.3:  # all of them: depth goes on
        first = rng.randrange(seconds)
        length = rng.randint(8, 16)
        stations = ["station0", "station2", "station3"] if multimodal else []
        dropped += [(camera, first, first + length) for camera in (*cameras, *stations)]
    return News(
        witnesses=tuple(witnesses.items()),
        early=early,
        alike=tuple(team for team in _TEAMS if rng.random() < 0.4),
        tent=rng.random() < 0.5,
        grain=rng.choice((2.0, 3.0, 5.0, 8.0)),
        dropped=tuple(dropped),
    )
