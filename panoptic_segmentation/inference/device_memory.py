"""What is said when the memory of the device does not last."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

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
        # A GPU that others fill already has no exception of its own for what it cannot even begin.
        if not isinstance(error, torch.OutOfMemoryError) and "CUDA error: out of memory" not in str(error):
            raise
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(f"{device}: has too little memory to {to_do} ({reason}); {advice}") from error
