"""What is in the folders of the datasets: names, takes, and folders that look like takes and are none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import yaml

from operating_room.domain.collection import SEPARATED_SPLITS, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.house import SPLITS_FILE
from operating_room.domain.reading.collections import read_splits
from operating_room.domain.stored import DOMAIN_FILE
from operating_room.errors import UserError
from operating_room.files.atomic import write_text

# In the folder of a take that an import or a simulation has begun and not finished.
IMPORT_NOTE, SIMULATION_NOTE = ".import.json", ".synthetic.json"
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "@eadir", "__macosx"}  # what who looks at a folder of pictures leaves in it
_UNFINISHED = {
    IMPORT_NOTE: "its import is not finished; give the same `mmor data import` again",
    SIMULATION_NOTE: "its simulation is not finished; give the same `mmor data synthesize` again",
}


def list_names(folder: Path) -> frozenset[str]:
    """The names in a folder, none if there is no such folder.

    Hidden names are no data: macOS leaves `._name` beside each copied file and `.DS_Store` in each folder, and a
    program that was killed leaves temporary files. Windows and network disks leave some that are not hidden.

    Raises:
        UserError: the folder may not be read, or is or lies below a link that leads nowhere.
    """
    try:
        names = os.listdir(folder)
        return frozenset(name for name in names if not name.startswith(".") and name.lower() not in _OF_SYSTEMS)
    except NotADirectoryError:
        return frozenset()
    except FileNotFoundError as error:
        for path in (folder, *folder.parents):
            _refuse_lost_link(path, error)
        return frozenset()
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check permissions") from error


def with_splits(domain: Domain, roots: Mapping[str, Path]) -> Domain:
    """The domain with the splits that stand in the folders of datasets in the house layout, if it names none itself.

    Raises:
        UserError: something in one of these files is wrong.
    """
    collections = []
    for collection in domain.collections:
        # Those that the domain names itself count.
        if collection.layout == "house" and not collection.splits and collection.name in roots:
            path = roots[collection.name] / SPLITS_FILE
            if path.exists() or path.is_symlink():
                collection = read_splits(path, collection)
            else:
                refuse_other_name(path)
        collections.append(collection)
    return domain if tuple(collections) == domain.collections else replace(domain, collections=tuple(collections))


def _other_name(path: Path) -> str | None:
    """What a YAML file is called that is meant to be this one: Windows hides endings, and adds .txt to some."""
    meant = {f"{path.stem}{ending}".lower() for ending in (".yaml", ".yml", ".yaml.txt", ".yml.txt")}
    return next((name for name in sorted(list_names(path.parent)) if name.lower() in meant and name != path.name), None)


def refuse_other_name(path: Path) -> None:
    """Of a YAML file that is not there.

    Raises:
        UserError: one is that is meant to be it.
    """
    if (name := _other_name(path)) is not None:
        raise UserError(f"{path.with_name(name)}: is read by nothing under this name; rename it to {path.name}")


def house_splits(root: Path, collection: Collection) -> dict[str, list[str]]:
    """The splits of a dataset in the house layout, to be added to: train, val and test, and what else people have.

    Raises:
        UserError: something in their file is wrong.
    """
    path = root / SPLITS_FILE
    known = read_splits(path, collection).splits if path.exists() or path.is_symlink() else collection.splits
    return {name: [] for name in SEPARATED_SPLITS} | {name: list(takes) for name, takes in known.items()}


def write_house_splits(root: Path, collection: Collection, splits: Mapping[str, Sequence[str]]) -> None:
    """Write splits beside the takes, unless they are what stands there; a file of people stays byte for byte.

    Raises:
        UserError: it cannot be written.
    """
    path = root / SPLITS_FILE
    if splits != house_splits(root, collection) or not path.exists():
        write_text(path, yaml.safe_dump(splits, sort_keys=False, allow_unicode=True))


def takes_of_root(root: Path, dataset: str, domain: Domain) -> list[Take]:
    """The takes in the folder of one dataset, the published ones first: each has an index, or cannot be looked into.

    A take whose folder may not be read is on disk: whoever uses it is told, and nobody takes it for absent.
    """
    collection = domain.collection(dataset)
    takes = [*collection.published, *_own_takes(root, collection, domain)]
    return [take for take in takes if _may_have_index(root, collection, take)]


def folders_of_no_take(root: Path, dataset: str, domain: Domain) -> dict[Path, str]:
    """Folders that hold a take by the look of it, and why it is used by nothing."""
    collection = domain.collection(dataset)
    known = {take.folder for take in collection.published}
    found = {}
    for place in _places(root, collection):
        folder, own = root / place, domain.own_take(collection, place)
        try:
            inside = list_names(folder)
        except UserError as error:
            if place in known or own is None:
                continue  # it counts as a take, or nobody knows what it is
            found[folder] = str(error).removeprefix(f"{folder}: ")
            continue
        has_index = any(_has_form(name, index) for name in inside for index in collection.index)
        signs = _signs(collection)
        if not (has_index or _unfinished(folder) or any(_has_form(name, sign) for name in inside for sign in signs)):
            continue
        shared = collection.take(own.name).folder if own is not None and own.name in collection.takes else place
        if shared != place:
            found[folder] = f"is not read, the files of this take are looked for in {shared}; move them there"
        elif place not in known and own is None:
            rule = collection.own.folders or collection.own.rule
            found[folder] = f"is not read because of its name: {rule}; rename it"
        elif not has_index:
            name = PurePath(collection.index[-1]).name
            other = _other_name(folder / name) if name.endswith(".yaml") else None
            advice = "copy the index there" if other is None else f"{other} is there, rename it"
            found[folder] = _unfinished(folder) or f"has no {name}, so it is no take; {advice}"
    return found


def holds_labels(folder: Path, collection: Collection) -> bool:
    """Whether there are raw relation labels in the folder of a take, or nobody can say."""
    forms = [PurePath(pattern).parent.name for pattern in collection.annotation]
    try:
        return any(_has_form(name, form) for name in list_names(folder) for form in forms)
    except UserError:
        return True


def find_roots(root: Path, domain: Domain) -> dict[str, Path]:
    """The folder of each dataset that is there, in their order.

    Args:
        root: the folder that holds those of the datasets, or one of these folders itself.
        domain: which datasets there may be.

    Raises:
        UserError: there is none.
    """
    if not root.is_dir():
        names = " and/or ".join(collection.root for collection in domain.collections)
        raise UserError(f"{root}: no such folder; give the folder that holds {names}")
    roots = {collection.name: root / collection.root for collection in domain.collections}
    for path in roots.values():
        _refuse_lost_link(path)
    roots = {dataset: path for dataset, path in roots.items() if path.is_dir()}
    if roots:
        return roots
    root = root.resolve() if root.name in ("", "..") else root
    for collection in domain.collections:
        if root.name == collection.root or _holds_takes(root, collection):
            return {collection.name: root}
    nothing = [collection.root for collection in domain.collections]
    if begun := next(filter(_unfinished, sorted(root.glob("takes/*"))), None):  # its domain is written at the end
        raise UserError(f"{begun}: {_unfinished(begun)}")
    if not (root / DOMAIN_FILE).exists() and any(root.glob("takes/*/take.yaml")):
        raise UserError(
            f"{root}: holds takes in the house layout but no {DOMAIN_FILE}; copy it there, or give it as --domain"
        )
    names = f"neither {' nor '.join(nothing)}" if len(nothing) > 1 else f"no {nothing[0]}"
    raise UserError(f"{root}: holds {names}; put or link them there, or give another folder")


def _unfinished(folder: Path) -> str | None:
    """What to do about a take that whoever writes it has not finished; None if nobody does."""
    return next((told for note, told in _UNFINISHED.items() if os.path.lexists(folder / note)), None)


def _holds_takes(root: Path, collection: Collection) -> bool:
    if collection.layout == "house":
        return root.joinpath(collection.folder).parent.is_dir()
    return any((root / take.folder).is_dir() for take in collection.published)


def _refuse_lost_link(path: Path, cause: OSError | None = None) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(
            f"{path}: is a link to {os.readlink(path)}, which is not there; mount or link it again"
        ) from cause


def _places(root: Path, collection: Collection) -> Iterator[str]:
    """The folders that may be those of takes, below the dataset's folder."""
    parts = collection.folder.split("/")
    place = next(number for number, part in enumerate(parts) if "{" in part)
    for name in sorted(list_names(root.joinpath(*parts[:place]))):
        yield "/".join((*parts[:place], name, *parts[place + 1 :]))


def _own_takes(root: Path, collection: Collection, domain: Domain) -> Iterator[Take]:
    known = {take.folder for take in collection.published}
    for place in _places(root, collection):
        take = None if place in known else domain.own_take(collection, place)
        if take is not None and take.name not in collection.takes:
            yield take


def _may_have_index(root: Path, collection: Collection, take: Take) -> bool:
    paths = [root / path for path in collection.index_files(take)]
    try:
        return any(path.name in list_names(path.parent) for path in paths)
    except UserError:
        return True


def _has_form(name: str, pattern: str) -> bool:
    """Whether a name is of the form of the last part of a pattern, whatever stands for its fields."""
    first, *rest = PurePath(pattern).name.split("{")
    return name.startswith(first) and name.endswith(rest[-1].rpartition("}")[2]) if rest else name == first


def _signs(collection: Collection) -> set[str]:
    """The forms of folders in the folder of a take that hold its pictures, clouds and labels."""
    patterns = [camera.picture for camera in collection.cameras] + [*collection.annotation, *collection.files.values()]
    inside = [
        pattern.removeprefix(f"{before}/").split("/")[0]
        for pattern in patterns
        for before in ("{folder}", collection.folder)
        if pattern.startswith(f"{before}/")
    ]
    return {name for name in inside if not name.startswith("{")}
