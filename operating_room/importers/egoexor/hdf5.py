"""HDF5 as strangers write it: opened with a reason when that fails, never followed out of the file, read in blocks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operating_room.errors import UserError, one_line

if TYPE_CHECKING:
    import h5py

READ_BYTES = 32_000_000  # that one read takes at most, unless a single chunk of the file is larger
_MAX_ROW_BYTES = 1 << 27  # a file of some kB may state rows of gigabytes, none of which it holds
_MAX_CHUNK_BYTES = 1 << 30  # likewise of its chunks, which HDF5 unpacks whole; recorded ones have up to 542 MB
_AGAIN = "download it again"
_POINTER = b"version https://git-lfs"  # what a clone without Git LFS has in the place of a file
_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, MemoryError)  # of h5py on damage


class BadRecording(UserError):
    """Something in the file of a recording is wrong: it costs that file or take, not the import of others."""


@contextmanager
def open_hdf5(path: Path) -> Generator[h5py.File]:
    """Open a file for reading.

    Raises:
        UserError: h5py is not installed.
        BadRecording: there is no such file, it is no HDF5, or cut off; or a read inside fails.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError('HDF5 files need the package h5py; pip install "mmor[egoexor]"') from error
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
        if beginning == _POINTER:
            raise BadRecording(f"{path}: is a pointer of Git LFS, not the file itself; {_AGAIN} with git lfs pull")
        if not h5py.is_hdf5(path):
            raise BadRecording(f"{path}: is no HDF5 file; {_AGAIN}")
        # Without a lock: shared disks often have none, and nobody writes to a file that was published.
        opened = h5py.File(path, "r", locking=False)
    except OSError as error:
        if "truncated" in str(error):
            raise BadRecording(f"{path}: is cut off; {_AGAIN}") from error
        raise BadRecording(f"{path}: cannot be opened ({_brief(error)}); {_AGAIN}") from error
    with opened as file:
        yield file


def member(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """What lies below a group under a path; None if nothing does.

    Raises:
        BadRecording: a part of it is a link to elsewhere, or its values lie outside the file.
    """
    import h5py
    from h5py import h5l

    item: Any = group
    for name in path.split("/"):
        if not isinstance(item, h5py.Group):
            raise BadRecording(f"{where(item)}: is no group; {_AGAIN}")
        place = f"{where(item).rstrip('/')}/{one_line(name)}"
        with told(place):
            links, encoded = item.id.links, name.encode()
            if not links.exists(encoded):
                return None
            # A link by name may lead into any file of this machine: the files as published have none.
            if links.get_info(encoded).type != h5l.TYPE_HARD:
                raise BadRecording(f"{place}: is a link to another place, which is not followed; copy the data itself")
            item = item[name]
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise BadRecording(
                    f"{place}: keeps its values in other files, which are not read; copy the data itself"
                )
    return item


def group_at(group: h5py.Group, path: str) -> h5py.Group | None:
    """The group below another one; None if there is none.

    Raises:
        BadRecording: see `member`; or it is an array.
    """
    import h5py

    found = member(group, path)
    if found is not None and not isinstance(found, h5py.Group):
        raise BadRecording(f"{where(found)}: is no group; {_AGAIN}")
    return found


def dataset_at(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """The array below a group; None if there is none.

    Raises:
        BadRecording: see `member`; or it is a group.
    """
    import h5py

    found = member(group, path)
    if found is not None and not isinstance(found, h5py.Dataset):
        raise BadRecording(f"{where(found)}: is no array; {_AGAIN}")
    if found is not None:
        with told(where(found)):
            # Read here, where it is told if they are damaged.
            _, itemsize, chunk = found.shape, found.dtype.itemsize, found.chunks
        if (size := prod(chunk or ()) * itemsize) > _MAX_CHUNK_BYTES:
            raise BadRecording(f"{where(found)}: is stored in chunks of {size / 1e6:.0f} MB; {_AGAIN}")
    return found


def names(group: h5py.Group) -> list[str]:
    """Of all that lies in a group, in the order of numbers where they are numbers.

    Raises:
        BadRecording: it cannot be listed.
    """
    with told(where(group)):
        found = list(group)
    if odd := [name for name in found if not isinstance(name, str)]:  # h5py gives bytes that are no UTF-8 as such
        raise BadRecording(f"{where(group)}: has the name {str(odd[0])[:60]}, which is no text; {_AGAIN}")
    return sorted(found, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))


def block_length(dataset: h5py.Dataset) -> int:
    """How many rows to read at once: whole chunks of the file, since HDF5 unpacks no less, within READ_BYTES."""
    row = max(1, prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    chunk = dataset.chunks[0] if dataset.chunks else 1
    return chunk * max(1, READ_BYTES // (chunk * row))


def column_length(dataset: h5py.Dataset) -> int:
    """How many of the second axis to read at once: all, or those of a chunk where rows are larger than READ_BYTES."""
    if dataset.chunks and block_length(dataset) * prod(dataset.shape[1:]) * dataset.dtype.itemsize > READ_BYTES:
        return dataset.chunks[1]
    return max(1, dataset.shape[1])


def blocks(dataset: h5py.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """First row and values of one block of an array after the other.

    Raises:
        BadRecording: they are damaged, or a single row is larger than any that is recorded.
    """
    if (row := prod(dataset.shape[1:]) * dataset.dtype.itemsize) > _MAX_ROW_BYTES:
        raise BadRecording(f"{where(dataset)}: is {form(dataset)}: {row / 1e6:.0f} MB in one row; {_AGAIN}")
    step = block_length(dataset)
    for first in range(0, len(dataset), step):
        yield first, read(dataset, first, min(first + step, len(dataset)))


def read(dataset: h5py.Dataset, first: int, last: int, columns: slice = slice(None)) -> np.ndarray:
    """Rows `first` to before `last`; of these, only some of the second axis.

    Raises:
        BadRecording: they are damaged.
    """
    with told(where(dataset)):
        return np.asarray(dataset[first:last] if columns == slice(None) else dataset[first:last, columns])


def where(item: h5py.Group | h5py.Dataset) -> str:
    """File and path of something in it, as messages begin."""
    return one_line(f"{item.file.filename}:{item.name}")


def form(dataset: h5py.Dataset) -> str:
    """Axes and type of an array, for messages; one that is declared and empty (HDF5's null) has none."""
    return f"[{', '.join(map(str, dataset.shape or ()))}] of {one_line(str(dataset.dtype))[:60]}"


def text(value: Any) -> str | None:
    """A string as HDF5 stores it: text, bytes, or an array of one of them; None if it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return str(value) if isinstance(value, str) else None


@contextmanager
def told(place: str) -> Generator[None]:
    """What h5py raises on damaged files in one line that names the place.

    Raises:
        BadRecording: it did.
    """
    try:
        yield
    except UserError:
        raise
    except _ERRORS as error:
        raise BadRecording(f"{place}: cannot be read ({_brief(error)}); {_AGAIN}") from error


def _brief(error: BaseException) -> str:
    return one_line(" ".join(str(error).split()))[:200] or type(error).__name__
