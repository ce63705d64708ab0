"""What a training must know of all its samples before its first step, gathered while they are read once.

A training file may be more than 1 GB of JSON. Parsing it takes longer than all that is looked for in it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int32

from operating_room.domain.domain import OWN
from operating_room.errors import UserError
from operating_room.graphs.graph_files import SPLIT_NAMES, load_samples
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.graphs.scene_graph import START, Triplet, as_said, parse
from operating_room.work.progress import track
from scene_graph_generation.samples.records import Record, Records
from scene_graph_generation.samples.sample_files import Joined
from scene_graph_generation.samples.training_data import answer_of, check_record, open_records

Made = TypeVar("Made")
_LOOKED_AT = 500  # samples, spread over all, whose relations are compared with those in the data folder


@dataclass(frozen=True)
class Survey:
    """All samples of a training in a few numbers each; answers only if they were asked for."""

    lengths: Int32[np.ndarray, " records"]  # words of question and answer
    shown: Bool[np.ndarray, " records"]  # whether there are pictures or masks
    first_with_image: str | None  # id of the first sample whose text has a place for pictures
    answers: tuple[str, ...]  # each once
    answer_numbers: Int32[np.ndarray, " answered"]  # of each record: the place of its answer among `answers`
    fingerprint: str  # of all that the records hold, in their order


def survey(
    paths: Sequence[Path], canonical_order: bool, answers: bool, read: Callable[[Iterable[str]], Made]
) -> tuple[Records, Survey, Made]:
    """The records of training files one after the other, what they are like, and what `read` makes of their texts.

    Args:
        paths: of the files, or folders of shards.
        canonical_order: whether the triplets of an answer are sorted, as training will show them.
        answers: whether they will be asked for. There are about as many as there are records, unless sorted ones.
        read: gets question and answer of each record, in order, while the files are read; it need not take them all.

    Raises:
        UserError: see `open_records` and `check_record`.
    """
    files = [(path, open_records(path)) for path in paths]
    records = Joined([records for _, records in files])
    gathered = _Gathered(len(records), canonical_order, answers)

    def texts() -> Generator[str]:
        found = ((path, n, record) for path, part in files for n, record in enumerate(part))
        for path, number, record in track(found, "looking through the samples", len(records)):
            text = check_record(path, number, record)
            gathered.add(record, text)
            yield text

    with closing(texts()) as going_through:
        made = read(going_through)
        for _ in going_through:  # what is left
            pass
    return records, gathered.all(), made


def other_relations(records: Records, root: Path) -> str | None:
    """What to say of samples whose relations are not those that the data folder has now; None if none is known to be.

    Samples are made of relations that people go on correcting and converting. Damaged files are told by who needs them.
    """
    made: dict[str, frozenset[Triplet]] = {}
    for place in range(0, len(records), max(1, len(records) // _LOOKED_AT)):
        record = records[place]  # which parses it
        answer = answer_of(record, False)
        if START in answer:  # or it answers another question
            made[str(record["id"])] = frozenset(parse(answer))
    told = []
    for path in (root / f"relationships_{name}.json" for name in (*SPLIT_NAMES.values(), OWN)):
        with suppress(UserError):
            now = [s for s in load_samples(path) if s.sample_id in made] if path.is_file() else []
            if other := [s.sample_id for s in now if frozenset(as_said(s.triplets)) != made[s.sample_id]]:
                told.append(f"{len(other)} of {len(now)} samples looked at have other relations than {path} has now")
                told.append(f"the first is {other[0]}")
    return "; ".join([*told, "make them again if these are what is to be learnt"]) if told else None


class _Gathered:
    """What is known of the records so far."""

    def __init__(self, count: int, canonical_order: bool, answers: bool) -> None:
        self._canonical_order = canonical_order
        self._count = 0
        self._lengths = np.zeros(count, np.int32)
        self._shown = np.zeros(count, np.bool_)
        self._first_with_image: str | None = None
        self._answers: dict[str, int] = {}
        self._answer_numbers = np.zeros(count if answers else 0, np.int32)
        self._digest = sha256()

    def add(self, record: Record, text: str) -> None:
        """Take the next record in."""
        number, self._count = self._count, self._count + 1
        self._digest.update(f"{record}\0".encode("utf-8", "surrogatepass"))
        self._lengths[number] = len(text.split())
        self._shown[number] = bool(record.get("image") or record.get("segmasks"))
        if self._first_with_image is None and IMAGE_MARK in text:
            self._first_with_image = str(record["id"])
        if len(self._answer_numbers):
            answer = answer_of(record, self._canonical_order)
            self._answer_numbers[number] = self._answers.setdefault(answer, len(self._answers))

    def all(self) -> Survey:
        """Everything."""
        answers, fingerprint = tuple(self._answers), self._digest.hexdigest()[:16]
        return Survey(self._lengths, self._shown, self._first_with_image, answers, self._answer_numbers, fingerprint)
