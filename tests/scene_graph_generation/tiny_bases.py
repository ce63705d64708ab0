"""Bases in the layout of the model hub, and a model fine-tuned on them, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from operating_room.domain.domain import mmor
from operating_room.graphs.prompts import conversation, human_prompt
from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapters import add_lora, freeze, is_adapter
from scene_graph_generation.weights.base_models import language_values
from scene_graph_generation.weights.parameter_names import published_name
from tests.scene_graph_generation.model.test_model import TINY, make_model

VOCABULARY = 700
SETTINGS = replace(TINY, language=replace(TINY.language, vocabulary=VOCABULARY, width=64, mlp=128), max_length=256)


def write_bases(root: Path, suffix: str = ".bin", settings: MM2SGConfig = SETTINGS) -> tuple[Path, Path]:
    """Folders of a LLaVA in two shards and of a CLIP in one file, with the weights of `make_model`."""
    state = {published_name(name): tensor.clone() for name, tensor in make_model(settings).state_dict().items()}
    start = "model.vision_tower.vision_tower."
    clip = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    clip["text_model.final_layer_norm.weight"] = torch.ones(4)
    llava = {name: t for name, t in state.items() if not name.startswith((start, "model.image_pooler."))}
    language, vision = root / "language", root / "vision"
    for folder in (language, vision):
        folder.mkdir(parents=True)
    names = list(llava)
    shards = {f"part-{i}{suffix}": {name: llava[name] for name in names[i::2]} for i in range(2)}
    for file, part in shards.items():
        _write(language / file, part)
    whole = "pytorch_model.bin" if suffix == ".bin" else "model.safetensors"
    index = {name: file for file, part in shards.items() for name in part}
    (language / f"{whole}.index.json").write_text(json.dumps({"weight_map": index}))
    _write(vision / whole, clip)
    assert isinstance(settings.language, LanguageConfig)
    (language / "config.json").write_text(
        json.dumps({"model_type": "llava", **language_values(settings.language), "tokenizer_model_max_length": 256})
    )
    sizes = settings.vision
    (vision / "config.json").write_text(
        json.dumps(
            {
                "model_type": "clip",
                "vision_config": {
                    "hidden_size": sizes.width,
                    "intermediate_size": sizes.mlp,
                    "num_hidden_layers": sizes.layers,
                    "num_attention_heads": sizes.heads,
                    "image_size": sizes.image_size,
                    "patch_size": sizes.patch_size,
                },
            }
        )
    )
    train_tokens(
        [conversation(human_prompt(mmor().language, None, None, "hello", None))], VOCABULARY, mmor().language
    ).save(language)
    return language, vision


def fine_tuned(settings: MM2SGConfig = SETTINGS) -> MM2SG:
    """A model on these bases whose trained parts differ from them."""
    model = make_model(settings)
    torch.manual_seed(0)
    add_lora(model, rank=4, alpha=8)
    freeze(model, 2)
    draw = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.3 if is_adapter(name) else 0.03
            parameter.data += torch.randn(parameter.shape, generator=draw) * scale
    return model.eval()


def _write(path: Path, state: dict[str, Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path)
