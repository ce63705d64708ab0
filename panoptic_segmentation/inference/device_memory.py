"""What is said when the memory of the device does not last."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from computing.machine import is_full, told_full
from operating_room.errors import UserError


@contextmanager
def full_memory_told(device: torch.device, to_do: str, advice: str) -> Generator[None]:
    """Say in one line that a device has too little memory.

    Args:
        device: it.
        to_do: what it has too little memory for.
        advice: what helps.

    Raises:
        UserError: it has.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        raise UserError(f"{device}: has too little memory to {to_do} ({told_full(error)}); {advice}") from error
