"""What the timepoints of an evaluation really had. An absent modality is no error, but it decides the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from operating_room.domain.domain import Domain
from operating_room.recordings.modalities import BY_NAME, TABLE, modalities_of
from operating_room.recordings.timepoint import Timepoint

FEW = 0.1  # share of the timepoints below which a modality is told to be missing
_MEMORY = "memory"
# What is counted -> the modality of `config.MODALITIES` that a model must know to be shown it.
KINDS = {row.kind: row.input for row in TABLE if row.kind and row.input} | {_MEMORY: _MEMORY}
_UNPUBLISHED = {row.kind for row in TABLE if not row.published}  # told where takes can have them
_CHOICE = {"audio": " with the --audio-encoder that the model was trained with, mel for the bundled ones"}
_MADE_BY = {
    row.input: f"mmor scene-graph preprocess {row.made_by}{_CHOICE.get(row.input, '')}"
    for row in TABLE
    if row.input and row.made_by
}


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
        could.update(_possible(timepoint.domain, timepoint.take.dataset))
        found = Counter(_inputs(timepoint))
        files += found
        had.update(found.keys())
        had["memory"] += memory
    known = {*modalities, *(["memory"] if memory else [])}
    told = [kind for kind in KINDS if could[kind] or kind not in _UNPUBLISHED]
    return Seen({kind: Presence(KINDS[kind] in known, had[kind], could[kind], files[kind]) for kind in told})


@cache
def _possible(domain: Domain, dataset: str) -> frozenset[str]:
    """The kinds that takes of a dataset can have."""
    rows = modalities_of(domain, domain.collection(dataset))
    return frozenset({row.kind for row in rows if row.kind}) | {_MEMORY}


def _inputs(timepoint: Timepoint) -> Iterator[str]:
    """The kind of each input."""
    modality = {path: name for name, _, path in timepoint.files_by_camera()}
    for picture in timepoint.collection.evaluation_pictures(timepoint.views):
        if picture is not None:
            yield BY_NAME[modality[picture]].kind or ""
    for row in TABLE:
        if row.kind and row.input != "views":
            yield from [row.kind] * max(len(timepoint.several(row.name)), row.name in timepoint.records)
