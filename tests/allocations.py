"""How much memory of tensors something takes, whatever the machine: what torch's CPU allocator hands out.

Files that are mapped into memory do not count: the system can drop their pages and read them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that `run` holds at once, beside what there was before."""
    mapped: set[int] = set()  # sizes of mapped files: torch's profiler counts them as well
    from_file = torch.UntypedStorage.from_file

    def remember(*arguments: Any, **named: Any) -> Any:
        storage = from_file(*arguments, **named)
        mapped.add(storage.nbytes())
        return storage

    with (
        patch.object(torch.UntypedStorage, "from_file", remember),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        kept = run()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = peak = 0
    for size in (event.nbytes() for event in events if event.name() == "[memory]"):
        held += 0 if abs(size) in mapped else size
        peak = max(peak, held)
    del kept
    return peak
