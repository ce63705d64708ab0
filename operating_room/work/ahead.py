"""Reading ahead: files are decoded in another thread while a model is busy with those before."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Ahead(Generic[Key, Value]):
    """Values that are read before they are asked for, each once.

    Args:
        read: reads one; what it raises is raised where the value is asked for. It is called in one other thread, or
            in the one that asks if nobody has begun.
    """

    def __init__(self, read: Callable[[Key], Value]) -> None:
        self._read = read
        self._thread: ThreadPoolExecutor | None = None
        self._begun: dict[Key, Future[Value]] = {}

    def begin(self, keys: Iterable[Key]) -> None:
        """Begin to read these; what was begun before and not asked for is given up."""
        self._thread = self._thread or ThreadPoolExecutor(1)
        for future in self._begun.values():
            future.cancel()
        self._begun = {key: self._thread.submit(self._read, key) for key in keys}

    def take(self, key: Key) -> Value:
        """The value of a key, begun or not."""
        future = self._begun.pop(key, None)
        return self._read(key) if future is None else future.result()
