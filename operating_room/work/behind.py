"""Writing behind: results are encoded and written in other threads while a model is busy with those after."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from operating_room.work.processes import cpu_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 4  # of a process: several GPUs, a process each, share the processors
_WAITING = 4  # items besides those being written: the memory they take does not grow with the work


def behind(function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """What `function` returns for each item, in their order; it is called while the next items are being made.

    Errors come as if one thing had been done after the other: one of `function` before those of later items. After an
    error or an interrupt, what is being written is finished and the rest is given up: nothing goes on unseen.

    Args:
        function: called in other threads, several at a time.
        items: made in the thread that asks for results.
        threads: that call `function`; up to four by default, as there are processors.
    """
    threads = threads or min(cpu_threads(), _MOST_THREADS)
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future[Result]] = deque()
    source = iter(items)
    try:
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception:
                for future in begun:
                    future.result()  # where it failed, that comes first
                raise
            begun.append(pool.submit(function, item))
            while begun and (begun[0].done() or len(begun) >= threads + _WAITING):
                yield begun.popleft().result()
        for future in begun:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
