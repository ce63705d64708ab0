"""How the benchmarks measure time."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from computing.machine import wait_for

Result = TypeVar("Result")


def cpu_seconds(runs: int, task: Callable[..., Result], *arguments: Any) -> tuple[float, Result]:
    """CPU seconds of the fastest of some runs, those of programs it starts and awaits included; and the result."""
    seconds = []
    for _ in range(runs):
        start = _used()
        result = task(*arguments)
        seconds.append(_used() - start)
    return min(seconds), result


def timed(device: torch.device, task: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """A result and the wall seconds it took, what a GPU still had to do for it included."""
    wait_for(device)
    start = time.perf_counter()
    result = task(*arguments)
    wait_for(device)
    return result, time.perf_counter() - start


def _used() -> float:
    """CPU seconds so far of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
