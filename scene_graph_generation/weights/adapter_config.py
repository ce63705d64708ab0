"""adapter_config.json: how the adapter of a published folder is built (stage-2 specification, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from scene_graph_generation.config.mapping import from_mapping
from scene_graph_generation.config.settings import LoraConfig
from scene_graph_generation.weights.base_models import read_settings

ADAPTER_CONFIG = "adapter_config.json"

# What newer libraries can do beside plain LoRA; each would have to be computed in another way.
_FURTHER = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "alpha_pattern",
    "rank_pattern",
    "layers_to_transform",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "loftq_config",  # this one and the two behind it change the base itself
    "corda_config",
    "lora_ga_config",
)
_BESIDE_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")  # ways to begin; others change the base
_MOST = 1_000_000  # of rank and alpha: a sanity check


def read_adapter_config(path: Path) -> tuple[LoraConfig, str]:
    """The adapter's settings, and the name of its base.

    Raises:
        UserError: the file is damaged, of another kind of adapter, or a number is none.
    """
    card = read_settings(path)
    kind = card.get("peft_type", "LORA")
    further = next((key for key in _FURTHER if card.get(key)), None)
    if card.get("init_lora_weights") not in _BESIDE_THE_BASE:
        further = f"init_lora_weights {str(card['init_lora_weights'])[:60]}"
    if card.get("bias", "none") != "none":
        further = f"bias {str(card['bias'])[:60]}"
    if kind != "LORA" or further:
        raise UserError(f"{path}: is an adapter of another kind ({further or kind}); only plain LoRA is known here")
    numbers = {
        "rank": _number(card, "r", path),
        "alpha": _number(card, "lora_alpha", path),
        "dropout": _number(card, "lora_dropout", path, 0.0),
    }
    whole = {name: int(value) for name, value in numbers.items() if value == int(value)}
    lora = from_mapping(LoraConfig, numbers | whole, str(path))
    return lora, base_name(card.get("base_model_name_or_path"), path)


def published_adapter_config(lora: LoraConfig, base: str, targets: list[str]) -> dict[str, Any]:
    """What adapter_config.json holds; `targets` are the layers that have an adapter."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    }


def base_name(value: Any, path: Path) -> str:
    """The name of a base in a settings file.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{path}: names no base ({str(value)[:60]!r}); copy the whole folder again")
    return value


def _number(card: Mapping[str, Any], key: str, path: Path, usual: float | None = None) -> float:
    value = card.get(key, usual)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -_MOST < value < _MOST:  # NaN is not
        raise UserError(f"{path}: {key} is {str(value)[:60]!r}, no number for a LoRA adapter; copy it again")
    return float(value)
