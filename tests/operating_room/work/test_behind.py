"""Writing in other threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event, Timer, current_thread
from typing import cast

import pytest

from operating_room.errors import UserError
from operating_room.work.behind import behind


def test_results_come_in_order_whoever_is_done_first() -> None:
    last_is_done = Event()
    threads = set()

    def write(number: int) -> int:
        threads.add(current_thread())
        if number == 0:
            assert last_is_done.wait(10)
        elif number == 2:
            last_is_done.set()
        return 10 * number

    assert list(behind(write, range(3), threads=2)) == [0, 10, 20]
    assert current_thread() not in threads
    assert list(behind(write, [], threads=2)) == []


def test_the_next_items_are_made_while_one_is_written() -> None:
    made_more = Event()

    def items() -> Iterator[int]:
        yield 0
        yield 1
        made_more.set()
        yield 2

    assert list(behind(lambda _: made_more.wait(10), items(), threads=1)) == [True] * 3


def test_few_items_wait() -> None:
    """However slow writing is: it begins late here, and no more is made meanwhile than may wait."""
    go_on = Event()
    early: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            if not go_on.is_set():
                early.append(number)
            yield number

    Timer(0.5, go_on.set).start()
    assert len(list(behind(lambda _: go_on.wait(10), items(), threads=2))) == 100
    assert 2 < len(early) < 10


def test_what_goes_wrong_comes_out_and_ends_all() -> None:
    written: list[int] = []

    def write(number: int) -> int:
        if number == 3:
            raise UserError("3.png: cannot be written (No space left on device)")
        written.append(number)
        return number

    taken = []
    with pytest.raises(UserError, match=r"3\.png: cannot be written"):
        taken.extend(behind(write, range(1000), threads=2))
    assert len(written) < 20
    assert {0, 1, 2} <= set(written)


def test_an_error_in_writing_comes_before_one_of_a_later_item() -> None:
    """As if one had been done after the other."""

    def items(last: int) -> Iterator[int]:
        yield from range(last)
        raise UserError("camera.jpg: is damaged")

    def write(number: int) -> int:
        if number == 1:
            raise UserError("the disk is full")
        return number

    with pytest.raises(UserError, match="is full"):
        list(behind(write, items(2), threads=1))
    with pytest.raises(UserError, match=r"camera\.jpg"):
        list(behind(write, items(1), threads=1))


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_end_before_time_finishes_what_is_being_written_and_gives_up_the_rest(interrupted: bool) -> None:
    """An interrupt, and somebody who asks for no more results."""
    made, writing, go_on = Event(), Event(), Event()
    written: list[int] = []

    def write(number: int) -> None:
        assert made.wait(10)
        if number == 1:
            writing.set()
            assert go_on.wait(10)
        written.append(number)

    def items() -> Iterator[int]:
        yield from range(4)
        made.set()
        assert writing.wait(10)
        Timer(0.5, go_on.set).start()
        if interrupted:
            raise KeyboardInterrupt

    results = cast(Generator[None], behind(write, items(), threads=1))
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            list(results)
    else:
        next(results)
        results.close()
    assert written == [0, 1]
