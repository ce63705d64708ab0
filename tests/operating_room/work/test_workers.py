"""Work shared by processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

from operating_room.errors import UserError
from operating_room.work.workers import in_workers


def square_or_die(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is full
    return number**2


def write_and_wait(number: int) -> None:
    os.write(1, b"begun\n")  # at once, also where Python writes without a buffer
    time.sleep(100)


INTERRUPTED = """
import signal
from operating_room.work.workers import in_workers
from tests.operating_room.work.test_workers import write_and_wait
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without
    list(in_workers(write_and_wait, range(12), 2, "items"))
"""


@pytest.mark.parametrize("kill", [os.killpg, os.kill])
def test_ctrl_c_ends_the_work_and_not_only_the_items_that_are_done_now(kill: Callable[[int, int], None]) -> None:
    """Workers began with the next items, which may be takes of minutes, and wrote tracebacks."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"begun\n"] * 2
        kill(process.pid, signal.SIGINT)
        try:
            said, wrong = process.communicate(timeout=50)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not said
    assert wrong.count(b"Traceback") == 1, wrong  # that of the process itself, which has no command line here


BEGUN = """
import os, signal
if __name__ == "__mp_main__":
    os.kill(os.getpid(), signal.SIGINT)  # while the worker begins, before it does anything of ours
from operating_room.work.workers import in_workers
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(list(in_workers(abs, [-1, -2], 2, "items")))
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_ctrl_c_while_workers_begin_is_for_the_first_process_alone(tmp_path: Path) -> None:
    """They take seconds to begin where the disk is busy, and wrote the traceback of an import."""
    script = tmp_path / "script.py"
    script.write_text(BEGUN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "[1, 2]\nFalse\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("error")  # of a thread that ends with a traceback
def test_who_stops_reading_ends_no_process_of_others() -> None:
    """As those that read samples for a training beside it."""
    other = get_context("spawn").Process(target=time.sleep, args=(100,))
    other.start()
    try:
        results = in_workers(square_or_die, range(12), 2, "squares")
        assert next(results) == 0
        assert isinstance(results, Generator)
        results.close()
        other.join(0.5)
        assert other.is_alive()
    finally:
        other.kill()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    for count in (0, 1, 10):
        found = list(in_workers(square_or_die, range(count), workers, "squares", chunk=3))
        assert found == [number**2 for number in range(count)]


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"squares: a worker was ended from outside, .*fewer --workers"):
        list(in_workers(square_or_die, [1, 13], 2, "squares"))


KILLED = """
from operating_room.work.workers import in_workers
from tests.operating_room.work.test_workers import write_and_wait
if __name__ == "__main__":
    list(in_workers(write_and_wait, range(12), 2, "items"))
"""


def test_workers_end_with_a_first_process_that_is_killed() -> None:
    """They did the items they had, and then waited for ever with all their memory, deaf to Ctrl-C."""
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"begun\n"] * 2
        process.kill()
        try:
            process.communicate(timeout=15)  # returns once nobody has the other end of the pipe
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
