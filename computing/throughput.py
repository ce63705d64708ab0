"""How fast a training is, and for how much of its time it waits for its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Throughput:
    """Counts samples, and the time that was spent waiting for them, from one report to the next.

    Args:
        processes: of the training; each takes as many samples.
        clock: seconds.
    """

    def __init__(self, processes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processes, self._clock = processes, clock
        self._start: float | None = None  # of what will be reported next
        self._waited = 0.0  # s
        self._samples = 0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Time in which nothing can be computed for want of data."""
        begin = self._clock()
        if self._start is None:
            self._start = begin
        yield
        self._waited += self._clock() - begin

    def count(self, samples: int) -> None:
        """So many samples have come to this process."""
        self._samples += samples

    def report(self) -> dict[str, float]:
        """Since the last report: `samples_per_s` of all processes, and `data_wait`, the share of this one's time.

        Nothing if there were no samples or no time.
        """
        now = self._clock()
        seconds = 0.0 if self._start is None else now - self._start
        found = {}
        if self._samples and seconds > 0:
            found = {"samples_per_s": self._samples * self._processes / seconds, "data_wait": self._waited / seconds}
        self._start, self._waited, self._samples = now, 0.0, 0
        return found
