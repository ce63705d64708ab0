"""Reading in another thread."""

from __future__ import annotations

from threading import Event, current_thread

import pytest

from operating_room.errors import UserError
from operating_room.work.ahead import Ahead


def test_each_value_is_read_once_and_in_another_thread_if_begun() -> None:
    readers: dict[int, str] = {}

    def read(key: int) -> int:
        assert key not in readers
        readers[key] = current_thread().name
        return 10 * key

    ahead = Ahead(read)
    assert ahead.take(1) == 10
    ahead.begin([2, 3])
    assert (ahead.take(3), ahead.take(2)) == (30, 20)
    assert readers[1] == current_thread().name
    assert readers[2] == readers[3] != current_thread().name


def test_what_goes_wrong_is_raised_where_it_is_asked_for_and_the_next_goes_on() -> None:
    def read(key: str) -> str:
        if key == "bad":
            raise UserError("bad.jpg: is damaged")
        return key

    ahead = Ahead(read)
    ahead.begin(["bad", "good"])
    with pytest.raises(UserError, match=r"bad\.jpg"):
        ahead.take("bad")
    assert ahead.take("good") == "good"


def test_what_nobody_asks_for_is_given_up() -> None:
    go_on, started = Event(), Event()
    read: list[int] = []

    def slow(key: int) -> int:
        started.set()
        go_on.wait(10)
        read.append(key)
        return key

    ahead = Ahead(slow)
    ahead.begin([1, 2, 3])
    started.wait(10)
    ahead.begin([4])
    go_on.set()
    assert ahead.take(4) == 4
    assert read == [1, 4]
