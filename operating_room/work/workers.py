"""Work on many items by several processes of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from operating_room.errors import UserError
from operating_room.work.progress import Steps, track

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, chunk: int = 1
) -> Iterator[Result]:
    """The results of `function` in the order of the items, with progress shown as they come.

    Args:
        function: of a module or a `partial` of one: processes are started anew, not forked.
        items: what it is called with.
        workers: processes; for a single item this one will do.
        title: of the work, for the progress and the message.
        chunk: items that a process gets at once; more for work that is quickly done.

    Raises:
        UserError: a worker was ended from outside.
    """
    if workers == 1 or len(items) < 2:
        yield from map(function, track(items, title))
        return
    try:
        with ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), _begin) as pool:
            try:
                with _ctrl_c_waits():
                    results = pool.map(function, items, chunksize=chunk)
                with Steps(title, len(items)) as steps, steps.begun():
                    for result in results:
                        yield result
                        steps.advance()
            except (KeyboardInterrupt, GeneratorExit):  # the latter if whoever reads the results is interrupted
                own = list(pool._processes.values())  # and no other child of this process
                manager: Any = pool._executor_manager_thread
                pool.shutdown(
                    wait=False, cancel_futures=True
                )  # or the manager ends with a traceback, as in Python 3.11
                for worker in own:  # they would do the items that they have been given already
                    worker.terminate()
                if manager is not None:
                    manager.join()
                raise
    except BrokenProcessPool as error:
        # Not every command that works in several processes lets choose how many.
        told = f"{title}: a worker was ended from outside, by lack of memory perhaps"
        raise UserError(f"{told}; run it again with more memory free, or fewer --workers if it has them") from error


@contextmanager
def _ctrl_c_waits() -> Generator[None]:
    """What is started here leaves Ctrl-C from its first moment on: it would begin with a traceback of its imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Ctrl-C reaches all processes of a terminal; the first one ends the others, which have nothing to say of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """Where the first one is killed, the pool's workers would do the items they have, and wait for others for ever."""
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)
