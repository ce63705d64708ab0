"""The datasets of a domain from its YAML file, and the splits of a dataset in the house layout from theirs."""

from __future__ import annotations

import re
from collections.abc import Collection as Names
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

import regex

from operating_room.domain.collection import (
    CAMERA_MODALITIES,
    FOLDER_NAME,
    MODALITIES,
    SEPARATED_SPLITS,
    TAKE_FILES,
    TIMEPOINT_FILES,
    Camera,
    Collection,
    OwnTakes,
    Slots,
)
from operating_room.domain.house import HOUSE_MODALITIES, house_fields
from operating_room.domain.reading.nodes import Value, near, read_yaml, require_known
from operating_room.errors import UserError

_REQUIRED = ("name", "root", "cameras")
_COMMON = ("title", "layout", "suffix", "takes", "splits", "own", "slots", "period", "thinned", "without")
_PATTERNS = (
    "folder",
    "folders",
    "frame_keys",
    "index",
    "annotation",
    "labels",
    "files",
    "take_files",
    "calibration",
    "depth",
)
_LAYOUTS, _LABELS = ("patterns", "house"), ("mmor", "4dor", "triplets")
_OF_TAKE = ("take", "folder")
_OF_TIMEPOINT = (*_OF_TAKE, "time", "frame_id")
_RESERVED = (*_OF_TIMEPOINT, "camera", "number", "name")  # no key for frame numbers in an index
_SLOTS = ("training", "evaluation", "instead", "also")


def read_collections(value: Value, tasks: Names[str]) -> tuple[Collection, ...]:
    """The datasets of a domain.

    Args:
        value: their list in the file.
        tasks: the names of the downstream tasks, which may have label files.

    Raises:
        UserError: something is wrong with one of them, or two of them are at odds.
    """
    items = value.items()
    if not items:
        raise value.error("names no dataset; give at least one")
    found: list[Collection] = []
    for item in items:
        collection = _collection(item, tasks)
        for other in found:
            for key in ("name", "root", "suffix"):
                if getattr(other, key) and getattr(other, key) == getattr(collection, key):
                    raise item.error(f"{key} {getattr(other, key)!r} is that of another dataset, too")
            if (other.suffix, other.own.ending) == (collection.suffix, collection.own.ending):
                raise item.error(f"names do not tell takes of {collection.name} from {other.name}; give it a suffix")
            if twice := set(other.takes) & set(collection.takes):
                raise item.error(f"take {min(twice)!r} is in {other.name}, too; take names are unique in a domain")
        found.append(collection)
    return tuple(found)


def read_splits(path: Path, collection: Collection) -> Collection:
    """A dataset with the splits of a file (`splits.yaml` of the house layout) in place of its own.

    Raises:
        UserError: missing or no YAML, a name that can be none, or a take in two of train, val and test; with the line.
    """
    splits = _splits(read_yaml(path), collection.own, None)
    return replace(collection, splits=splits, takes=_takes_of(splits))


def _collection(value: Value, tasks: Names[str]) -> Collection:
    fields = value.fields(_REQUIRED, (*_COMMON, *_PATTERNS, "modalities"))
    house = "layout" in fields and require_known(fields["layout"], _LAYOUTS, "layout") == "house"
    for key in _PATTERNS if house else ("modalities",):
        if key in fields:
            raise fields[key].error(f"{key!r} has no place beside layout: {'house' if house else 'patterns'}")
    own = _own(fields["own"]) if "own" in fields else OwnTakes()
    takes = _takes(fields["takes"], own) if "takes" in fields else None
    splits = _splits(fields["splits"], own, takes) if "splits" in fields else {}
    takes = _takes_of(splits) if takes is None else takes
    placed = _house(fields) if house else _patterns(value, fields, own, takes, tasks)
    cameras = {camera.name: camera for camera in placed["cameras"]}
    name = _folder_name(fields["name"])
    return Collection(
        name=name,
        title=fields["title"].text() if "title" in fields else name,
        root=_folder_name(fields["root"]),
        suffix=_ending(fields["suffix"]) if "suffix" in fields else "",
        takes=takes,
        splits=splits,
        own=own,
        slots=_slots(fields["slots"], cameras) if "slots" in fields else Slots(tuple(cameras), tuple(cameras)),
        period=fields["period"].positive() if "period" in fields else 1.0,
        thinned=_thinned(fields["thinned"], takes) if "thinned" in fields else {},
        without=_without(fields["without"], takes, tasks) if "without" in fields else {},
        **placed,
    )


def _house(fields: dict[str, Value]) -> dict[str, Any]:
    rows = [row.fields(("name", "modality")) for row in fields["cameras"].items()]
    cameras = [(_camera_name(row["name"]), _camera_modality(row["modality"])) for row in rows]
    _once(rows)
    modalities = fields["modalities"].texts() if "modalities" in fields else {}
    for name, item in modalities.items():
        if require_known(item, MODALITIES, "modality") not in HOUSE_MODALITIES:
            which = "comes with its cameras" if name in CAMERA_MODALITIES else "has no files in the house layout"
            raise item.error(f"{name!r} {which}; list some of {', '.join(HOUSE_MODALITIES)}")
    return house_fields(cameras, modalities)


def _patterns(
    value: Value, fields: dict[str, Value], own: OwnTakes, takes: tuple[str, ...], tasks: Names[str]
) -> dict[str, Any]:
    for key in ("index", "annotation", "labels"):
        if key not in fields:
            raise value.error(f"the key {key!r} is missing; only layout: house goes without")
    keys = fields["frame_keys"].texts() if "frame_keys" in fields else {}
    for key, item in keys.items():
        if key in _RESERVED:
            raise item.error(f"{key!r} can be no frame key: patterns use it for something else; call it differently")
    folder = _folder(fields["folder"], own) if "folder" in fields else "{take}"
    if "{number}" in folder and (wrong := [take for take in takes if not _is_numbered(take, own)]):
        raise fields["folder"].error(f"take {wrong[0]!r} has no number of three digits before the ending of names")
    timepoint, take_files = {}, {}
    for name, (key, item) in (fields["files"].named() if "files" in fields else {}).items():
        require_known(key, TIMEPOINT_FILES, "modality with a file for each timepoint")
        numbered = name.startswith("masks")
        timepoint[name] = _of_take(item, (*_OF_TIMEPOINT, *keys, *(("number",) if numbered else ())))
        moments = [f"{{{field}}}" for field in (*_OF_TIMEPOINT, *keys) if field not in _OF_TAKE]
        if not any(field in timepoint[name] for field in moments) or (numbered and "{number}" not in timepoint[name]):
            told = f"{item.text()!r} is one file for several: it needs {' or '.join(moments)}"
            raise item.error(f"{told}{', and {number}' if numbered else ''}")
    for name, (key, item) in (fields["take_files"].named() if "take_files" in fields else {}).items():
        require_known(key, (*TAKE_FILES, *tasks), "file of a take nor a task")
        take_files[name] = _of_take(item, _OF_TAKE)
    return {
        "folder": folder,
        "folders": _folders(fields["folders"], takes) if "folders" in fields else {},
        "frame_keys": tuple(keys),
        "cameras": _cameras(fields["cameras"], tuple(keys)),
        "index": _candidates(fields["index"], _OF_TAKE),
        "annotation": _annotation(fields["annotation"]),
        "labels": require_known(fields["labels"], _LABELS, "reader of relation labels"),
        "files": timepoint,
        "take_files": take_files,
        "calibration": _candidates(fields["calibration"], (*_OF_TAKE, "camera")) if "calibration" in fields else (),
        "depth": _pattern(fields["depth"], (*_OF_TAKE, "camera", "frame")) if "depth" in fields else None,
    }


def _cameras(value: Value, keys: Names[str]) -> tuple[Camera, ...]:
    rows = [row.fields(("name", "modality", "frame", "picture"), ("masks",)) for row in value.items()]
    _once(rows)
    cameras = []
    for row in rows:
        frame = require_known(row["frame"], (*keys, "frame_id", "time"), "key of frame numbers (frame_keys)")
        picture = _of_take(row["picture"], (*_OF_TAKE, "camera", "pictures", frame))
        if f"{{{frame}}}" not in picture.split("/")[-1]:  # else all pictures of a take would have one mask
            told = f"{picture!r} has no {{{frame}}} in the name of the file, which masks and exports are called after"
            raise row["picture"].error(told)
        masks = _of_take(row["masks"], (*_OF_TAKE, "camera")) if "masks" in row else None
        cameras.append(Camera(_camera_name(row["name"]), _camera_modality(row["modality"]), frame, picture, masks))
    return tuple(cameras)


def _once(rows: list[dict[str, Value]]) -> None:
    seen: dict[str, Value] = {}
    for row in rows:
        if (other := seen.setdefault(row["name"].text(), row["name"])) is not row["name"]:
            raise row["name"].error(f"there are two cameras {row['name'].text()!r}, the other in line {other.line}")


def _camera_modality(value: Value) -> str:
    return require_known(value, CAMERA_MODALITIES, "modality of cameras")


def _slots(value: Value, cameras: Names[str]) -> Slots:
    fields = value.fields(("training", "evaluation"), ("instead", "also"))
    names: dict[str, tuple[str, ...]] = {}
    for place in (_SLOTS[:1], _SLOTS[1:]):  # training shows the cameras of evaluation once more
        seen: dict[str, int] = {}
        for key in (key for key in place if key in fields):
            for item in fields[key].items():
                if require_known(item, cameras, "camera") in seen:
                    raise item.error(f"camera {item.text()!r} is in two slots, first in line {seen[item.text()]}")
                seen[item.text()] = item.line
            names[key] = tuple(item.text() for item in fields[key].items())
    return Slots(**names)


def _own(value: Value) -> OwnTakes:
    fields = value.fields(("names", "rule"), ("ending", "folders"))
    try:
        regex.compile(fields["names"].text())
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise fields["names"].error(f"is no regular expression ({error})") from error
    ending = _ending(fields["ending"]) if "ending" in fields else ""
    folders = fields["folders"].text() if "folders" in fields else ""
    return OwnTakes(fields["names"].text(), fields["rule"].text(), ending, folders)


def _takes(value: Value, own: OwnTakes) -> tuple[str, ...]:
    return tuple(_take_name(item, own) for item in value.texts().values())


def _take_name(value: Value, own: OwnTakes) -> str:
    name = _folder_name(value)
    try:
        allowed = own.allows(name)
    except UserError as error:
        raise value.error(str(error)) from error
    if not allowed or not name.endswith(own.ending):
        raise value.error(f"{name!r} can be no take: {own.rule}")
    return name


def _splits(value: Value, own: OwnTakes, takes: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """Split -> takes, which must be among `takes` if these are told."""
    splits, seen = {}, {}
    for split, (key, listed) in value.named().items():
        if re.fullmatch(r"\w+", split) is None or split == "own":
            raise key.error(f"{split!r} can be no split: letters, digits and '_' only, and not 'own'")
        for name, item in listed.texts().items():
            _take_name(item, own)
            if takes is not None:
                require_known(item, takes, "take of this dataset")
            if split in SEPARATED_SPLITS:
                if name in seen:
                    raise item.error(f"take {name!r} is in {split} and in {seen[name]}; it can be in one of them")
                seen[name] = split
        splits[split] = tuple(listed.texts())
    return splits


def _takes_of(splits: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({name for names in splits.values() for name in names}))


def _thinned(value: Value, takes: Names[str]) -> dict[str, int]:
    return {require_known(key, takes, "take of this dataset"): step.whole(1, 999) for key, step in value.entries()}


def _without(value: Value, takes: Names[str], tasks: Names[str]) -> dict[str, tuple[str, ...]]:
    return {
        require_known(key, tasks, "task"): tuple(
            require_known(t, takes, "take of this dataset") for t in listed.items()
        )
        for key, listed in value.entries()
    }


# Names and patterns.


def _folders(value: Value, takes: Names[str]) -> dict[str, str]:
    return {require_known(key, takes, "take of this dataset"): _folder_name(name) for key, name in value.entries()}


def _folder_name(value: Value) -> str:
    if re.fullmatch(FOLDER_NAME, value.text()) is None:
        raise value.error(f"{value.text()!r} can be no name: letters, digits, '_', '-' and '.' only")
    return value.text()


def _camera_name(value: Value) -> str:
    if re.fullmatch(r"\w+", value.text()) is None:
        raise value.error(f"{value.text()!r} can be no name of a camera: letters, digits and '_' only")
    if re.search(r"_part\d+$", value.text()):
        raise value.error(f"{value.text()!r} can be no name of a camera: long videos are cut into parts named like it")
    return value.text()


def _ending(value: Value) -> str:
    if re.fullmatch(r"[\w\-]*", value.text()) is None:
        raise value.error(f"{value.text()!r} can end no name: letters, digits, '_' and '-' only")
    return value.text()


def _folder(value: Value, own: OwnTakes) -> str:
    pattern = _pattern(value, ("take", "number"))
    if (pattern.count("{take}"), pattern.count("{number}")) not in ((1, 0), (0, 1)):
        raise value.error("the folder of a take needs {take} or {number}, once")
    return pattern


def _is_numbered(take: str, own: OwnTakes) -> bool:
    return re.fullmatch(r"[0-9]{3}", take.removesuffix(own.ending)) is not None


def _annotation(value: Value) -> tuple[str, ...]:
    for item in value.texts().values():
        *folders, name = _of_take(item, (*_OF_TAKE, "frame_id")).split("/")
        if name != "{frame_id}.json" or any("{frame_id}" in folder for folder in folders):
            raise item.error(f"{item.text()!r} must be a folder and /{{frame_id}}.json, as label files are called")
    return _candidates(value, (*_OF_TAKE, "frame_id"))


def _candidates(value: Value, known: Names[str]) -> tuple[str, ...]:
    found = tuple(_pattern(item, known) for item in value.texts().values())
    if not found:
        raise value.error("needs at least one pattern")
    return found


def _of_take(value: Value, known: Names[str]) -> str:
    """A pattern of what each take has for itself."""
    pattern = _pattern(value, known)
    if not any(f"{{{field}}}" in pattern for field in _OF_TAKE):
        raise value.error(f"{pattern!r} is the same for all takes: it needs {{folder}} or {{take}}")
    return pattern


def _pattern(value: Value, known: Names[str]) -> str:
    """A pattern of paths below the dataset's folder, with these fields and no others."""
    pattern = value.text()
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise value.error(f"{pattern!r} is no pattern ({error})") from error
    for _, field, form, conversion in parts:
        if field is not None and (field not in known or form or conversion):
            names = ", ".join(f"{{{name}}}" for name in known)
            raise value.error(f"{pattern!r} has the unknown field {{{field}}}{near(field, known)}; known are {names}")
    if any(mark in pattern for mark in ("{{", "}}", "\\", "\0")) or {"", ".", ".."} & set(pattern.split("/")):
        raise value.error(f"{pattern!r} must be a path below the dataset's folder, its parts divided by '/'")
    return pattern
