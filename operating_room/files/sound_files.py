"""Sound files: mp3 and whatever else libsndfile knows."""

from __future__ import annotations

import ctypes
import io
import os
import platform
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32

from operating_room.errors import UserError
from operating_room.files.raw_files import again, brief, read_bytes
from operating_room.work.processes import free_memory

if TYPE_CHECKING:
    from soundfile import SoundFile

_MP3_FRAME = 1152  # samples; encoders disagree by less than a frame on how long a recording is
_UNKNOWN = 0xFFFF_FFFF  # the size in a .wav of who did not know yet how long it would be
# Other forms, by how they begin: place and bytes of the size in their header, its order, and what is not counted in it.
_SIZES: dict[bytes, tuple[int, int, Literal["big", "little"], int]] = {
    b"FORM": (4, 4, "big", 8),  # AIFF
    b"riff": (16, 8, "little", 0),  # W64
    b".snd": (8, 4, "big", 24),  # AU
}
_LAST_PAGE = 4  # flag of Ogg
_LOUDEST = 8.0  # a mix of several microphones goes beyond 1 a little; numbers of 16 bits go to 32768
_BLOCK = 1 << 20  # numbers that are decoded at once
_LARGE = 1 << 28  # bytes of samples, above which the free memory is asked for
_ERRORS = (ValueError, TypeError, MemoryError, ArithmeticError, LookupError, RuntimeError)
_one_decoder = Lock()  # at a time exchanges the standard error of the C library


def read_audio(path: Path) -> tuple[Float32[np.ndarray, "samples channels"], int]:
    """The samples of a sound file in -1..1, and the sampling rate in Hz.

    Raises:
        UserError: it is missing or damaged, ends before the length it states, or holds no sample or one that is no
            number.
    """
    with _open_sound(path) as file:
        blocks, size = list[np.ndarray](), 0
        for block in _blocks(file):
            blocks.append(block)
            size += block.nbytes
            # Silence is packed a thousand times as small; twice, since the blocks are joined.
            if size > _LARGE and 2 * size > free_memory():
                raise UserError(f"{path}: unpacks to more than the memory that is free; {again(path)}")
        _require_length(path, sum(map(len, blocks)), file)
        samples = np.concatenate(blocks)
        require_numbers(path, samples)
        return samples, file.samplerate


def sound_peaks(path: Path, per_second: int) -> tuple[Float32[np.ndarray, " slices"], float]:
    """The largest amplitude (0..1) of each slice of a sound file, and its length in s; its samples are never held.

    Raises:
        UserError: it cannot be read (see `read_audio`).
    """
    with _open_sound(path) as file:
        length = max(1, file.samplerate // per_second)  # samples of a slice
        peaks, rest, found = [], np.zeros(0, np.float32), 0
        for block in _blocks(file):
            require_numbers(path, block)
            found += len(block)
            loud = np.concatenate([rest, np.abs(block).max(axis=1)])
            whole = len(loud) // length * length
            peaks.append(loud[:whole].reshape(-1, length).max(axis=1))
            rest = loud[whole:]
        _require_length(path, found, file)
        last = [rest.max(keepdims=True)] if len(rest) else []
        return np.minimum(np.concatenate([*peaks, *last]), 1), found / file.samplerate


def check_audio(path: Path) -> float:
    """The length in s of a sound file that can be read; all of its samples are decoded, and never held.

    Raises:
        UserError: it cannot (see `read_audio`).
    """
    with _open_sound(path) as file:
        found = 0
        for block in _blocks(file):
            require_numbers(path, block)
            found += len(block)
        _require_length(path, found, file)
        return found / file.samplerate


def _blocks(file: SoundFile) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """The samples in pieces, since a damaged header may state any length, and any number of channels."""
    frames = max(1, _BLOCK // file.channels)
    while True:
        with silent_decoder():
            block = file.read(frames, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block


@contextmanager
def _open_sound(path: Path) -> Generator[SoundFile]:
    data = read_bytes(path)
    _require_wave(path, data)
    _require_end(path, data)
    import soundfile

    try:
        with silent_decoder():
            file = soundfile.SoundFile(io.BytesIO(data))
        with file:
            yield file
    except soundfile.SoundFileError as error:  # its message names an address in memory, and the wrong reason
        raise UserError(f"{path}: is no mp3 or other known sound file; {again(path)}") from error
    except _ERRORS as error:
        raise UserError(f"{path}: is not a readable sound file ({brief(error)}); {again(path)}") from error


@contextmanager
def silent_decoder() -> Generator[None]:
    """Keep libmpg123 from writing to standard error; what is wrong with a file is told by us.

    It complains of every frame that is damaged, or refers to sound before a clip's beginning. The stream of the C
    library is exchanged and not the descriptor below it, to which Python and child processes write at the same time.
    """
    if (streams := _c_streams()) is None:
        yield
        return
    stderr, nowhere = streams
    with _one_decoder:
        kept, stderr.value = stderr.value, nowhere
        try:
            yield
        finally:
            stderr.value = kept


@cache
def _c_streams() -> tuple[ctypes.c_void_p, int] | None:
    """Standard error of the C library, as a variable, and a stream to nowhere; None where it cannot be exchanged."""
    name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
    if name is None or (sys.platform == "linux" and platform.libc_ver()[0] != "glibc"):  # musl keeps it constant
        return None
    c = ctypes.CDLL(None)
    c.fopen.restype, c.fopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_char_p)
    nowhere = c.fopen(os.devnull.encode(), b"w")
    return (ctypes.c_void_p.in_dll(c, name), nowhere) if nowhere else None


def _require_wave(path: Path, data: bytes) -> None:
    """A .wav must have the bytes that it states: libsndfile takes those that are there for all."""
    if not data.startswith((b"RIFF", b"RF64")):
        return
    place, large = 12, _UNKNOWN  # bytes of sound that do not fit into four bytes of a header
    while data[place : place + 4] not in (b"data", b""):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"ds64":
            large = int.from_bytes(data[place + 16 : place + 24], "little")
        place += 8 + size + size % 2
    stated, found = int.from_bytes(data[place + 4 : place + 8], "little"), len(data) - place - 8
    stated = large if stated == _UNKNOWN else stated
    if stated > found and stated != _UNKNOWN:
        raise UserError(f"{path}: is cut off after {max(0, found)} of {stated} bytes of sound; {again(path)}")


def _require_end(path: Path, data: bytes) -> None:
    """As above, of what is no .wav: a size in the header, or the last page of an Ogg file, which says that it is."""
    if data.startswith(b"OggS"):
        page = data[data.rfind(b"OggS") :]
        segments = page[27 : 27 + page[26]] if len(page) > 26 else b""  # the bytes of each piece of it
        whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(segments) and page[5] & _LAST_PAGE
    else:
        place, length, order, more = _SIZES.get(data[:4], (0, 0, "big", 0))
        stated = data[place : place + length]
        unknown = length > 0 and stated == b"\xff" * length  # as in a .wav
        whole = unknown or int.from_bytes(stated, order) + more <= len(data)
    if not whole:
        raise UserError(f"{path}: is cut off after {len(data)} bytes; {again(path)}")


def _require_length(path: Path, found: int, file: SoundFile) -> None:
    if found == 0:
        raise UserError(f"{path}: holds no sound; {again(path)}")
    if file.frames - found > _MP3_FRAME:
        found_s, stated_s = found / file.samplerate, file.frames / file.samplerate
        raise UserError(f"{path}: is cut off after {found_s:.2f} of {stated_s:.2f} s; {again(path)}")


def require_numbers(path: Path, samples: np.ndarray) -> None:
    """Samples must be numbers, and not those of 16 bits that were stored as floats.

    Raises:
        UserError: they are not.
    """
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: holds samples that are no numbers; {again(path)}")
    if (loudest := float(np.abs(samples).max(initial=0))) > _LOUDEST:
        raise UserError(f"{path}: has samples up to {loudest:g}, expected -1 to 1; divide them, or {again(path)}")
