"""What a training says while it runs: a line now and then for people, and all numbers in log.jsonl."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from operating_room.errors import UserError

_SELDOM = 10.0  # s between two lines at least


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
            line = {"step": state.global_step, **{name: _plain(value) for name, value in (logs or {}).items()}}
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise UserError(f"{self._path}: cannot be written ({error.strerror}); check free space") from error


class SpokenLog(TrainerCallback):
    """Says on standard error how far the training is: step, loss, learning rate, steps a second, time left."""

    def __init__(self) -> None:
        self._began = self._spoke = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by Trainer."""
        self._began, self._spoke, self._first_step = time.monotonic(), 0.0, state.global_step

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by Trainer; the first and the last line are always said."""
        now = time.monotonic()
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        if self._spoke and now - self._spoke < _SELDOM and state.global_step < state.max_steps:
            return
        self._spoke = now
        print(said_of(state, logs or {}, state.global_step - self._first_step, now - self._began), file=sys.stderr)


def said_of(state: TrainerState, logs: dict[str, Any], steps: int, seconds: float) -> str:
    """The line about a step, after so many steps of this process in so many seconds."""
    told = f"step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.4f}"
    if "learning_rate" in logs:
        told += f"  learning rate {float(logs['learning_rate']):.2e}"
    rate = steps / seconds if seconds > 0 else 0.0
    if not rate:
        return told
    speed = f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
    left = round((state.max_steps - state.global_step) / rate)
    return f"{told}  {speed}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


def _plain(value: Any) -> Any:
    """A number that JSON has: NaN and infinity are none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
