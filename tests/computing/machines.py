"""Machines and starts of processes as tests want them."""

from __future__ import annotations

import pytest

from computing import machine
from computing.machine import Gpu


def start(monkeypatch: pytest.MonkeyPatch, rank: object, number: object, local: object = 0) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", number), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, str(value))


def have(monkeypatch: pytest.MonkeyPatch, count: int, bfloat16: bool = True) -> None:
    found = [Gpu(i, f"Card {i}", 80 << 30, (9, 0) if bfloat16 else (7, 0), bfloat16) for i in range(count)]
    monkeypatch.setattr(machine, "gpus", lambda: found)
