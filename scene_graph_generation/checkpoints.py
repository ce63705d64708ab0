"""Model folders: a whole model (`model.safetensors`, `config.json`, `tokenizer.json`), or what is beside a base."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files import write_bytes, write_json
from scene_graph_generation.adapters import adapted_layers, merge_lora
from scene_graph_generation.base_models import CONFIG, Bits, build_empty, find_folder, read_settings, set_precision
from scene_graph_generation.config import MM2SGConfig, from_mapping, to_mapping
from scene_graph_generation.fine_tuned import ADAPTER_CONFIG, OWN_ADAPTER, load_fine_tuned, read_fine_tuned
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.quantization import is_quantized
from scene_graph_generation.tokens import FILE, Tokens, read_tokens

WEIGHTS = "model.safetensors"


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
    }
    write_bytes(folder / WEIGHTS, save(state))


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
            None: 32 on a CPU, 16 on any other device.

    Raises:
        UserError: something is missing, damaged, or does not fit together, or there is no such device.
    """
    _check_device(device)
    bits = bits or (32 if torch.device(device).type == "cpu" else 16)
    if (folder / WEIGHTS).is_file():
        model, tokens = _load_whole(folder), read_tokens(folder)
        set_precision(model, bits, device)
    elif (folder / OWN_ADAPTER).is_file() or (folder / ADAPTER_CONFIG).is_file():
        tuned = read_fine_tuned(folder)
        model, _ = load_fine_tuned(tuned, base, vision, bits, device)
        if bits != 4:
            merge_lora(model)
        tokens = read_tokens(folder if (folder / FILE).is_file() else find_folder(base or tuned.base))
    else:
        raise UserError(
            f"{folder}: no scene-graph model here (neither {WEIGHTS} nor {ADAPTER_CONFIG}); "
            "give the folder that train wrote, or a published one"
        )
    if tokens.size > model.settings.language.vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {tokens.size} tokens, the model {model.settings.language.vocabulary}; "
            "they belong to different trainings"
        )
    return model.eval(), tokens


def load_weights(model: MM2SG, path: Path) -> None:
    """Fill `model` from a safetensors file in our names.

    Raises:
        UserError: the file is damaged, or names or shapes differ from the model's.
    """
    model.load_state_dict(_read_state(model, path))


def _load_whole(folder: Path) -> MM2SG:
    """The model with its weights as they are stored."""
    model = build_empty(from_mapping(MM2SGConfig, read_settings(folder / CONFIG), str(folder / CONFIG)))
    model.load_state_dict(_read_state(model, folder / WEIGHTS), assign=True)
    return model


def _read_state(model: MM2SG, path: Path) -> dict[str, Tensor]:
    """A state dict that fits `model`."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); train or copy the model again") from error
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise UserError(f"{path}: does not fit the model's config.json, first at {wrong[0]} ({len(wrong)} in all)")
    return state


def _check_device(device: torch.device | str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or no such device in this machine
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device}: cannot be used ({reason}); choose another one, cpu always is") from error
