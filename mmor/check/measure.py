"""One part of the self-test: run it, time it, compare its numbers with the CPU's, and say what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from computing.machine import release_memory, wait_for, watched_memory

State = Literal["ok", "FAIL", "not run"]
KINDS = ("ctvis", "online", "offline", "encoder_only")
FORMATS: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What a part gave: numbers to compare with those of the CPU in float32, and what else is worth a word."""

    numbers: tuple[Tensor, ...] = ()
    note: str = ""
    each: float | None = None  # seconds of a frame, or of an answer


@dataclass(frozen=True)
class Result:
    """A row of the table."""

    part: str
    device: str
    format: str
    state: State
    seconds: float | None = None
    memory: int | None = None  # bytes at the worst moment
    difference: float | None = None  # from the CPU in float32, relative
    allowed: float | None = None
    note: str = ""  # or the reason of a failure
    each: float | None = None  # seconds of a frame, or of an answer


def relative_difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest |found - expected| / |expected| (Euclidean norms) of the pairs of tensors of equal shape."""
    differences = [0.0]
    for mine, theirs in zip(found, expected, strict=True):
        mine, theirs = mine.detach().cpu().double(), theirs.detach().cpu().double()
        differences.append(float((mine - theirs).norm() / theirs.norm().clamp(min=1e-12)))
    return float(torch.tensor(differences).max())  # Python's max may pass over what is no number


def measure(
    part: str,
    device: torch.device,
    format_name: str,
    run: Callable[[], Outcome],
    expected: Outcome | None = None,
    allowed: float | None = None,
) -> tuple[Result, Outcome | None]:
    """Run a part and make a row of it. Whatever is raised is its failure, and the other parts go on.

    Args:
        expected: what the numbers are compared with.
        allowed: relative difference up to which they count as equal.
    """
    start = time.perf_counter()
    try:
        release_memory(device)  # a GPU that has failed for good raises here
        start = time.perf_counter()
        with watched_memory(device) as peak:
            outcome = run()
            wait_for(device)
            seconds, memory = time.perf_counter() - start, peak()
    except Exception as error:  # noqa: BLE001  # a broken library may raise anything, and that is what is asked for here
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(part, str(device), format_name, "FAIL", time.perf_counter() - start, note=reason[:300]), None
    row = partial(Result, part, str(device), format_name, seconds=seconds, memory=memory, each=outcome.each)
    if not all(bool(number.isfinite().all()) for number in outcome.numbers):
        return row(state="FAIL", note="its numbers are not finite"), outcome
    if expected is None or not expected.numbers:
        return row(state="ok", note=outcome.note), outcome
    if [number.shape for number in outcome.numbers] != [number.shape for number in expected.numbers]:
        return row(state="FAIL", note="its numbers have another shape than those of the CPU"), outcome
    difference = relative_difference(outcome.numbers, expected.numbers)
    if allowed is not None and not difference <= allowed:
        note = "its numbers are not those of the CPU"
        return row(state="FAIL", difference=difference, allowed=allowed, note=note), outcome
    return row(state="ok", difference=difference, allowed=allowed, note=outcome.note), outcome


def not_run(part: str, device: torch.device | str, format_name: str, reason: str) -> Result:
    """A row for what this machine cannot do."""
    return Result(part, str(device), format_name, "not run", note=reason)
