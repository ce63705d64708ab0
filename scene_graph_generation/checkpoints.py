"""Model folders on disk: `model.safetensors`, `config.json` and `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from operating_room.errors import UserError
from operating_room.files import write_bytes, write_json
from scene_graph_generation.config import MM2SGConfig, from_mapping, to_mapping
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.tokens import Tokens, read_tokens

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(folder: Path, model: MM2SG, tokens: Tokens, dtype: torch.dtype = torch.float32) -> None:
    """Write the model folder; the weights come last, so a folder with weights is complete.

    Raises:
        UserError: the folder cannot be written.
    """
    write_json(folder / CONFIG, to_mapping(model.settings), indent=1)
    tokens.save(folder)
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_bytes(folder / WEIGHTS, save(state))


def load_model(folder: Path) -> tuple[MM2SG, Tokens]:
    """Read a model folder; the model is in evaluation mode and float32.

    Raises:
        UserError: something is missing, damaged, or does not fit together.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no scene-graph model here ({WEIGHTS} is missing); give the folder that train wrote")
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG}: cannot be read ({error}); train or copy the model again") from error
    config = from_mapping(MM2SGConfig, values, str(folder / CONFIG))
    model = MM2SG(config)
    load_weights(model, folder / WEIGHTS)
    tokens = read_tokens(folder)
    if tokens.size > config.language.vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {tokens.size} tokens, the model {config.language.vocabulary}; "
            "they belong to different trainings"
        )
    return model.eval(), tokens


def load_weights(model: MM2SG, path: Path) -> None:
    """Fill `model` from a safetensors file in our names.

    Raises:
        UserError: the file is damaged, or names or shapes differ from the model's.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); train or copy the model again") from error
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise UserError(f"{path}: does not fit the model's config.json, first at {wrong[0]} ({len(wrong)} in all)")
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    )
