"""What is in the folders of the two datasets: names, takes, and folders that look like takes and are none."""

from __future__ import annotations

import os
import re
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.domain.takes import (
    DATASETS,
    FOURDOR,
    FOURDOR_TAKES,
    MMOR,
    MMOR_TAKES,
    NAME_RULE,
    TAKES,
    Take,
    is_own_name,
)
from operating_room.errors import UserError
from operating_room.recordings import layout

_FOURDOR_FOLDER = re.compile(r"export_holistic_take([1-9][0-9]{0,2})_processed")
_SIGNS_OF_A_TAKE = ("colorimage", "simstation", "pcds_sparse")  # besides its index and labels


def list_names(folder: Path) -> frozenset[str]:
    """The names in a folder, none if there is no such folder.

    Hidden names are no data: macOS leaves `._name` beside each copied file and `.DS_Store` in each folder, and a
    program that was killed leaves temporary files.

    Raises:
        UserError: the folder may not be read, or is or lies below a link that leads nowhere.
    """
    try:
        return frozenset(name for name in os.listdir(folder) if not name.startswith("."))
    except NotADirectoryError:
        return frozenset()
    except FileNotFoundError as error:
        for path in (folder, *folder.parents):
            _refuse_lost_link(path, error)
        return frozenset()
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check permissions") from error


def takes_of_root(root: Path, dataset: str) -> list[Take]:
    """The takes in the folder of one dataset, the published ones first: each has an index, or cannot be looked into.

    Own takes have a folder of their name in MM-OR, and one of their number in 4D-OR. A take whose folder may not be
    read is on disk: whoever uses it is told, and nobody takes it for absent.
    """
    published = [take for take in TAKES if take.dataset == dataset]
    names = sorted(list_names(root) - _published_names(dataset))
    own = [take for name in names if (take := _own_take(name, dataset)) is not None]
    return [take for take in published + own if _may_have_index(root, take)]


def folders_of_no_take(root: Path, dataset: str) -> dict[Path, str]:
    """Folders that hold a take by the look of it, and why it is used by nothing."""
    known = {take.folder for take in TAKES if take.dataset == dataset}
    found = {}
    for name in sorted(list_names(root)):
        folder = root / name
        try:
            inside = list_names(folder)
        except UserError as error:
            if name in known or _own_take(name, dataset) is None:
                continue  # it counts as a take, or nobody knows what it is
            found[folder] = str(error).removeprefix(f"{folder}: ")
            continue
        has_index = any(entry.startswith(layout.INDEX_STEM) and entry.endswith(".json") for entry in inside)
        if not has_index and not any(e in _SIGNS_OF_A_TAKE or e.startswith("relation_labels") for e in inside):
            continue
        shared = next((take.folder for take in TAKES if take.dataset == dataset and take.name == name), name)
        if shared != name:
            found[folder] = f"is not read, the files of this take are looked for in {shared}; move them there"
        elif name not in known and _own_take(name, dataset) is None:
            found[folder] = f"is not read because of its name: {_rule(dataset)}; rename it"
        elif not has_index:
            found[folder] = f"has no {layout.INDEX_STEM}.json, so it is no take; copy the index there"
    return found


def find_roots(root: Path) -> dict[str, Path]:
    """The folder of each dataset that is there, 4D-OR first.

    Args:
        root: the folder that holds MM-OR_data and/or 4D-OR_data, or one of these folders itself.

    Raises:
        UserError: there is none.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; give the folder that holds {' and/or '.join(layout.ROOT_NAMES.values())}"
        )
    roots = {dataset: root / layout.ROOT_NAMES[dataset] for dataset in DATASETS}
    for path in roots.values():
        _refuse_lost_link(path)
    roots = {dataset: path for dataset, path in roots.items() if path.is_dir()}
    if roots:
        return roots
    root = root.resolve() if root.name in ("", "..") else root
    for dataset, takes in ((MMOR, MMOR_TAKES), (FOURDOR, FOURDOR_TAKES)):
        if root.name == layout.ROOT_NAMES[dataset] or any((root / take.folder).is_dir() for take in takes):
            return {dataset: root}
    names = " nor ".join(layout.ROOT_NAMES.values())
    raise UserError(f"{root}: holds neither {names}; put or link them there, or give another folder")


def _refuse_lost_link(path: Path, cause: OSError | None = None) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(
            f"{path}: is a link to {os.readlink(path)}, which is not there; mount or link it again"
        ) from cause


def _published_names(dataset: str) -> frozenset[str]:
    return frozenset(name for take in TAKES if take.dataset == dataset for name in (take.folder, take.name))


def _own_take(name: str, dataset: str) -> Take | None:
    """The take that a folder of this name holds, if it may be one of the user's own."""
    if dataset == MMOR:
        return mmor().collection(MMOR).take(name) if is_own_name(name) and name not in layout.folders_beside() else None
    number = _FOURDOR_FOLDER.fullmatch(name)
    return None if number is None else mmor().collection(FOURDOR).take(f"{int(number[1]):03d}_{FOURDOR}")


def _may_have_index(root: Path, take: Take) -> bool:
    try:
        inside = list_names(layout.take_folder(root, take))
    except UserError:
        return True
    return any(path.name in inside for path in layout.index_files(root, take))


def _rule(dataset: str) -> str:
    return NAME_RULE if dataset == MMOR else "folders of 4D-OR are export_holistic_take<number up to 999>_processed"
