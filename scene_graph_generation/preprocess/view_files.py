"""Writes the prepared views of a take, see `inputs/prepared_views.py`.

A view is written first and told of afterwards, so that a run may be killed at any time.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import UInt8

from operating_room.errors import UserError
from operating_room.files.atomic import clear_left, temporary_path, write_bytes
from scene_graph_generation.inputs.prepared_views import (
    PICTURES,
    VIEWS,
    TakeViews,
    View,
    bytes_of,
    map_file,
    open_views,
    row_type,
    state_of,
)

CHUNK = 64  # views, after which they are told of: what a killed run loses at most


def write_views(
    folder: Path, size: int, pictures: Mapping[str, Path], prepare: Callable[[Path], View]
) -> Iterator[Path]:
    """Prepare the views of a take that are missing or of pictures that have changed; yields the pictures.

    Args:
        folder: see `take_folder`.
        size: of the views, px.
        pictures: the take's pictures by their names below the folder of the dataset, in the order of their use.
        prepare: makes the view of a picture.

    Raises:
        UserError: a picture is missing or damaged, the disk is full or cannot be written, or what is there is damaged.
    """
    todo = outdated(folder, size, pictures)
    if not todo:
        return
    if not _can_go_on(folder, open_views(folder, size), pictures):
        _begin(folder, size, pictures)
        todo = list(pictures)
    told = np.array(map_file(folder / PICTURES))
    at = {os.fsdecode(row["name"]): place for place, row in enumerate(told)}
    for name in todo:
        told[at[name]]["stamp"] = b""
    path = folder / VIEWS
    start = path.stat().st_size - bytes_of(len(told), size)
    _tell(folder, told)
    try:
        with path.open("r+b", buffering=0) as file:
            for number, name in enumerate(todo, 1):
                row, picture = told[at[name]], pictures[name]
                now = state_of(picture)  # before it is read: what changes meanwhile is seen later
                view = np.ascontiguousarray(prepare(picture).numpy())
                file.seek(start + bytes_of(int(row["row"]), size))
                _write(file, view)
                row["stamp"], row["sum"] = now.encode(), crc32(view.data)
                if number % CHUNK == 0:
                    _tell(folder, told)
                yield picture
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:  # also of a run that is stopped, or finds a bad picture: what was prepared need not be prepared again
        _tell(folder, told)


def outdated(folder: Path, size: int, pictures: Mapping[str, Path]) -> list[str]:
    """Names of the pictures that are still to be prepared, or again.

    Raises:
        UserError: a picture is missing, or the prepared views are damaged.
    """
    known = open_views(folder, size)
    if known is None or set(known.names()) != pictures.keys():
        return list(pictures)
    told = {name: row["stamp"].decode("ascii", "replace") for name, row in zip(known.names(), known.pictures)}
    return [name for name, picture in pictures.items() if told[name] != state_of(picture)]


def _can_go_on(folder: Path, known: TakeViews | None, pictures: Mapping[str, Path]) -> bool:
    """Whether it has rows for these pictures and may be written; if not, it makes room for another folder."""
    links = any((folder / name).is_symlink() for name in (VIEWS, PICTURES))  # into a dataset that is only read
    if known is not None and not links and set(known.names()) == pictures.keys():
        return True
    if known is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return False


def _begin(folder: Path, size: int, pictures: Mapping[str, Path]) -> None:
    """Put a folder with room for all views and none of them in its place."""
    names = sorted((os.fsencode(name), row) for row, name in enumerate(pictures))
    told = np.zeros(len(names), row_type(max(len(name) for name, _ in names)))
    told["name"], told["row"] = [name for name, _ in names], [row for _, row in names]
    new = temporary_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_left(folder.parent)
        new.mkdir()
        with (new / VIEWS).open("wb") as file:
            form = {"descr": "|u1", "fortran_order": False, "shape": (len(told), 3, size, size)}
            np.lib.format.write_array_header_1_0(file, form)
            file.truncate(file.tell() + bytes_of(len(told), size))
        _tell(new, told)
        os.rename(new, folder)
    except OSError as error:
        if not (folder / PICTURES).exists():  # else another run was faster
            raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _tell(folder: Path, told: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, told)
    write_bytes(folder / PICTURES, buffer.getvalue())


def _write(file: io.FileIO, view: UInt8[np.ndarray, "3 size size"]) -> None:
    """All of it: a nearly full disk takes a part and refuses the rest."""
    rest = view.data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror}); check free space and permissions")
