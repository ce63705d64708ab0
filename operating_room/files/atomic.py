"""Files and folders that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from operating_room.errors import UserError
from operating_room.work.processes import is_running

_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
with suppress(OSError):  # containers of one host name cannot see each other's processes
    _HOST += f"-{Path('/proc/self/ns/pid').stat().st_ino:x}"
_STEM = 60  # bytes of the file's own name in its temporary one, which must not be too long where its own is not
_LEFT = re.compile(r"\..*\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d+)\.[0-9a-f]{8}\.partial(\..*)?", re.DOTALL)
_OLD = 7 * 24 * 3600  # s
_cleared: set[Path] = set()  # folders in which this process has looked for what killed ones have left


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary name keeps the suffix (image writers choose their format by it) and carries host, process and a random
    number, so that no two writers ever share one, on a shared disk neither. What killed processes of this host have
    left in the folder is removed.

    Raises:
        UserError: the folder cannot be written or the disk is full; or the body cannot read or write another file,
            which is named then; or `path` is no name for a file.
    """
    temporary = temporary_path(path)
    with _told(path, temporary):
        require_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _cleared:  # some folders get thousands of files
            _cleared.add(path.parent)
            clear_left(path.parent)
    try:
        with _told(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # a folder in its place, or no such folder: that has been told already
            temporary.unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """A file may be put in this place: none is there, or one that is data.

    Raises:
        UserError: a device or a pipe is there (a rename would put a file in the place of /dev/null), or a folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: cannot be written (it is a folder); give the name of a file")
    if (path.exists() and not path.is_file()) or os.path.abspath(path.parent) == "/dev":
        raise UserError(f"{path}: cannot be written (a file would take the place of a device); choose another output")


def require_own(path: Path, begins: str, what: str) -> None:
    """A file takes the place of an older one of its kind, never that of other results, or of whatever else is there.

    Args:
        path: where it will be.
        begins: how each file of its kind begins, in capitals or not.
        what: its kind.

    Raises:
        UserError: something else is there.
    """
    require_replaceable(path)
    if path.is_file() and path.stat().st_size:
        with _told(path, path), path.open("rb") as file:
            if file.read(len(begins.encode())).lower() != begins.lower().encode():
                raise UserError(f"{path}: is there already and is no {what}; choose another output")


def require_folder(folder: Path) -> Path:
    """A folder is there that can be written, or can be made; the part of its path that is there.

    Raises:
        UserError: that is a file, or closed to this user.
    """
    # os.path.exists, unlike that of Path, raises nothing where a folder above is closed.
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.exists(part))
    if not there.is_dir():
        raise UserError(f"{there}: is no folder; choose another output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: cannot be written; check permissions, or choose another output")
    return there


@contextmanager
def atomic_folder(folder: Path) -> Generator[Path]:
    """Yield a new temporary folder beside `folder`; put it in its place on success, remove it on any failure.

    Raises:
        UserError: see `atomic_path`.
    """
    temporary = temporary_path(folder)
    with _told(folder, temporary):
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_left(folder.parent)
        temporary.mkdir()
    try:
        with _told(folder, temporary):
            yield temporary
            _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_left(folder: Path) -> None:
    """Remove what killed processes of this host have left in a folder.

    Whether those of other hosts (or containers) still run cannot be seen from here; theirs goes when nobody has
    touched it for a week.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        left = [(entry, match) for entry in entries if (match := _LEFT.fullmatch(entry.name))]
        for entry, match in left:
            own = match["host"] == _HOST
            if (own and not is_running(int(match["process"]))) or (not own and _is_old(entry)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(entry.path)


def _is_old(entry: os.DirEntry[str]) -> bool:
    """Whether nothing of a file or folder was written, linked or renamed for a week."""
    paths = [Path(entry.path)]
    if entry.is_dir(follow_symlinks=False):
        paths += Path(entry.path).rglob("*")
    states = [path.lstat() for path in paths]
    return max(max(state.st_mtime, state.st_ctime) for state in states) < time.time() - _OLD


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically; halves of characters, which UTF-8 does not have, become `\\udxxx`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write `value` as UTF-8 JSON to `path` atomically; NaN and infinity, which JSON does not have, become null."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, indent=indent, allow_nan=False)
    write_text(path, text)


def append_json(path: Path, value: Any) -> None:
    """Add a line of JSON to a file; NaN and infinity become null.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(value)) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check free space") from error


def temporary_path(path: Path) -> Path:
    """A name beside `path` that nobody else has, and that `clear_left` knows."""
    encoding = sys.getfilesystemencoding()  # not UTF-8 in every locale
    stem, suffix = (os.fsencode(part)[:_STEM].decode(encoding, "ignore") for part in (path.stem, path.suffix))
    return path.with_name(f".{stem}.{_HOST}.{os.getpid()}.{uuid4().hex[:8]}.partial{suffix}")


@contextmanager
def _told(path: Path, temporary: Path) -> Generator[None]:
    """An error of the system in one line that names the file it is about."""
    try:
        yield
    except OSError as error:
        about = error.filename2 or error.filename
        reason = error.strerror or str(error)
        own = about is None or isinstance(about, int) or Path(os.fsdecode(about)) in (path, temporary, *path.parents)
        if not own and not Path(os.fsdecode(about)).is_relative_to(temporary):
            raise UserError(f"{os.fsdecode(about)}: {reason}; needed for {path}") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            for part in (path, *path.parents):
                if os.path.isfile(part):
                    raise UserError(f"{path}: cannot be written ({part} is a file); choose another folder") from error
        advice = "check free space and permissions"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "choose another place (--out, where the command has it), or check permissions"
        raise UserError(f"{path}: cannot be written ({reason}); {advice}") from error


def _replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, also if another process does the same."""
    while True:
        try:
            os.replace(new, folder)
            return
        except OSError:
            if not folder.is_dir() or folder.is_symlink():
                raise
        old = temporary_path(folder)
        with suppress(FileNotFoundError):  # another process was faster
            os.replace(folder, old)
            shutil.rmtree(old, ignore_errors=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
