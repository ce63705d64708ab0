"""What both trainings show while they run: step, losses, rate and time left. Needs transformers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState

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
