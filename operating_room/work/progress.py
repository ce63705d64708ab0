"""How far long work is: a bar on a terminal; a line now and then in a log file, where a bar would be noise.

One display at a time: work inside other work that is shown already is silent, and so are all processes but the first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from io import StringIO
from threading import Timer
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeVar

from operating_room.work.processes import is_first

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
# Lines in a log: the first after a second, then after twice the time, at last every half minute. Work that is done
# within the first second says nothing.
_FIRST, _SELDOM = 1.0, 30.0  # s
_BEGUN = _FIRST + 0.1
_WITHOUT_BARS = ("dumb", "unknown")  # terminals that cannot go back in a line, where rich would show nothing


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` and show on standard error how many are done.

    Args:
        total: how many there are, if `items` cannot say it.
    """
    with Steps(description, len(items) if isinstance(items, Sized) else total) as steps:
        for item in items:
            yield item
            steps.advance()


class Steps:
    """Work in steps, some of which report numbers such as losses; a context manager.

    Args:
        description: of the work, a word or two.
        total: how many steps there are; None if nobody knows.
        done: steps that an earlier run has done: they do not count in the rate.
        clock: seconds.
        stream: where it is shown; standard error by default.
    """

    _is_shown = False  # by any of them

    def __init__(
        self,
        description: str,
        total: int | None,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | StringIO | None = None,
    ) -> None:
        self._description, self._total = description, total
        self._done = self._before = done
        self._clock, self._stream = clock, stream
        self._values: Mapping[str, float] = {}
        self._speaks = False
        self._said = 0  # lines
        self._bar: Progress | None = None

    def __enter__(self) -> Steps:
        self._start = self._clock()
        self._next = self._start + _FIRST
        stream = self._stream or sys.stderr
        if Steps._is_shown or not is_first() or stream is None:  # None: standard error is closed
            return self
        self._speaks = Steps._is_shown = True
        if stream.isatty() and os.environ.get("TERM") not in _WITHOUT_BARS:
            self._bar = _bar(stream)
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total, completed=self._done, values="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._speaks:
            return
        Steps._is_shown = False
        if self._bar is not None:
            self._bar.stop()
        elif self._said or self._clock() >= self._next:
            self._say(is_last=True)

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """So many more steps are done.

        Args:
            values: numbers to show until there are newer ones.
        """
        self._done += steps
        self._values = values or self._values
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, values=", ".join(self._told()))
        elif self._speaks and self._clock() >= self._next:
            self._say()

    @contextmanager
    def begun(self) -> Generator[None]:
        """Where a log has no line after a second, say that nothing is done yet: the first step can last an hour."""
        said = Timer(_BEGUN, lambda: self.advance(0) if not self._said else None)
        said.daemon = True
        if self._speaks:
            said.start()
        try:
            yield
        finally:
            said.cancel()

    def _told(self) -> list[str]:
        """The numbers; whole ones, which count something, to the last digit."""
        shown = {
            name: f"{value:{'.0f' if float(value).is_integer() else '.4g'}}" for name, value in self._values.items()
        }
        return [f"{name} {value}" for name, value in shown.items()]

    def _say(self, is_last: bool = False) -> None:
        now = self._clock()
        elapsed = now - self._start
        self._next = now + min(_SELDOM, max(_FIRST, elapsed))
        self._said += 1
        of = "" if self._total is None else f"/{self._total}"
        parts = [f"{self._description} {self._done}{of}"]
        parts += self._told()
        rate = (self._done - self._before) / elapsed if elapsed > 0 else 0.0
        if rate > 0:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if is_last:
            parts.append(f"after {_clock_time(elapsed)}")
        elif rate > 0 and self._total is not None:
            parts.append(f"{_clock_time((self._total - self._done) / rate)} left")
        print(", ".join(parts), file=self._stream or sys.stderr, flush=True)


def _bar(stream: TextIO | StringIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    return Progress(*columns, console=Console(file=stream), transient=True)


def _clock_time(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
