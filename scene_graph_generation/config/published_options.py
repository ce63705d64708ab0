"""The options of the published training commands as settings of an experiment.

The published commands are LLaVA's and transformers' of their time. What transformers has dropped or renamed since is
translated, what has no effect here is accepted, and `Options.notes` says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from computing.experiments import CONFIGS
from operating_room.errors import UserError
from scene_graph_generation.config.mapping import with_setting
from scene_graph_generation.config.settings import Experiment, StartConfig, TrainConfig

ZERO2 = CONFIGS / "deepspeed" / "zero2.json"
BASE = "model_name_or_path"

# What an option that a published command leaves out means: off.
_UNSAID = Experiment(
    start=StartConfig(bits=16),
    train=TrainConfig(modality_dropout=0.0, shuffle_views=False, token_weights=False, order="random", log_steps=500),
)
# Option -> setting.
_SETTINGS = {
    BASE: "start.base",
    "vision_tower": "start.vision",
    "bits": "start.bits",
    "lora_r": "start.lora.rank",
    "lora_alpha": "start.lora.alpha",
    "lora_dropout": "start.lora.dropout",
    "unfreeze_n_vision_tower_layers": "start.vision_layers",
    "curriculum_learning_weights": "start.curriculum",
    "curriculum_order": "start.curriculum_order",
    "mm_vision_select_layer": "model.vision.feature_layer",
    "model_max_length": "model.max_length",
    "batching": "model.batching",
    "output_dir": "files.out",
    "token_weight_path": "files.token_frequencies",
    "mm_projector_lr": "train.projector_learning_rate",
    "deepspeed": "train.deepspeed",
    "bf16": "train.bf16",
    "tf32": "train.tf32",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "save_steps": "train.save_steps",
    "save_total_limit": "train.save_total_limit",
    "pretrain_steps": "pretrain.steps",
    "learning_rate": "train.learning_rate",
    "max_grad_norm": "train.max_grad_norm",
    "weight_decay": "train.weight_decay",
    "warmup_ratio": "train.warmup",
    "logging_steps": "train.log_steps",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "dataloader_num_workers": "train.workers",
    "report_to": "train.report_to",
    "run_name": "train.run_name",
    "seed": "train.seed",
    "do_img_order_augment": "train.shuffle_views",
    "multimodal_drop_prop": "train.modality_dropout",
    "do_augment": "train.augment",
    "order": "train.order",
}
_LORA = ("lora_r", "lora_alpha", "lora_dropout")
# Option -> the only value that it may have here, in small letters.
_FIXED = {
    "version": "v1",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": "false",
    "mm_use_im_patch_token": "false",
    "image_aspect_ratio": "pad",
    "mv_type": "learned",
    "lr_scheduler_type": "cosine",
    "save_strategy": "steps",
    "evaluation_strategy": "no",
}
_DERIVED = ("lora_enable", "do_multimodal_augment", "group_by_modality_length", "data_path", "image_folder")
# Option -> why it changes nothing.
_WITHOUT_EFFECT = {
    "per_device_eval_batch_size": "nothing is evaluated during training",
    "lazy_preprocess": "samples are always read when they are needed",
    "local_rank": "the launcher's environment says it",
}
_TRANSLATED = {
    "warmup_ratio": "is warmup_steps below 1 in today's transformers",
    "evaluation_strategy": "is eval_strategy in today's transformers",
    "gradient_checkpointing": "is activation_checkpointing in the next transformers",
    "tf32": "is set in PyTorch itself, and ignored without a CUDA GPU",
}
KNOWN = (*_SETTINGS, *_FIXED, *_DERIVED, *_WITHOUT_EFFECT)


@dataclass(frozen=True)
class Options:
    """An experiment as options describe it, and what to tell the user about them, a line each."""

    experiment: Experiment
    notes: list[str]


def read_options(words: Sequence[str], start: Experiment | None = None) -> Options:
    """The experiment that a published training command describes.

    Options may be spelled with `-` or `_`, as `--name value`, `--name=value`, or `--name` alone for True; of a
    repeated one the last value holds.

    Args:
        words: the command line after `mmor scene-graph train`, without options of our own.
        start: settings of an experiment file that the options change; None: what is not named is off, and sizes are
            the published ones.

    Raises:
        UserError: an option is unknown, or its value is of the wrong type or for something that is not there.
    """
    values = _pairs(words)
    experiment, notes = start or _UNSAID, []
    if "lora_enable" in values and _on(values, "lora_enable") != (experiment.start.lora is not None):
        experiment = with_setting(experiment, "start.lora", {} if _on(values, "lora_enable") else None, "--lora_enable")
    if "pretrain_steps" in values and experiment.pretrain is None:
        experiment = with_setting(experiment, "pretrain", {}, "--pretrain_steps")
    if experiment.start.lora is None:
        idle = [name for name in values if name in _LORA]
        notes += [f"--{name} has no effect: --lora_enable True is not given" for name in idle]
        values = {name: value for name, value in values.items() if name not in idle}
    for name, value in values.items():
        if name in _SETTINGS:
            experiment = with_setting(experiment, _SETTINGS[name], value, f"--{name}")
        elif name in _FIXED and value.lower() != _FIXED[name]:
            raise UserError(f"--{name} {value}: there is only {_FIXED[name]} here")
    for setting, value in _derived(values, start is None).items():
        experiment = with_setting(experiment, setting, value, setting)
    deepspeed = experiment.train.deepspeed
    if deepspeed and not deepspeed.exists() and deepspeed.name == ZERO2.name:
        experiment = with_setting(experiment, "train.deepspeed", ZERO2, "--deepspeed")
        notes.append(f"--deepspeed {deepspeed}: is not there; taking our {ZERO2}")
    frequencies = experiment.files.token_frequencies
    if frequencies and not frequencies.exists():
        # The published commands name the counts of 50 permutations beside samples of 20, from which `samples` makes it.
        beside = sorted(frequencies.parent.glob(re.sub(r"_\d+perm", "_*perm", frequencies.name)))
        if len(beside) == 1:
            experiment = with_setting(experiment, "files.token_frequencies", beside[0], "--token_weight_path")
            notes.append(f"--token_weight_path {frequencies}: is not there; taking {beside[0]}")
    if not experiment.train.modality_dropout:
        if float(values.get("multimodal_drop_prop", 0)):
            notes.append("--multimodal_drop_prop has no effect: --do_multimodal_augment True is not given")
        elif "do_multimodal_augment" in values and _on(values, "do_multimodal_augment"):
            notes.append("--do_multimodal_augment has no effect: the share is 0; add --multimodal_drop_prop 0.5")
    if "bits" in values and experiment.start.base is None:
        notes.append(f"--bits {experiment.start.bits} has no effect: no base is given, and all is trained in float32")
    notes += [f"--{name} {_TRANSLATED[name]}: translated" for name in values if name in _TRANSLATED]
    notes += [f"--{name} has no effect: {_WITHOUT_EFFECT[name]}" for name in values if name in _WITHOUT_EFFECT]
    return Options(experiment, notes)


def _derived(values: Mapping[str, str], as_published: bool) -> dict[str, Any]:
    """The settings that do not simply hold the value of one option."""
    settings: dict[str, Any] = {}
    if "data_path" in values:
        settings["files.samples"] = (values["data_path"],)
    if values.get("image_folder", "/") != "/":  # `/`: paths in the samples are absolute, which needs no folder
        settings["files.data"] = values["image_folder"]
    if "token_weight_path" in values:
        settings["train.token_weights"] = True
    if not (_on(values, "do_multimodal_augment") if "do_multimodal_augment" in values else not as_published):
        settings["train.modality_dropout"] = 0.0
    if "group_by_modality_length" in values and "order" not in values:
        settings["train.order"] = "balanced" if _on(values, "group_by_modality_length") else "random"
    return settings


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """Option -> value, in the order of the command; the last value of a repeated option."""
    values: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} belongs to no option; every option has one value at most")
        name, sign, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
            raise UserError(f"--{name} is no option of training" + (f"; did you mean --{near[0]}?" if near else ""))
        if not sign:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        values.pop(name, None)
        values[name] = value
    return values


def _on(values: Mapping[str, str], name: str) -> bool:
    if values[name].lower() not in ("true", "false"):
        raise UserError(f"--{name} {values[name]}: expected True or False")
    return values[name].lower() == "true"
