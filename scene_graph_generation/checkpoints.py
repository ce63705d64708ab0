"""Model folders on disk, and the names of published parameters.

Our form is a folder with `model.safetensors`, `config.json` and `tokenizer.json`. Published parameter names (stage-2
specification, sections 0 and 4) are translated here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files import write_bytes, write_json
from scene_graph_generation.config import MM2SGConfig, from_mapping, to_mapping
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.tokens import Tokens, read_tokens

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Published prefix -> ours, more specific prefixes first.
_PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "vision.clip."),
    ("model.image_pooler.bert.", "pooler.views.bert."),
    ("model.image_pooler.point_transformer.", "pooler.point_encoder."),
    ("model.image_pooler.project_audio.", "pooler.project_audio."),
    ("model.image_pooler.segmasks_encoder.embedding.", "pooler.mask_encoder.embedding."),
    *(
        (f"model.image_pooler.segmasks_encoder.conv{i + 1}.", f"pooler.mask_encoder.convolutions.{i}.")
        for i in range(5)
    ),
    ("model.mm_projector.", "projector."),
    ("lm_head.", "language.lm_head."),
    ("model.", "language.model."),
)
# Buffers of the published files that are computed here.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids", "token_type_ids")


def our_name(published: str) -> str | None:
    """Our name of a published parameter, with or without `base_model.`; None for a buffer that is computed here."""
    if published.endswith(_COMPUTED):
        return None
    bare = published.removeprefix("base_model.")
    return _translate(bare.removeprefix("model.") if bare.startswith("model.model.") else bare, _PREFIXES)


def published_name(ours: str) -> str:
    """The published name of one of our parameters."""
    return _translate(ours, tuple((own, published) for published, own in _PREFIXES))


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our names from one in published names."""
    return {name: tensor for published, tensor in state.items() if (name := our_name(published)) is not None}


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


def _translate(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for before, after in prefixes:
        if name.startswith(before):
            return after + name.removeprefix(before)
    raise UserError(f"parameter {name} is none of the scene-graph model's; is this checkpoint for another model?")
