"""Folders that hold what was trained beside a base: as the published system writes them, and our safetensors form.

Published (stage-2 specification, sections 4 and 9): config.json, adapter_config.json, adapter_model.bin (LoRA),
non_lora_trainables.bin (pooler, projector, last vision layers, and every buffer of the model).
Ours: config.json and adapter.json, trained.safetensors with all of it, tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files import atomic_path, write_bytes, write_json
from operating_room.loading import LoadReport
from scene_graph_generation.adapters import ADAPTER, TARGETS, adapted_layers, add_lora, freeze, is_adapter
from scene_graph_generation.base_models import (
    CONFIG,
    OWN_SETTINGS,
    Bits,
    assign,
    base_settings,
    find_folder,
    language_values,
    load_base,
    read_config,
    read_settings,
    read_tensors,
    set_precision,
)
from scene_graph_generation.config import LoraConfig, from_mapping, to_mapping
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.parameter_names import WRAPPED, our_name, published_name
from scene_graph_generation.tokens import Tokens

ADAPTER_CONFIG, ADAPTER_WEIGHTS, OTHER_WEIGHTS = "adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin"
OWN_ADAPTER, OWN_WEIGHTS = "adapter.json", "trained.safetensors"
_VISION_LAYERS = "model.vision_tower.vision_tower.vision_model.encoder.layers."


@dataclass(frozen=True)
class FineTuned:
    """What a folder adds to its bases."""

    folder: Path
    base: str
    vision: str | None
    lora: LoraConfig
    state: dict[str, Tensor]  # under published names


def read_fine_tuned(folder: Path) -> FineTuned:
    """Read a folder of either form; which one is decided by its files, never by its name.

    Raises:
        UserError: a file is missing or damaged.
    """
    if (folder / OWN_ADAPTER).is_file():
        card = read_settings(folder / OWN_ADAPTER)
        lora = from_mapping(LoraConfig, card.get("lora"), str(folder / OWN_ADAPTER))
        state = {published_name(name): tensor for name, tensor in read_tensors(folder / OWN_WEIGHTS).items()}
        return FineTuned(folder, str(card.get("base")), card.get("vision"), lora, state)
    for name in (CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS, OTHER_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; copy the whole published folder")
    card = read_settings(folder / ADAPTER_CONFIG)
    try:
        lora = LoraConfig(int(card["r"]), int(card["lora_alpha"]), float(card.get("lora_dropout", 0.0)))
        base = str(card["base_model_name_or_path"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG}: describes no LoRA adapter ({error}); copy it again") from error
    state = read_tensors(folder / OTHER_WEIGHTS) | read_tensors(folder / ADAPTER_WEIGHTS)
    return FineTuned(folder, base, read_config(folder).get("mm_vision_tower"), lora, state)


def load_fine_tuned(
    tuned: FineTuned,
    base: str | Path | None = None,
    vision: str | Path | None = None,
    bits: Bits = 16,
    device: torch.device | str = "cpu",
) -> tuple[MM2SG, LoadReport]:
    """The bases with what was trained beside them, and what was found; the adapter is not merged.

    Args:
        base, vision: folder or name on the hub, in place of those that the folder names.

    Raises:
        UserError: a base is missing or another one, or the folder does not hold the whole of what was trained.
    """
    base, vision = base or tuned.base, vision or tuned.vision
    settings = base_settings(tuned.folder, None if vision is None else find_folder(vision))
    model = load_base(base, vision, settings)
    matrices = {name: tensor for name, tensor in tuned.state.items() if is_adapter(name)}
    others = assign(model, {name: t for name, t in tuned.state.items() if name not in matrices}, tuned.folder)
    set_precision(model, bits, device)
    add_lora(model, tuned.lora.rank, tuned.lora.alpha, tuned.lora.dropout)
    adapter = assign(model, matrices, tuned.folder)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(device, torch.float32)
    report = _check_complete(model, others, adapter)
    if any(name.startswith("projector.") for name in map(our_name, report.matched) if name):
        layers = [int(name.split(_VISION_LAYERS)[1].split(".")[0]) for name in report.matched if _VISION_LAYERS in name]
        freeze(model, settings.vision.layers - min(layers, default=settings.vision.layers))
    else:
        freeze(model, None)
    return model.eval(), report


def save_published(folder: Path, model: MM2SG, base: str, vision: str | None, dtype: torch.dtype | None = None) -> None:
    """Write what is trainable in the published form; the weights come last, so a folder with all files is complete.

    Args:
        base, vision: what the model was trained on, folder or name on the hub.
        dtype: of floating-point weights; by default what they have in the model.

    Raises:
        UserError: the model has no adapter, or the folder cannot be written.
    """
    lora = _lora_of(model)
    write_json(folder / CONFIG, _published_config(model, vision), indent=2)
    write_json(folder / ADAPTER_CONFIG, _published_adapter_config(lora, base), indent=2)
    for name, state in ((ADAPTER_WEIGHTS, adapter_state(model)), (OTHER_WEIGHTS, other_state(model))):
        with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
            torch.save({key: _stored(tensor, dtype) for key, tensor in state.items()}, file)


def save_trained(
    folder: Path, model: MM2SG, tokens: Tokens, base: str, vision: str | None, dtype: torch.dtype | None = None
) -> None:
    """Write what is trainable in our form: no pickle, no copy of the base. Arguments as of `save_published`."""
    lora = _lora_of(model)
    write_json(folder / CONFIG, to_mapping(model.settings), indent=1)
    write_json(folder / OWN_ADAPTER, {"base": base, "vision": vision, "lora": asdict(lora)}, indent=1)
    tokens.save(folder)
    write_bytes(folder / OWN_WEIGHTS, save({name: _stored(tensor, dtype) for name, tensor in _trained(model)}))


def adapter_state(model: MM2SG) -> dict[str, Tensor]:
    """The entries of adapter_model.bin."""
    return {WRAPPED + published_name(name): tensor for name, tensor in _trained(model) if is_adapter(name)}


def other_state(model: MM2SG) -> dict[str, Tensor]:
    """The entries of non_lora_trainables.bin: trainable parameters without the adapter, and every buffer."""
    trained = {WRAPPED + published_name(name): tensor for name, tensor in _trained(model) if not is_adapter(name)}
    return trained | {WRAPPED + name: tensor for name, tensor in _computed_buffers(model)}


def _trained(model: MM2SG) -> Iterator[tuple[str, Tensor]]:
    """Trainable parameters and stored buffers, under our names."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    stored = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in stored)


def _computed_buffers(model: MM2SG) -> Iterator[tuple[str, Tensor]]:
    """Buffers that the published files hold and no reader needs: rotary tables, position and type ids."""
    language, vision, pooler = model.settings.language, model.settings.vision, model.settings.pooler
    width = language.width // language.heads
    frequencies = 1 / 10000 ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(language.positions).float(), frequencies).repeat(1, 2)[None, None]
    for layer in range(language.layers):
        rotary = f"model.layers.{layer}.self_attn.rotary_emb"
        yield f"{rotary}.inv_freq", frequencies
        yield f"{rotary}.cos_cached", angles.cos()
        yield f"{rotary}.sin_cached", angles.sin()
    positions = torch.arange(vision.tokens * pooler.max_views)[None]
    yield "model.vision_tower.vision_tower.vision_model.embeddings.position_ids", torch.arange(vision.tokens + 1)[None]
    yield "model.image_pooler.bert.embeddings.position_ids", positions
    yield "model.image_pooler.bert.embeddings.token_type_ids", torch.zeros_like(positions)


def _check_complete(model: MM2SG, others: LoadReport, adapter: LoadReport) -> LoadReport:
    """One report of both; an adapter, pooler or projector that does not fit the model is an error.

    A folder may lack the pooler as a whole (a model that reads text only), and the projector, which the base has.
    """
    matched = {our_name(name) for name in (*others.matched, *adapter.matched)}
    parts = (
        "pooler.",
        "projector.",
        *(f"vision.clip.encoder.layers.{i}." for i in range(model.settings.vision.layers)),
    )
    given = [name for name, _ in model.named_parameters() if name in matched]
    begun = tuple(part for part in parts if any(name.startswith(part) for name in given))
    missing = [
        published_name(name)
        for name in model.state_dict()
        if name not in matched and (is_adapter(name) or name.startswith(begun or ("-",)))
    ]
    report = LoadReport(
        others.path,
        others.matched + adapter.matched,
        missing,
        others.unexpected + adapter.unexpected,
        others.reshaped + adapter.reshaped,
    )
    lost = [name for name in report.unexpected if is_adapter(name) or "image_pooler" in name or "mm_projector" in name]
    for names, what in ((report.reshaped, "has another shape"), (lost, "is unknown here"), (missing, "is missing")):
        if names:
            raise UserError(
                f"{report.path}: does not fit its base and config.json ({names[0]} {what}, {len(names)} in all); "
                "give the base it was trained on, or copy the folder again"
            )
    return report


def _lora_of(model: MM2SG) -> LoraConfig:
    for _, layer in adapted_layers(model):
        dropout = getattr(layer.lora_dropout[ADAPTER], "p", 0.0)  # an identity if there is none
        return LoraConfig(layer.r[ADAPTER], layer.lora_alpha[ADAPTER], dropout)
    raise UserError("this model has no adapter; save it as a whole model instead")


def _published_config(model: MM2SG, vision: str | None) -> dict[str, Any]:
    settings = model.settings
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **language_values(settings.language),
        "num_key_value_heads": settings.language.heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "image_aspect_ratio": "pad",
        "mm_vision_tower": vision,
        "mm_hidden_size": settings.vision.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": settings.vision.feature_layer,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "mv_type": "learned",
        "tokenizer_model_max_length": settings.max_length,
        "tokenizer_padding_side": "right",
        OWN_SETTINGS: to_mapping(settings),
    }


def _published_adapter_config(lora: LoraConfig, base: str) -> dict[str, Any]:
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
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
    }


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", wanted, copy=True).contiguous()
