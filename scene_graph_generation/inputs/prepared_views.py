"""Views that were prepared once and are looked up from then on: of each take one array on disk, mapped into memory.

They lie in the folder of a dataset, in `.prepared_views/336px_v1/<folder of the take>/<take>`: `views.npy` has a row
for each picture; `pictures.npy` tells of which one, the state of its file before it was read, and a sum of the row.
`preprocess/view_files.py` writes them.
"""

from __future__ import annotations

import os
import tokenize
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from zlib import crc32

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files import picture_files
from operating_room.files.array_files import header_lock
from operating_room.recordings.folders import list_names
from operating_room.scores.fingerprints import stamp

FOLDER = ".prepared_views"
FORM = 1  # of the files, and of what `prepare_view` makes: another one when either changes
VIEWS, PICTURES = "views.npy", "pictures.npy"
OPEN_TAKES = 64  # whose arrays a process has mapped at a time, two file handles each
_ERRORS = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)

View = UInt8[Tensor, "3 size size"]


def take_folder(root: Path, take: Take, size: int, pictures: Iterable[str]) -> Path:
    """Where the views of a take are.

    Args:
        root: the folder of its dataset.
        take: whose.
        size: of views, px.
        pictures: names of its pictures below `root`: in the folder of the take, or anywhere.
    """
    inside = all(PurePath(name).is_relative_to(take.folder) for name in pictures)
    return _place(root, size) / (take.folder if inside else "") / take.name


def bytes_of(views: int, size: int) -> int:
    """How much so many views take on disk."""
    return views * 3 * size * size


class PreparedViews:
    """Finds the prepared views of pictures, wherever their dataset is.

    Args:
        size: of views, px.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._places: dict[Path, tuple[Path, list[Path]]] = {}

    def find(self, picture: Path) -> View | None:
        """The view of a picture; None if it was never prepared.

        Raises:
            UserError: the picture has changed since, or the prepared views are damaged.
        """
        if picture.parent not in self._places:
            self._places[picture.parent] = _places(picture.parent, self._size)
        root, folders = self._places[picture.parent]
        for folder in folders:
            prepared = open_views(folder, self._size)
            view = None if prepared is None else prepared.find(picture.relative_to(root), picture)
            if view is not None:
                return view
        return None


@dataclass(frozen=True)
class TakeViews:
    """The prepared views of a take."""

    folder: Path
    pictures: np.ndarray  # in the order of their names; see `row_type`
    views: UInt8[np.ndarray, "rows 3 size size"]

    def names(self) -> list[str]:
        """Of the pictures, below the folder of the dataset, in order."""
        return [os.fsdecode(name) for name in self.pictures["name"]]

    def find(self, name: Path, picture: Path) -> View | None:
        """The view of a picture; None if it is not among them, or not yet."""
        names, wanted = self.pictures["name"], os.fsencode(name.as_posix())
        at = bisect_left(names, wanted)
        if at == len(names) or names[at] != wanted or not self.pictures[at]["stamp"]:
            return None
        told = self.pictures[at]
        if told["stamp"].decode("ascii", "replace") != state_of(picture):
            raise UserError(
                f"{picture}: has changed since its view was prepared, or is read otherwise; run `mmor scene-graph "
                f"preprocess views` again or remove {self.folder}"
            )
        if not 0 <= told["row"] < len(self.views):
            raise _damaged(self.folder / PICTURES, f"names row {told['row']} of {len(self.views)}")
        view = np.array(self.views[told["row"]])
        if crc32(view.data) != told["sum"]:
            raise _damaged(self.folder / VIEWS, f"the view of {name} is not what was written")
        return torch.from_numpy(view)


def open_views(folder: Path, size: int) -> TakeViews | None:
    """The prepared views in a folder; None if there are none.

    Raises:
        UserError: they are damaged.
    """
    try:
        pictures = (folder / PICTURES).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(folder / PICTURES, error.strerror) from error
    try:
        views = (folder / VIEWS).stat()
    except OSError as error:
        raise _damaged(folder / VIEWS, error.strerror) from error
    state = (pictures.st_ino, pictures.st_mtime_ns, pictures.st_size, views.st_ino, views.st_size)
    return _open(folder, size, state)


def _place(root: Path, size: int) -> Path:
    return root / FOLDER / f"{size}px_v{FORM}"


def _places(folder: Path, size: int) -> tuple[Path, list[Path]]:
    """The folder of the dataset that the pictures of a folder are of, and where their views may be.

    The first folder above that has prepared views is that of the dataset. Of which take the pictures are need not be
    known: several may share a folder.
    """
    for root in folder.parents:
        place = _place(root, size)
        if place.is_dir():
            above = [place / path.relative_to(root) for path in (folder, *folder.parents) if path.is_relative_to(root)]
            takes = [at / name for at in above for name in sorted(list_names(at))]
            return root, [take for take in takes if (take / PICTURES).is_file()]
    return folder, []


def state_of(picture: Path) -> str:
    """What the view of a picture follows from: the state of its file, and how it is read.

    Raises:
        UserError: there is no such file.
    """
    return f"{stamp(picture)} {picture_files.READING}"


def row_type(length: int) -> np.dtype:
    """What is told of a picture whose name has up to so many bytes."""
    return np.dtype([("name", f"S{length}"), ("stamp", "S48"), ("row", "<i4"), ("sum", "<u4")])


@lru_cache(maxsize=OPEN_TAKES)
def _open(folder: Path, size: int, state: tuple[int, ...]) -> TakeViews:
    pictures, views = folder / PICTURES, folder / VIEWS
    told = map_file(pictures)
    fields = told.dtype.fields or {}
    if told.ndim != 1 or "name" not in fields or told.dtype != row_type(fields["name"][0].itemsize):
        raise _damaged(pictures, f"holds {told.dtype} {list(told.shape)}")
    rows = map_file(views)
    if rows.dtype != np.uint8 or rows.shape != (len(told), 3, size, size):
        raise _damaged(views, f"holds {rows.dtype} {list(rows.shape)} for {len(told)} pictures")
    return TakeViews(folder, told, rows)


def map_file(path: Path) -> np.ndarray:
    """An array on disk.

    Raises:
        UserError: it is damaged.
    """
    try:
        with header_lock:
            return np.lib.format.open_memmap(path, mode="r")
    except _ERRORS as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _damaged(path: Path, reason: str | None) -> UserError:
    told = f"{path}: these prepared views are damaged ({reason})"
    return UserError(f"{told}; remove {path.parent} and run `mmor scene-graph preprocess views` again")
