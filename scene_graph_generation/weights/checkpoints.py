"""Model folders: a whole model (`model.safetensors`, `config.json`, `tokenizer.json`), or what is beside a base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from computing.loading import told_by_names
from computing.machine import choose_device, is_full, release_memory, told_full
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.tensors import check_numbers, read_tensors, write_safetensors
from scene_graph_generation.config.mapping import from_mapping
from scene_graph_generation.config.settings import MM2SGConfig, to_mapping
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import FILE, Tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapter_config import ADAPTER_CONFIG
from scene_graph_generation.weights.adapters import adapted_layers, merge_lora
from scene_graph_generation.weights.base_models import CONFIG, check_form, find_folder, is_ours, read_config
from scene_graph_generation.weights.fine_tuned import OWN_ADAPTER, load_fine_tuned, read_fine_tuned
from scene_graph_generation.weights.precision import (
    Bits,
    build_empty,
    check_memory,
    default_bits,
    outline,
    set_precision,
)
from scene_graph_generation.weights.quantization import is_quantized

WEIGHTS = "model.safetensors"
SEEN_WEIGHTS = "seen.safetensors"  # no model: what a training has learnt to see, in its folder until it is over
_GIVE = "give the folder that train wrote, or a published one; `mmor checkpoints inspect` says what something is"


def save_model(folder: Path, model: MM2SG, tokens: Tokens, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder of a whole model; the weights come last, so a folder with weights is complete.

    Raises:
        UserError: the folder cannot be written, or the model is quantised or has an adapter that is not merged.
    """
    if is_quantized(model) or any(adapted_layers(model)):
        raise UserError(f"{folder}: a whole model is saved in full precision; merge its adapter first (16 bits)")
    write_json(folder / CONFIG, to_mapping(model.settings), indent=1)
    tokens.save(folder)
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in model.unwritten
    }
    write_safetensors(folder / WEIGHTS, state)


def load_model(
    folder: Path,
    base: str | Path | None = None,
    vision: str | Path | None = None,
    bits: Bits | None = None,
    device: torch.device | str = "cpu",
) -> tuple[MM2SG, Tokens]:
    """Read a model folder of any form, for inference; which form it is is decided by its files.

    Args:
        base, vision: folder or name on the hub, in place of those that a fine-tuned folder names.
        bits: 32, 16 (bfloat16), or 4 (language model only; its adapter stays beside it, else it is merged).
            None: 16, but 32 for less than a billion parameters on a CPU.

    Raises:
        UserError: something is missing, damaged, or does not fit together, a weight is no number, there is no such
            device, or it has not the memory; nothing is read then.
    """
    device = choose_device(str(device))
    try:
        release_memory(device)  # of a model before: layers of 4 bits and their weights hold each other
        return _load(folder, base, vision, bits, device)
    except RuntimeError as error:
        if not is_full(error):
            raise
        told = f"{device}: has too little memory for {folder} ({told_full(error)})"
        raise UserError(f"{told}; choose fewer --bits, end other programs or take a larger machine") from error


def _load(
    folder: Path, base: str | Path | None, vision: str | Path | None, bits: Bits | None, device: torch.device
) -> tuple[MM2SG, Tokens]:
    if (folder / WEIGHTS).is_file():
        model, tokens = _load_whole(folder, bits, device), read_tokens(folder)
    elif (folder / OWN_ADAPTER).is_file() or (folder / ADAPTER_CONFIG).is_file():
        tuned = read_fine_tuned(folder)
        model, _ = load_fine_tuned(tuned, base, vision, bits, device)
        if not is_quantized(model):
            merge_lora(model)
            check_numbers(dict(model.language.named_parameters()), f"{folder} on its base")
        tokens = read_tokens(folder if (folder / FILE).is_file() else find_folder(base or tuned.base))
    else:
        raise UserError(f"{folder}: no scene-graph model here ({_what_else(folder)}); {_GIVE}")
    check_vocabulary(tokens, model, folder)
    return model.eval(), tokens


def check_vocabulary(tokens: Tokens, model: MM2SG, folder: Path) -> None:
    """Every token must have an embedding.

    Raises:
        UserError: the tokenizer has more of them than the model.
    """
    if tokens.size > (known := model.settings.language.vocabulary):
        raise UserError(
            f"{folder}: the tokenizer has {tokens.size} tokens, the model {known}; they belong to different trainings"
        )


def load_weights(model: MM2SG, path: Path) -> None:
    """Fill `model` from a safetensors file in our names.

    Raises:
        UserError: the file is damaged, a value is no number, or names or shapes differ from the model's.
    """
    state = read_tensors(path)
    _check_fits(state, model, path)
    check_numbers(state, path)
    model.load_state_dict(state, strict=False)  # all but what no folder holds


def _load_whole(folder: Path, bits: Bits | None, device: torch.device | str) -> MM2SG:
    state = read_tensors(folder / WEIGHTS)
    if not (folder / CONFIG).is_file() or not is_ours(read_config(folder)):
        raise UserError(f"{folder}: no scene-graph model here (its {WEIGHTS} is {told_by_names(state)}); {_GIVE}")
    where = folder / CONFIG
    settings = from_mapping(MM2SGConfig, read_config(folder), str(where))
    pictures = any(name.startswith(("vision.", "pooler.", "projector.")) for name in state)
    planned = outline(settings, where, pictures)
    _check_fits(state, planned, folder / WEIGHTS)
    bits = bits or default_bits(planned, device)
    check_memory(planned, bits, device, folder)
    model = build_empty(settings, where, pictures)
    model.load_state_dict(state, strict=False, assign=True)
    model.language.tie_weights()
    set_precision(model, bits, device, folder / WEIGHTS)
    return model


def _check_fits(state: dict[str, Tensor], model: MM2SG, path: Path) -> None:
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in model.unwritten}
    wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise UserError(f"{path}: does not fit the model's config.json, first at {wrong[0]} ({len(wrong)} in all)")
    check_form(state, own, path)


def _what_else(folder: Path) -> str:
    """What a folder is that holds no trained model."""
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "no such folder"
    if (folder / CONFIG).is_file():
        return f"{CONFIG}, but neither {WEIGHTS} nor {ADAPTER_CONFIG}: a base that models are trained on?"
    return f"neither {WEIGHTS} nor {ADAPTER_CONFIG}"
