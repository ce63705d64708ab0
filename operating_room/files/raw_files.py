"""The bytes of a file, and what to tell a user whose file is missing or damaged."""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from operating_room.errors import UserError
from operating_room.work.processes import free_memory

_LARGE = 1 << 30  # bytes, above which the free memory is asked for
# Told from a path, for the advice alone: what lies below these is in the published archives, and what in those is made.
ARCHIVES = frozenset({"MM-OR_data", "4D-OR_data"})
MADE = frozenset(
    {
        "take_audio_per_timepoint",
        "take_audio_embeddings_per_timepoint",
        "take_transcripts_per_timepoint",
        "take_segmasks_per_timepoint",
    }
)
_PREPARED = "panoptic_seg_"  # how folders of prepared ground truth begin; they lie in folders named as the archives


def read_bytes(path: Path) -> bytes:
    """The content of a file that must not be empty.

    Raises:
        UserError: missing, a folder, a device or pipe, unreadable, empty, or larger than the free memory.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            # Never "remove it": who gives a data folder in place of a file of it would lose all of it.
            raise UserError(f"{path}: is {what} where a file is expected; give the file itself, or {again(path)}")
        # A sparse file of terabytes takes no room on the disk.
        if status.st_size > _LARGE and status.st_size > (free := free_memory()):
            told = f"is {status.st_size / 1e9:.0f} GB large, and {free / 1e9:.1f} GB of memory are free"
            raise UserError(f"{path}: {told}; {again(path)}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        what = "is a link to nothing" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {what}; {again(path)}, or correct the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: cannot be read ({brief(error)}); check permissions and the disk") from error
    if not data:
        raise UserError(f"{path}: is empty; {again(path)}")
    return data


def visible(paths: Iterable[Path]) -> list[Path]:
    """Without hidden files, which are no data: macOS leaves `._name` beside each copied file, of the same ending."""
    return [path for path in paths if not path.name.startswith(".")]


def is_utf8(path: Path) -> bool:
    """Whether a path is one for libraries that know UTF-8 only; a folder named on an old disk may be none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def utf8_path(path: Path) -> Generator[Path]:
    """A path of the same file for libraries that open files themselves: where it is no UTF-8, that of the open file.

    Raises:
        OSError: it cannot be opened.
    """
    if is_utf8(path):
        yield path
        return
    with path.open("rb") as file:
        yield Path(f"/dev/fd/{file.fileno()}")


def require(path: Path, maker: str) -> None:
    """Refuse a missing file with what makes it: `maker` names a command.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists() and not path.is_symlink():
        raise UserError(f"{path}: no such file; {maker} makes it")


def again(path: Path) -> str:
    """How to get a file again: recordings are in the archives, others somebody or some command has made."""
    if MADE & set(path.parts):
        return "delete it and preprocess again"
    if any(part.startswith(_PREPARED) for part in path.parts):
        return "delete it and run again, which prepares it anew"
    return "copy it again from the dataset archive" if ARCHIVES & set(path.parts) else "make or copy it again"


def brief(error: BaseException) -> str:
    """The message of an exception on one line; its type where it has none."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
