"""When a training that is begun again has nothing left to do, and what must be as it was when it goes on."""

from __future__ import annotations

from typing import Any

from transformers import TrainerState

from scene_graph_generation.config.settings import TrainConfig


def is_done(state: TrainerState, config: TrainConfig) -> bool:
    """Whether a training has nothing left to do."""
    if config.max_steps > 0:
        return state.global_step >= config.max_steps
    return (state.epoch or 0.0) >= config.epochs - 1e-6  # a sum of many fractions


def settings_that_stay(mapping: dict[str, Any], of: str = "") -> dict[str, Any]:
    """The settings by their full names, but for those that may change when a training goes on.

    Args:
        mapping: of an experiment, or of its section `of`.
        of: what their names begin with.
    """
    flat: dict[str, Any] = {}

    def flatten(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{name}.")
            elif f"{prefix}{name}" not in _MAY_CHANGE:
                flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value

    flatten({name: values for name, values in mapping.items() if name not in ("files", "pretrain")}, of)
    return flat


_MAY_CHANGE = {
    f"train.{name}"
    for name in (
        *("max_steps", "epochs", "save_steps", "save_total_limit", "log_steps", "workers", "skip_bad_samples"),
        *("report_to", "run_name", "deepspeed", "tf32", "gradient_checkpointing"),
    )
} | {"start.base", "start.vision", "start.curriculum"}
