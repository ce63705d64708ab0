"""What EgoExOR files hold: which release, which takes with which cameras, which words, which splits.

One merged file, or a folder of the separate files; the splits inside or beside. What is wrong is collected, a line for
each, so that one bad file or take costs no other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from operating_room.errors import UserError, one_line
from operating_room.files.raw_files import visible
from operating_room.importers.egoexor.hdf5 import (
    BadRecording,
    blocks,
    dataset_at,
    group_at,
    names,
    open_hdf5,
    text,
    told,
    where,
)
from operating_room.importers.egoexor.tables import BLANK, RAW_ENTITIES, RAW_PREDICATES, SOURCES

if TYPE_CHECKING:
    import h5py

Release = Literal["legacy", "hq"]
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # names in the files -> names of splits
SPLIT_FILE = "splits.h5"
_ROOTS: dict[Release, str] = {"legacy": "data", "hq": "procedures"}
# Groups between surgery, procedure and take: data/MISS/1/take/2, procedures/MISS/phases/1/takes/2.
_LEVELS: dict[Release, tuple[str | None, str]] = {"legacy": (None, "take"), "hq": ("phases", "takes")}
_SURGERY = re.compile("[A-Za-z][A-Za-z0-9-]{0,30}")
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")
_WORD = re.compile("[A-Za-z][A-Za-z0-9_]{0,60}")
_MAX_SOURCES = 64
_MAX_WORDS = 10_000
_MAX_TAKES = 10_000  # of a file; hard links that lead back make any number of them
_MAX_SPLIT_ROWS = 10_000_000  # published are 84,553: a file of some kB may state billions


@dataclass(frozen=True)
class StoredTake:
    """One take in one file. The newer release calls surgery, procedure and take: procedure, phase, take."""

    file: Path
    group: str  # its path in the file
    release: Release
    name: str  # {surgery}_{procedure}_{take}


@dataclass(frozen=True)
class Tables:
    """Numbers and names as the files state them, or as published where they do not."""

    sources: Mapping[str, int] = field(default_factory=lambda: SOURCES)
    entities: Mapping[int, str] = field(default_factory=lambda: dict(enumerate(RAW_ENTITIES)))
    predicates: Mapping[int, str] = field(default_factory=lambda: dict(enumerate(RAW_PREDICATES)))


@dataclass(frozen=True)
class Recordings:
    """All takes of a file or folder.

    Attributes:
        tables: by file.
        splits: split of each take that the split table has, whether it is in the files or not.
        split_frames: how many frames of each take the split table lists.
        notes: what is worth knowing, one line each.
        problems: what is wrong, one line each; what it is about is not among the takes.
    """

    release: Release
    files: tuple[Path, ...]
    takes: tuple[StoredTake, ...]
    tables: Mapping[Path, Tables]
    splits: Mapping[str, str]
    split_frames: Mapping[str, int]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def find_recordings(source: Path) -> Recordings:
    """Look into a file, or into all .h5 files of a folder.

    Raises:
        UserError: there is no such file, none can be read, both releases are mixed, or h5py is not installed.
    """
    files = _files(source)
    takes: list[StoredTake] = []
    tables: dict[Path, Tables] = {}
    rows: dict[str, dict[str, set[int]]] = {}  # take -> split -> frames
    notes: list[str] = []
    problems: list[str] = []
    releases: dict[Release, Path] = {}
    for path in files:
        try:
            with open_hdf5(path) as file:
                release = _release(file)
                if release is not None:
                    releases.setdefault(release, path)
                    tables[path] = _read_tables(file, notes)
                    takes += islice(_takes(file, release, problems), _MAX_TAKES + 1)
                    if len(takes) > _MAX_TAKES:
                        told_of = f"/{_ROOTS[release]}: has more than {_MAX_TAKES} takes"
                        raise UserError(f"{path}:{told_of}; download it again")
                _read_splits(file, rows)
        except BadRecording as error:
            problems.append(str(error))
    if len(releases) > 1:
        told_of = " and ".join(f"{path} is of the {release} release" for release, path in releases.items())
        raise UserError(f"{source}: holds two releases: {told_of}; keep them in two folders and import each")
    if not takes:
        rest = f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{rest}" if problems else f"{source}: holds no take of EgoExOR; download its files"
        )
    doubled = {name for name, count in Counter(take.name for take in takes).items() if count > 1}
    for name in sorted(doubled):
        places = " and ".join(f"{take.file}:{take.group}" for take in takes if take.name == name)
        problems.append(f"{places}: take {name} is there twice; keep one of them")
    splits, refused = _splits(rows, problems)
    return Recordings(
        release=next(iter(releases)),
        files=tuple(path for path in files if path in tables),
        takes=tuple(take for take in takes if take.name not in doubled | refused),
        tables=tables,
        splits=splits,
        split_frames={name: len(set().union(*by_split.values())) for name, by_split in rows.items()},
        notes=tuple(notes),
        problems=tuple(problems),
    )


def read_cameras(group: h5py.Group, known: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the camera axis of a take, in its order, which differs from take to take.

    Raises:
        BadRecording: one is missing, unknown, or there twice.
    """
    sources = group_at(group, "sources")
    if sources is None:
        raise BadRecording(
            f"{where(group)}/sources: is missing, so nobody knows which camera is which; download it again"
        )
    place = where(sources)
    with told(place):
        attributes = sources.attrs
        count = attributes.get("source_count")
        number = int(np.asarray(count).reshape(-1)[0]) if count is not None and np.size(count) == 1 else -1
        if not 0 < number <= _MAX_SOURCES:
            raise BadRecording(f"{place}: source_count is {one_line(str(count))[:40]}, not 1 to {_MAX_SOURCES} cameras")
        found = {index: text(attributes.get(f"source_{index}")) for index in range(number)}
        extra = sorted(name for name in attributes if re.fullmatch("source_[0-9]+", name) and int(name[7:]) >= number)
    if missing := [f"source_{index}" for index, name in found.items() if not name]:
        raise BadRecording(f"{place}: source_count is {number}, but {missing[0]} is missing or no text")
    if extra:
        raise BadRecording(f"{place}: source_count is {number}, but {extra[0]} is there too")
    cameras = tuple(str(name) for name in found.values())
    if unknown := [name for name in cameras if name not in known]:
        there = ", ".join(known)
        raise BadRecording(
            f"{place}: camera {one_line(unknown[0])[:60]!r} is in no table of sources; known are {there}"
        )
    if twice := [name for name, count in Counter(cameras).items() if count > 1 and known[name] >= 0]:
        raise BadRecording(f"{place}: camera {twice[0]} is there twice")
    return cameras


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        found = visible(source.iterdir())
        files = sorted(path for path in found if path.suffix.lower() in (".h5", ".hdf5") and path.is_file())
        if not files:
            raise UserError(f"{source}: has no .h5 file; give a file of EgoExOR or the folder of its files")
        return files
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a file of EgoExOR or the folder of its files")
    beside = source.with_name(SPLIT_FILE)
    return [source, beside] if beside.is_file() and beside != source else [source]


def _release(file: h5py.File) -> Release | None:
    """Of a file with takes; None for one that has only splits."""
    found: list[Release] = [release for release, root in _ROOTS.items() if group_at(file, root) is not None]
    if len(found) > 1:
        raise BadRecording(f"{where(file)}: has both data and procedures, of two releases; merge each for itself")
    if not found and group_at(file, "splits") is None:
        there = ", ".join(names(file)[:5]) or "nothing"
        raise BadRecording(
            f"{where(file)}: is no file of EgoExOR, which has data, procedures or splits; it has {there}"
        )
    return found[0] if found else None


def _takes(file: h5py.File, release: Release, problems: list[str]) -> Iterator[StoredTake]:
    """All takes of a file; what cannot be one goes to `problems`."""
    middle, last = _LEVELS[release]
    for surgery, procedures in _children(group_at(file, _ROOTS[release]), problems):
        inner = procedures if middle is None else _child(procedures, middle, problems)
        for procedure, group in _children(inner, problems):
            for number, found in _children(_child(group, last, problems), problems):
                if _SURGERY.fullmatch(surgery) and _NUMBER.fullmatch(procedure) and _NUMBER.fullmatch(number):
                    name = f"{surgery}_{procedure}_{number}"
                    yield StoredTake(Path(file.filename), str(found.name), release, name)
                else:
                    problems.append(f"{where(found)}: is no take: a name and two numbers are expected")


def _children(group: h5py.Group | None, problems: list[str]) -> Iterator[tuple[str, h5py.Group]]:
    """Name and group of all groups in a group; what is none goes to `problems`."""
    for name in names(group) if group is not None else ():
        if group is not None and (found := _child(group, name, problems)) is not None:
            yield name, found


def _child(group: h5py.Group, name: str, problems: list[str]) -> h5py.Group | None:
    try:
        return group_at(group, name)
    except BadRecording as error:
        problems.append(str(error))
        return None


def _read_tables(file: h5py.File, notes: list[str]) -> Tables:
    """The file's own numbers and names; how they differ from the published ones is noted."""

    def own_or_published(path: str, published: Mapping[int, str]) -> Mapping[int, str]:
        try:
            own = _table(file, path)
        except BadRecording as error:
            notes.append(f"{error}; the published table is used instead")
            return published
        if own is None:
            notes.append(f"{file.filename}:/{path}: is not there; the published table is used")
            return published
        if own != dict(published):
            notes.append(f"{file.filename}:/{path}: differs from the published table: {_difference(own, published)}")
        return own

    published = Tables()
    own = own_or_published("metadata/sources/sources", {number: name for name, number in SOURCES.items()})
    # A published name that the file does not have keeps its number only where the file gives it to no other.
    rest = {name: SOURCES[BLANK] if number in own else number for name, number in SOURCES.items()}
    return Tables(
        {**rest, **{name: number for number, name in own.items()}},
        own_or_published("metadata/vocabulary/entity", published.entities),
        own_or_published("metadata/vocabulary/relation", published.predicates),
    )


def _difference(own: Mapping[int, str], published: Mapping[int, str]) -> str:
    parts = []
    for number in sorted(own.keys() | published.keys()):
        if own.get(number) != published.get(number):
            parts.append(f"{number} is {own.get(number, 'not there')}, published {published.get(number, 'nowhere')}")
    return "; ".join(parts[:5]) + (f"; and {len(parts) - 5} more" if len(parts) > 5 else "")


def _table(file: h5py.File, path: str) -> dict[int, str] | None:
    """Number -> name of a table of the file; None if it has none."""
    dataset = dataset_at(file, path)
    if dataset is None:
        return None
    _require_columns(dataset, ("name", "id"))
    found: dict[int, str] = {}
    if len(dataset) > _MAX_WORDS:
        raise BadRecording(f"{where(dataset)}: has {len(dataset)} rows, more than {_MAX_WORDS}")
    for _, rows in blocks(dataset):
        for row in rows:
            name, number = text(row["name"]), int(row["id"])
            if name is None or not _WORD.fullmatch(name):
                raise BadRecording(f"{where(dataset)}: {one_line(str(row['name']))[:60]!r} is no name")
            if number in found or name in found.values():
                raise BadRecording(f"{where(dataset)}: {name} ({number}) has the name or the number of another row")
            found[number] = name
    return found


def _read_splits(file: h5py.File, rows: dict[str, dict[str, set[int]]]) -> None:
    """Add the frames of the split tables of a file, if it has them."""
    group = group_at(file, "splits")
    for name in names(group) if group is not None else ():
        dataset = dataset_at(group, name) if group is not None else None
        if dataset is None:
            continue
        if name not in SPLITS:
            raise BadRecording(f"{where(dataset)}: is no known split; known are {', '.join(SPLITS)}")
        _require_columns(dataset, ("surgery_type", "procedure_id", "take_id", "frame_id"))
        if len(dataset) > _MAX_SPLIT_ROWS:
            raise BadRecording(f"{where(dataset)}: has {len(dataset)} rows, more than {_MAX_SPLIT_ROWS}")
        for _, block in blocks(dataset):
            for row in block:
                take = f"{text(row['surgery_type'])}_{int(row['procedure_id'])}_{int(row['take_id'])}"
                rows.setdefault(take, {}).setdefault(SPLITS[name], set()).add(int(row["frame_id"]))


def _splits(rows: Mapping[str, Mapping[str, set[int]]], problems: list[str]) -> tuple[dict[str, str], set[str]]:
    """Split of each take, and the takes that are in two of them."""
    splits, refused = {}, set()
    for take, by_split in rows.items():
        if len(by_split) == 1:
            splits[take] = next(iter(by_split))
            continue
        refused.add(take)
        first, second = sorted(by_split)[:2]
        common = by_split[first] & by_split[second]
        which = f"frame {min(common)} of take {take} is" if common else f"take {take} has frames"
        problems.append(f"splits: {which} in {first} and in {second}; each take belongs to one split")
    return splits, refused


def _require_columns(dataset: h5py.Dataset, columns: Sequence[str]) -> None:
    found = dataset.dtype.names or ()
    if dataset.ndim != 1 or set(columns) - set(found):
        has = ", ".join(found) or str(dataset.dtype)
        raise BadRecording(f"{where(dataset)}: must be rows of {', '.join(columns)}; it has {has}")
    for name in columns:
        kind = dataset.dtype[name].kind
        if kind not in ("SO" if name in ("name", "surgery_type") else "iu"):
            raise BadRecording(f"{where(dataset)}: its column {name} is {dataset.dtype[name]}; download it again")
