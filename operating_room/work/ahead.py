"""Reading ahead: files are read by other threads while a model is busy with those before.

Threads are enough: decoding and resizing release Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread, current_thread
from typing import Any, Generic, TypeVar
from weakref import finalize

from operating_room.work.processes import cpu_threads

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

THREADS = 4  # at most: they feed a GPU several times over (docs/performance.md)
_Tasks = SimpleQueue[tuple[Future[Any], Callable[[Any], Any], Any] | None]


class Ahead(Generic[Key, Value]):
    """Values that are read before they are asked for, each once, in the order in which they were wished for.

    Args:
        read: reads one; what it raises is raised where the value is asked for. It is called in several threads, also in
            the one that asks.
        most: values that are begun and not asked for yet; no more than these are held in memory.
        threads: that read; as many as there are processors, up to `THREADS`, by default.
    """

    def __init__(self, read: Callable[[Key], Value], most: int, threads: int | None = None) -> None:
        self._read, self._most = read, most
        self._count = threads or min(THREADS, cpu_threads())
        self._threads: _Threads | None = None
        self._begun: dict[Key, Future[Value]] = {}
        self._waiting: dict[Key, None] = {}  # for room; in order

    def begin(self, keys: Iterable[Key]) -> None:
        """Begin to read these, each as soon as there is room; what was begun before, but for these, is given up."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._begun if key not in wanted]:
            self._begun.pop(key).cancel()
        self._waiting = {key: None for key in wanted if key not in self._begun}
        self._fill()

    def take(self, key: Key) -> Value:
        """The value of a key; it is read now if nobody has begun."""
        future = self._begun.pop(key, None)
        self._waiting.pop(key, None)
        self._fill()
        return self._read(key) if future is None or future.cancel() else future.result()

    def close(self) -> None:
        """Give up what was begun, and end the threads when they have read what they are at."""
        self.begin(())
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _fill(self) -> None:
        while self._waiting and len(self._begun) < self._most:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._threads = self._threads or _Threads(self._count)
            self._begun[key] = self._threads.submit(self._read, key)


class _Threads:
    """Threads that do not keep an interrupted program from ending.

    Those of `ThreadPoolExecutor` read all that was begun before Python ends. These read what they are at, no more.
    """

    def __init__(self, count: int) -> None:
        self._tasks: _Tasks = SimpleQueue()
        threads = [Thread(target=_work, args=(self._tasks,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        self.close = finalize(self, _end, self._tasks, threads)

    def submit(self, read: Callable[[Key], Value], key: Key) -> Future[Value]:
        future: Future[Value] = Future()
        self._tasks.put((future, read, key))
        return future


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        future, read, key = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(key))
            except BaseException as error:  # noqa: BLE001 - it is raised where the value is asked for
                future.set_exception(error)
        del task, future, read, key  # else the last value would stay until there is another one


def _end(tasks: _Tasks, threads: list[Thread]) -> None:
    with suppress(Empty):
        while True:
            tasks.get_nowait()
    for _ in threads:
        tasks.put(None)
    for thread in threads:
        if thread is not current_thread():
            thread.join()
