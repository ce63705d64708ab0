"""What the timepoints of an evaluation really had. An absent modality is no error, but it decides the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operating_room.domain.takes import FOURDOR
from operating_room.recordings.dataset import Timepoint
from operating_room.recordings.views import evaluation_pictures

FEW = 0.1  # share of the timepoints below which a modality is told to be missing
# What is counted -> the modality of `config.MODALITIES` that a model must know to be shown it.
KINDS = {
    "room views": "views",
    "station views": "views",  # three stand in where no room camera recorded; else only that of the robot's screen
    "tracker view": "views",
    "cloud": "cloud",
    "audio": "audio",
    "masks": "masks",
    "robot": "robot",
    "tracker": "tracker",
    "speech": "speech",
    "memory": "memory",
}
_MADE_BY = {
    "audio": "mmor scene-graph preprocess audio-embeddings",
    "masks": "mmor scene-graph preprocess masks",
    "speech": "mmor scene-graph preprocess transcripts",
}
_FOURDOR = ("room views", "cloud", "masks", "memory")  # what takes of 4D-OR can have


@dataclass(frozen=True)
class Presence:
    """How many timepoints have one kind of input."""

    known: bool  # to the model: else it is on disk at most
    timepoints: int  # that have it
    of: int  # timepoints whose dataset has it at all
    files: int  # pictures, masks


@dataclass(frozen=True)
class Seen:
    """What was present, by kind of input (the keys of `KINDS`)."""

    kinds: Mapping[str, Presence]

    def to_json(self) -> dict[str, Any]:
        """As in the results file."""
        return {kind: vars(presence) for kind, presence in self.kinds.items()}

    def warnings(self) -> list[str]:
        """One line for each modality that the model knows and hardly any timepoint has."""
        lines = []
        for modality in dict.fromkeys(KINDS.values()):
            of_it = [presence for kind, presence in self.kinds.items() if KINDS[kind] == modality and presence.known]
            had, of = (max((getattr(presence, name) for presence in of_it), default=0) for name in ("timepoints", "of"))
            if had < FEW * of:
                made = f"; make them: {_MADE_BY[modality]}" if modality in _MADE_BY else ""
                lines.append(f"the model knows {modality}, but {had} of {of} timepoints have it{made}")
        return lines

    def __str__(self) -> str:
        lines = [f"{'seen':>14}  timepoints    files  known to the model"]
        for kind, presence in self.kinds.items():
            share = f"{presence.timepoints}/{presence.of}"
            lines.append(f"{kind:>14}  {share:>10}  {presence.files:>7}  {'yes' if presence.known else 'no'}")
        return "\n".join(lines) + "\n"


def count_seen(timepoints: Iterable[Timepoint], modalities: Sequence[str], memory: bool) -> Seen:
    """Count what evaluation shows of these timepoints.

    Args:
        timepoints: those that were asked.
        modalities: that the model knows (`MM2SGConfig.modalities`).
        memory: whether each prompt has a memory.
    """
    had, files, could = Counter[str](), Counter[str](), Counter[str]()
    for timepoint in timepoints:
        could.update(_FOURDOR if timepoint.take.dataset == FOURDOR else [*KINDS])
        found = Counter(_inputs(timepoint))
        files += found
        had.update(found.keys())
        had["memory"] += memory
    known = {*modalities, *(["memory"] if memory else [])}
    return Seen({kind: Presence(KINDS[kind] in known, had[kind], could[kind], files[kind]) for kind in KINDS})


def _inputs(timepoint: Timepoint) -> Iterator[str]:
    """The kind of each input."""
    rooms, stations = set(timepoint.room_views.values()), set(timepoint.station_views.values())
    for picture in evaluation_pictures(timepoint):
        if picture is not None:
            yield "room views" if picture in rooms else "station views" if picture in stations else "tracker view"
    yield from ["masks"] * len(timepoint.masks)
    single = {
        "cloud": timepoint.point_cloud,
        "audio": timepoint.audio_embedding,
        "robot": timepoint.robot_screen,
        "tracker": timepoint.tracker,
        "speech": timepoint.transcript,
    }
    yield from (kind for kind, value in single.items() if value is not None)
