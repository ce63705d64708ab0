"""What was made for the page, kept as long as there is room; and what it will ask for next, made meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from operating_room.errors import UserError
from operating_room.files.raw_files import again

State = tuple[str, int, int]  # of a file: path, time of its last change in ns, bytes


def file_state(path: Path) -> State:
    """What a file is known by: another one of the same name is not what was shown before.

    Raises:
        UserError: it is gone.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: is not there any more ({error.strerror}); {again(path)}") from error
    return str(path), status.st_mtime_ns, status.st_size


class Cache:
    """Bytes by key; the least recently used ones go first. Several threads may ask at once."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes."""
        self.limit = limit
        self.size = 0  # bytes
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The value of a key, made if it is not there; two threads may both make it, and make the same."""
        with self._lock:
            if (value := self._values.get(key)) is not None:
                self._values.move_to_end(key)
                return value
        value = make()
        with self._lock:
            if key not in self._values and len(value) <= self.limit:
                self._values[key] = value
                self.size += len(value)
            while self.size > self.limit:
                _, oldest = self._values.popitem(last=False)
                self.size -= len(oldest)
        return value

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._values


class Ahead:
    """Makes things in one thread; what has not been begun is dropped as soon as there is something newer to make."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mmor-view")
        self._newest = 0

    def make(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Make these, one after the other, in place of what was asked for before."""
        self._newest += 1
        self._thread.submit(self._run, self._newest, jobs)

    def close(self) -> None:
        """Stop after what is being made."""
        self._newest += 1
        self._thread.shutdown(cancel_futures=True)

    def _run(self, number: int, jobs: Sequence[Callable[[], object]]) -> None:
        for job in jobs:
            if number != self._newest:
                return
            try:
                job()
            except UserError:  # whoever asks for it is told
                continue
