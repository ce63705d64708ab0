"""Arrays of numbers: gaze and hand points (.npy), the arrays of a point cloud (.npz). Nothing is ever unpickled."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float32

from operating_room.errors import UserError
from operating_room.files.raw_files import again, brief, read_bytes

GAZE_COLUMNS = 4  # number of the camera, x px, y px, depth m
HAND_COLUMNS = 17  # number of the camera, x px and y px of eight points
NO_GAZE = -1.0  # px, x and y where the eyes were not found
_MAX_ROWS = 1000  # of people at once
_MAX_VALUES = 1 << 24  # of an array
_MAX_NPZ_BYTES = 1 << 28  # of its arrays together, unpacked
# NumPy reads headers with Python's parser of literals, whose depth all threads of Python 3.11 count in one place: now
# and then it says SystemError of a sound file where two are at it.
header_lock = Lock()
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ERRORS = (
    *(ValueError, TypeError, EOFError, OSError, KeyError, MemoryError, SyntaxError, OverflowError, RecursionError),
    *(tokenize.TokenError, zlib.error, zipfile.BadZipFile, RuntimeError),  # RuntimeError: encrypted
)


def read_gaze(path: Path) -> Float32[np.ndarray, "rows 4"]:
    """Where people look: number of the camera, x px, y px in its picture, depth in m; (-1, -1) was not found.

    Raises:
        UserError: the file is missing or damaged, of another type or shape, or holds what is no number.
    """
    gaze = _rows(path, GAZE_COLUMNS)
    if not np.isfinite(gaze).all():
        raise UserError(f"{path}: gaze holds what is no number (NaN or infinity); {again(path)}")
    return gaze


def read_hands(path: Path) -> Float32[np.ndarray, "rows 17"]:
    """Points of hands: number of the camera, then x px, y px of eight points; NaN was not found.

    Left wrist, left palm, right wrist, right palm, then the tips of their surface normals in this order.

    Raises:
        UserError: the file is missing or damaged, of another type or shape, or holds infinity.
    """
    hands = _rows(path, HAND_COLUMNS)
    if np.isinf(hands).any():
        raise UserError(f"{path}: hand points hold infinity; {again(path)}")
    return hands


def read_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of these names in an .npz file.

    Raises:
        UserError: the file is missing or damaged, lacks one of them, or would be too large when unpacked.
    """
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if lacking := [name for name in names if f"{name}.npy" not in sizes]:
                raise UserError(f"{path}: has no array {lacking[0]!r}, only {', '.join(sizes) or 'nothing'}")
            # Of what numpy does not write, LZMA and bzip2 are unpacked in pieces of any size.
            if odd := [entry.filename for entry in archive.infolist() if entry.compress_type not in _PACKED]:
                raise UserError(f"{path}: {odd[0]!r} is packed in another way than numpy does; write it with np.savez")
            if sum(sizes.values()) > _MAX_NPZ_BYTES:
                raise UserError(f"{path}: unpacks to {sum(sizes.values())} bytes; thin it out or leave it out")
            return [_array(_unpacked(archive, f"{name}.npy")) for name in names]
    except _ERRORS as error:
        raise UserError(f"{path}: is no readable .npz file ({brief(error)}); {again(path)}") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry, no more than it says it has: that may be wrong, and the rest be gigabytes."""
    with archive.open(name) as file:
        return file.read(archive.getinfo(name).file_size + 1)


def _rows(path: Path, columns: int) -> Float32[np.ndarray, "rows columns"]:
    data = read_bytes(path)
    try:
        array = _array(data)
    except _ERRORS as error:
        raise UserError(f"{path}: is no readable .npy file ({brief(error)}); {again(path)}") from error
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != columns or len(array) > _MAX_ROWS:
        shown = f"{array.dtype} {list(array.shape)}"
        raise UserError(f"{path}: holds {shown}, expected float32 [rows, {columns}]; write it so")
    for number in array[np.isfinite(array[:, 0]), 0].tolist():
        if not number.is_integer():
            raise UserError(f"{path}: has the camera number {number:g}, which is no whole one; {again(path)}")
    return array


def _array(data: bytes) -> np.ndarray:
    """An array from the bytes of an .npy file; its header is believed only as far as the bytes behind it reach."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with header_lock:
        shape, _, dtype = header(file)
    count = int(np.prod([int(length) for length in shape], dtype=object)) if shape else 1
    if dtype.hasobject or count > _MAX_VALUES or count * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{dtype} {list(shape)} in {len(data)} bytes")
    with header_lock:
        return np.load(io.BytesIO(data), allow_pickle=False)
