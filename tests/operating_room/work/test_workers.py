"""Work shared by processes."""

from __future__ import annotations

import os
import signal

import pytest

from operating_room.errors import UserError
from operating_room.work.workers import in_workers


def square_or_die(number: int) -> int:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is full
    return number**2


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    for count in (0, 1, 10):
        found = list(in_workers(square_or_die, range(count), workers, "squares", chunk=3))
        assert found == [number**2 for number in range(count)]


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"squares: a worker was ended from outside, .*fewer --workers"):
        list(in_workers(square_or_die, [1, 13], 2, "squares"))
