"""What trainings show while they run and log: step, losses, rate, time left; how fast they are. Needs transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState

from operating_room.files.atomic import append_json
from operating_room.work.progress import Steps

_NOT_SHOWN = ("epoch", "total_flos")


@contextmanager
def shown_progress(trainer: Trainer) -> Generator[None]:
    """Show the steps of a trainer and the numbers that it logs, in place of its own bar and its dicts of numbers."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    shown = _TrainingProgress()
    trainer.add_callback(shown)
    try:
        yield
    finally:
        shown.close()


class _TrainingProgress(TrainerCallback):
    def __init__(self) -> None:
        self._steps: Steps | None = None
        self._before = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._before = state.global_step
        self._steps = Steps("training, step", state.max_steps, state.global_step)
        self._steps.__enter__()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self._steps is not None:
            self._steps.advance(state.global_step - self._before)
            self._before = state.global_step

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        if self._steps is not None and "loss" in numbers:
            self._steps.advance(0, {name: value for name, value in numbers.items() if name not in _NOT_SHOWN})

    def close(self) -> None:
        if self._steps is not None:
            self._steps.__exit__(None, None, None)
            self._steps = None


class LossLog(TrainerCallback):
    """Appends what Trainer logs (step, loss, learning rate) to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by Trainer.

        Raises:
            UserError: the file cannot be written.
        """
        if state.is_world_process_zero:
            append_json(self._path, {"step": state.global_step, **(logs or {})})


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
