"""What a DeepSpeed configuration must say for this training, and what it may not.

DeepSpeed's own bfloat16 would cast what is trained, all but the point encoder, and ZeRO puts the weights of a group of
the optimiser into one buffer of one type: behind frozen bfloat16 layers that stops in the first forward pass. So
bfloat16 is PyTorch's autocast here as it is without DeepSpeed, and what is trained stays float32. A configuration of
the published repository, `"bf16": {"enabled": "auto"}`, is read that way, too.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from computing.machine import choose_device
from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.work.processes import share

_ADVICE = "take configs/deepspeed/zero2.json"
# Chosen by DeepSpeed's configuration these would silently replace the learning rates of the experiment.
_OURS = ("optimizer", "scheduler")
# The options say these, too: another number is refused by transformers once all is loaded, and none stands for 0 or 1.
_AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
_OFFLOAD = ("offload_optimizer", "cpu_offload", "offload_param")  # the second is what older versions called the first
_OLD_S = 900  # s; to compile an operator takes minutes


def deepspeed_settings(path: Path, bf16: bool, width: int) -> dict[str, Any]:
    """A DeepSpeed configuration for a training in float32 or with autocast to bfloat16.

    Args:
        path: of the JSON.
        bf16: whether arithmetic is to be bfloat16.
        width: of the language model; an "auto" bucket gets the size that transformers chooses for it.

    Raises:
        UserError: it is damaged, or asks for something that this training does not have.
    """
    values = read_json(path)
    zero_stage(path)
    if unknown := [name for name in _OURS if name in values]:
        raise UserError(f"{path}: {unknown[0]!r} is set by the training's own options; leave it out of this file")
    if said := [name for name in _AUTO if values.get(name, "auto") != "auto"]:
        told = f"{path}: {said[0]} is {str(values[said[0]])[:60]}, which the training's own options say"
        raise UserError(f'{told}; set it to "auto"')
    if _enabled(values, "fp16"):
        raise UserError(f'{path}: "fp16" is not supported here; set it to false and train with --bf16 True')
    if _enabled(values, "bf16") and not bf16:
        raise UserError(f'{path}: "bf16" is enabled, but the training is not: add --bf16 True or set it to "auto"')
    zero = dict(values["zero_optimization"])
    if given := next((name for name in _OFFLOAD if _offloads(zero.get(name))), None):
        told = f"{path}: {given} needs DeepSpeed's own optimizer, which would replace the learning rates of the options"
        raise UserError(f"{told}; leave it out")
    if zero.get("reduce_bucket_size") == "auto":
        zero["reduce_bucket_size"] = width * width
    # Gradients are summed in float32 as without DeepSpeed: no module is named whose would not be.
    autocast = {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    off = {"enabled": False}
    return {
        **values,
        **dict.fromkeys(_AUTO, "auto"),
        "zero_optimization": zero,
        "bf16": off,
        "fp16": off,
        "torch_autocast": autocast,
    }


def zero_stage(path: Path | None) -> int:
    """The ZeRO stage of a DeepSpeed configuration; 0 without one.

    Raises:
        UserError: it is no DeepSpeed configuration, or its stage is not supported.
    """
    if path is None or not path.is_file():
        return 0
    values = read_json(path)
    zero = values.get("zero_optimization") if isinstance(values, dict) else None
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if not isinstance(stage, int) or isinstance(stage, bool):
        raise UserError(f"{path}: has no zero_optimization with a stage; {_ADVICE}")
    if stage == 0:
        raise UserError(
            f"{path}: ZeRO stage 0 is not supported: it divides nothing, and no training goes on from its checkpoints; "
            f"leave out --deepspeed, or {_ADVICE}"
        )
    if stage not in (1, 2):
        raise UserError(
            f"{path}: ZeRO stage {stage} is not supported: model folders would be written without weights, since no "
            f"process holds them whole; {_ADVICE}"
        )
    return stage


def _offloads(said: Any) -> bool:
    """Whether a setting asks for something to be kept in main memory or on a disk."""
    return said is True or (isinstance(said, dict) and said.get("device") not in (None, "none"))


def _enabled(values: dict[str, Any], name: str) -> bool:
    section = values.get(name)
    return isinstance(section, dict) and section.get("enabled") is True


def require_its_gpu() -> None:
    """DeepSpeed computes on the GPU whose number is the process's place on its machine, and looks for no other.

    Raises:
        UserError: there is none of that number: a cluster shows each process its own GPU alone, as number 0.
    """
    device, place = choose_device(), share().local_rank
    if device.type == "cuda" and device.index != place:
        raise UserError(
            f"--deepspeed: process {place} of this machine sees one GPU only, as number {device.index}, and DeepSpeed "
            f"asks for number {place}; let every process see all GPUs of its machine (no --gpus-per-task, no "
            "CUDA_VISIBLE_DEVICES of its own), or leave the option out"
        )


def require_operators() -> None:
    """Nobody has been ended while he compiled an operator of DeepSpeed: PyTorch would wait for him without a word.

    Raises:
        UserError: the mark of a compilation has been there for longer than one takes.
    """
    from torch.utils.cpp_extension import get_default_build_root

    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for mark in sorted((*folder.glob("*/lock"), *folder.glob("*/*/lock"))):
        told = f"{mark}: another process compiles an operator of DeepSpeed, or was ended while it did"
        try:
            age = time.time() - mark.stat().st_mtime
        except FileNotFoundError:  # done by now
            continue
        if age > _OLD_S:
            raise UserError(f"{told}; all that need it wait for ever: remove this file")
        print(f"{told}; this one waits for it: if none does, remove this file", file=sys.stderr)
