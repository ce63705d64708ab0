"""Reading in other threads."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from threading import Event, active_count, current_thread
from time import sleep

import pytest

from operating_room.errors import UserError
from operating_room.work.ahead import Ahead

# A program that is stopped while one value is being read and others wait for it.
STOPPED = """
import sys, threading
from operating_room.work.ahead import Ahead

begun = threading.Event()

def read(key):
    print("reads", key, flush=True)
    begun.set()
    threading.Event().wait(0.3)

ahead = Ahead(read, most=100, threads=1)
ahead.begin(range(100))
begun.wait()
raise KeyboardInterrupt
"""


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_value_is_read_once_and_by_others_while_nobody_asks(threads: int) -> None:
    readers: dict[int, str] = {}
    done = [Event() for _ in range(10)]

    def read(key: int) -> int:
        assert key not in readers
        readers[key] = current_thread().name
        done[key].set()
        return 10 * key

    ahead = Ahead(read, most=10, threads=threads)
    assert ahead.take(1) == 10
    ahead.begin(range(2, 10))
    assert all(event.wait(10) for event in done[2:])
    assert [ahead.take(key) for key in (5, 2, 3, 4, 9, 8, 7, 6)] == [50, 20, 30, 40, 90, 80, 70, 60]
    assert readers[1] == current_thread().name
    assert current_thread().name not in [readers[key] for key in range(2, 10)]
    ahead.close()


def test_several_read_at_the_same_time() -> None:
    """Each waits for the other one to begin."""
    begun = {1: Event(), 2: Event()}

    def read(key: int) -> bool:
        begun[key].set()
        return begun[3 - key].wait(10)

    ahead = Ahead(read, most=2, threads=2)
    ahead.begin([1, 2])
    assert ahead.take(1)
    assert ahead.take(2)


def test_what_goes_wrong_is_raised_where_it_is_asked_for_and_the_next_goes_on() -> None:
    def read(key: str) -> str:
        if key == "bad":
            raise UserError("bad.jpg: is damaged")
        return key

    ahead = Ahead(read, most=9)
    ahead.begin(["good", "bad", "fine"])
    assert ahead.take("good") == "good"
    with pytest.raises(UserError, match=r"bad\.jpg"):
        ahead.take("bad")
    assert ahead.take("fine") == "fine"


def slow(started: Event, go_on: Event, read: list[int]) -> Callable[[int], int]:
    """Waits, and notes what it was asked for."""

    def one(key: int) -> int:
        read.append(key)
        started.set()
        go_on.wait(10)
        return key

    return one


def test_what_is_not_wished_for_any_more_is_given_up_and_the_rest_goes_on() -> None:
    started, go_on, read = Event(), Event(), list[int]()
    ahead = Ahead(slow(started, go_on, read), most=9, threads=1)
    ahead.begin([1, 2, 3])
    started.wait(10)
    ahead.begin([1, 3, 4])
    go_on.set()
    assert [ahead.take(key) for key in (1, 3, 4)] == [1, 3, 4]
    assert sorted(read) == [1, 3, 4]  # 1 once, though it was wished for twice


def test_no_more_is_held_than_was_allowed() -> None:
    read: list[int] = []
    changed = Event()

    def one(key: int) -> int:
        read.append(key)
        changed.set()
        return key

    ahead = Ahead(one, most=2, threads=2)
    ahead.begin(range(5))
    for key in range(5):
        while len(read) < min(5, key + 2):  # so many are begun, whoever waits
            assert changed.wait(10)
            changed.clear()
        sleep(0.01)
        assert len(read) <= key + 2
        assert ahead.take(key) == key
    assert sorted(read) == [0, 1, 2, 3, 4]


def test_a_stopped_program_ends_with_what_it_reads_and_begins_nothing_more() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "reads 0\n"
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_threads_end_with_their_owner() -> None:
    before = active_count()
    ahead = Ahead(lambda key: key, most=4, threads=3)
    ahead.begin([1, 2])
    assert active_count() == before + 3
    ahead.close()
    assert active_count() == before
    ahead.begin([1])  # it can go on
    assert ahead.take(1) == 1
    del ahead
    gc.collect()
    assert active_count() == before
