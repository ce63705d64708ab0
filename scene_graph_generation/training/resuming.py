"""When a training that is begun again has nothing left to do, and what must be as it was when it goes on.

What a model has learnt to see is kept until its training is over: no checkpoint is there before the first steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import TrainerState

from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.files.tensors import read_tensors, write_safetensors
from scene_graph_generation.config.settings import TrainConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.pretrain import SEEING

_SEEN, _SEEN_BY = "seen.safetensors", "seen.json"  # the second is written last, and says of which training they are
# What is changed where a GPU was too small for the first step afterwards: it has no say in what is seen.
_AFTERWARDS = ("train.batch_size", "train.accumulation")


def is_done(state: TrainerState, config: TrainConfig) -> bool:
    """Whether a training has nothing left to do."""
    if config.max_steps > 0:
        return state.global_step >= config.max_steps
    return (state.epoch or 0.0) >= config.epochs - 1e-6  # a sum of many fractions


def keep_seeing(out: Path, model: MM2SG, begun: Mapping[str, Any], taught: bool) -> None:
    """Keep what a model has learnt to see.

    Args:
        out: the folder of the training.
        model: has learnt.
        begun: what its training began with.
        taught: whether its vision tower was taught its patches.

    Raises:
        UserError: the folder cannot be written.
    """
    (out / _SEEN_BY).unlink(missing_ok=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(SEEING)}
    write_safetensors(out / _SEEN, {name: t.detach().to("cpu", copy=True).contiguous() for name, t in state.items()})
    write_json(out / _SEEN_BY, {"taught": taught, "begun": _digest(begun)})


def seen_before(out: Path, model: MM2SG, begun: Mapping[str, Any]) -> bool | None:
    """Fill a model with what `keep_seeing` has kept; whether its tower was taught, None if nothing is kept of it."""
    try:
        told, state = read_json(out / _SEEN_BY), read_tensors(out / _SEEN)
    except UserError:  # not there, or damaged
        return None
    if not isinstance(told, dict) or told.get("begun") != _digest(begun):
        return None
    model.load_state_dict(state, strict=False)
    return told.get("taught") is True


def forget_seeing(out: Path) -> None:
    """After the training: its model has it."""
    for name in (_SEEN_BY, _SEEN):
        (out / name).unlink(missing_ok=True)


def _digest(begun: Mapping[str, Any]) -> str:
    stays = {name: value for name, value in begun.items() if name not in _AFTERWARDS}
    return sha256(json.dumps(stays, sort_keys=True, default=str).encode()).hexdigest()


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
