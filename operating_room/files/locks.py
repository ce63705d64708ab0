"""Locks on files that one run at a time may write. Those of killed processes end with them."""

from __future__ import annotations

import errno
import fcntl
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from operating_room.errors import UserError
from operating_room.files.atomic import require_folder

_LOCK = ".lock"
BUSY = (errno.EAGAIN, errno.EACCES)  # what locking says where another process has the file; NFS says EACCES


def lock(path: Path, file: IO[Any], kind: int = fcntl.LOCK_EX, told: bool = True) -> None:
    """Keep other runs from the file. Some network file systems have no locks (Lustre without -o flock): that is told.

    Args:
        path: its name, for what is told.
        file: open for writing.
        kind: LOCK_EX, or LOCK_SH where several may write beside it.
        told: say where there are no locks; one of several processes does.

    Raises:
        UserError: another run has it.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            raise UserError(f"{path}: another run is writing it; wait for it or choose another output") from error
        if told:
            print(f"{path}: cannot be locked ({error.strerror}); start no second run with this output", file=sys.stderr)


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Keep other runs of the same work out of a folder. One that is made for this and stays empty is removed.

    Raises:
        UserError: another run is in it, or it cannot be written.
    """
    require_folder(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    with _opened(path) as file:
        lock(folder, file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def one_at_a_time(path: Path) -> Generator[None]:
    """Wait until no other process is inside with this file, which is made. Without locks (see `lock`) nobody waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except PermissionError:  # of another user, who shares the folder; to be locked it need not be written
        return path.open("rb")
