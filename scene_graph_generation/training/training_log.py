"""The numbers of a training in log.jsonl (what it shows while it runs is in `computing.training_progress`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from operating_room.errors import UserError


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


def _plain(value: Any) -> Any:
    """A number that JSON has: NaN and infinity are none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
