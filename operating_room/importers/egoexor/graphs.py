"""Scene graphs of an EgoExOR take: words and numbers of each annotated frame, compared with each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from operating_room.errors import one_line
from operating_room.graphs.scene_graph import Triplet
from operating_room.importers.egoexor.hdf5 import (
    BadRecording,
    blocks,
    dataset_at,
    form,
    group_at,
    names,
    read,
    text,
    where,
)
from operating_room.importers.egoexor.source import Tables
from operating_room.importers.egoexor.words import language

if TYPE_CHECKING:
    import h5py

RawTriplet = tuple[str, str, str]  # subject, predicate, object: the order of the files

# In which a row of numbers has subject, predicate and object. Published is the order of the words only.
_ORDERS = {"subject, predicate, object": (0, 1, 2), "subject, object, predicate": (0, 2, 1)}
_FRAME = re.compile("frame_(0|[1-9][0-9]{0,8})")
_MAX_PARTS = 10  # of a row, which has three, or more where the predicate has several words
_MAX_TRIPLETS = 10_000  # of a frame; the published files have about seven


@dataclass(frozen=True)
class _Names:
    """Names of the domain by the numbers of a file."""

    entities: Mapping[int, str]
    predicates: Mapping[int, str]

    @classmethod
    def of(cls, tables: Tables) -> _Names:
        return cls(
            {number: language().entity_name(word) for number, word in tables.entities.items()},
            {number: language().predicate_name(word) for number, word in tables.predicates.items()},
        )

    def said(self, numbers: tuple[int | None, ...]) -> tuple[str | None, ...]:
        """What numbers of subject, predicate and object say, in the order of triplets."""
        subject, predicate, object_ = (-1 if number is None else number for number in numbers)
        return self.entities.get(subject), self.entities.get(object_), self.predicates.get(predicate)


def read_graphs(group: h5py.Group, tables: Tables, frames: int) -> tuple[dict[int, list[Triplet]], tuple[str, ...]]:
    """Scene graph of each annotated frame in words of the domain, and the orders that the numbers beside it can have.

    Raises:
        BadRecording: a word is unknown, a number says something else than the words, or a frame is none of the take.
    """
    annotations = group_at(group, "annotations")
    known = _Names.of(tables)
    graphs: dict[int, list[Triplet]] = {}
    orders = tuple(_ORDERS)
    for name in names(annotations) if annotations is not None else ():
        frame = group_at(annotations, name) if annotations is not None else None
        if frame is None:
            continue
        number = _FRAME.fullmatch(name)
        if number is None or int(number[1]) >= frames:
            raise BadRecording(f"{where(frame)}: is none of the frames 0 to {frames - 1}")
        rows = _rows(frame)
        graph = graphs[int(number[1])] = [_triplet(where(frame), row, known) for row in rows]
        ids = dataset_at(frame, "scene_graph")
        if ids is not None and (ids.size or rows):
            orders = _fitting(ids, rows, graph, known, orders)
    return dict(sorted(graphs.items())), orders


def _rows(frame: h5py.Group) -> list[RawTriplet]:
    """The triplets of a frame as stored; of a row of more than three parts all in the middle are the predicate."""
    dataset = dataset_at(frame, "rel_annotations")
    if dataset is None:
        raise BadRecording(f"{where(frame)}/rel_annotations: is missing; download the file again")
    if not dataset.size:  # None: HDF5's null
        return []
    well_formed = dataset.ndim == 2 and 3 <= dataset.shape[1] <= _MAX_PARTS and dataset.dtype.kind in "SO"
    if not well_formed or len(dataset) > _MAX_TRIPLETS:
        raise BadRecording(f"{where(dataset)}: is {form(dataset)}, expected rows of three strings")
    found = []
    for _, block in blocks(dataset):
        for row in block:
            parts = [text(part) for part in row]
            if None in parts:
                raise BadRecording(f"{where(dataset)}: {one_line(str(list(row)))[:80]} is no text")
            subject, *middle, object_ = (str(part).strip() for part in parts)
            found.append((subject, " ".join(middle), object_))
    return found


def _triplet(place: str, row: RawTriplet, known: _Names) -> Triplet:
    subject, predicate, object_ = row
    said = language()
    found = Triplet(said.entity_name(subject), said.entity_name(object_), said.predicate_name(predicate))
    for word, name, names_of_kind, kind in (
        (subject, found.subject, known.entities, "entity"),
        (predicate, found.predicate, known.predicates, "predicate"),
        (object_, found.object, known.entities, "entity"),
    ):
        if name not in names_of_kind.values():
            told = one_line(", ".join(row))[:120]
            raise BadRecording(
                f"{place}/rel_annotations: {one_line(word)[:60]!r} is no {kind} of the vocabulary ({told})"
            )
    return found


def _fitting(
    ids: h5py.Dataset, rows: list[RawTriplet], graph: list[Triplet], known: _Names, orders: tuple[str, ...]
) -> tuple[str, ...]:
    """Those of the orders in which the numbers of a frame say what its words say."""
    if ids.shape != (len(rows), 3) or ids.dtype.kind not in "fiu":
        raise BadRecording(f"{where(ids)}: is {form(ids)}, expected three numbers for each of {len(rows)} triplets")
    # A number that is no whole one stands for nothing, nor does infinity, which is one to NumPy.
    numbers = [
        tuple(int(n) if np.isfinite(n) and n == np.rint(n) else None for n in r) for r in read(ids, 0, len(rows))
    ]

    def wrong(order: str) -> int | None:
        """The first row that says what no triplet does in this order; nothing tells that rows stand as the words do."""
        left = Counter[tuple[str | None, ...]](graph)
        for place, row in enumerate(numbers):
            said = known.said(tuple(row[column] for column in _ORDERS[order]))
            if not left[said]:
                return place
            left[said] -= 1
        return None

    fitting = tuple(order for order in orders if wrong(order) is None)
    if not fitting:
        place = wrong(orders[0]) or 0
        raise BadRecording(
            f"{where(ids)}: {', '.join(map(str, numbers[place]))} is not {', '.join(rows[place])}, which "
            "rel_annotations says; the numbers belong to another vocabulary"
        )
    return fitting
