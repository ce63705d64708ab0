"""What the published fine-tuning trains: LoRA on the language model, projector, pooler, the last vision layers.

Stage-2 specification, sections 4 and 5. The adapter is injected into the language model of a `MM2SG`, which stays a
`MM2SG`: an adapted layer keeps its weight as `NAME.base_layer.weight` and gains `NAME.lora_A.default.weight` and
`NAME.lora_B.default.weight` (Hu et al. 2022: W + alpha / rank * B A).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from operating_room.errors import UserError
from scene_graph_generation.config.settings import LoraConfig
from scene_graph_generation.model.mm2sg import MM2SG

ADAPTER = "default"  # peft's name for the only adapter of a model


def add_lora(
    model: MM2SG, rank: int = LoraConfig.rank, alpha: int = LoraConfig.alpha, dropout: float = LoraConfig.dropout
) -> None:
    """Put a new adapter on the linear layers of every decoder layer; it changes nothing until it is trained.

    Its parameters are float32, also on a base of fewer bits, and drawn from torch's generator.

    Raises:
        UserError: the language model has no linear layers.
    """
    import peft  # takes two seconds, and few models have an adapter

    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets(model), bias="none")
    peft.inject_adapter_in_model(config, model.language, adapter_name=ADAPTER)
    for name, parameter in model.language.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
    model.language.train(model.training)  # the new layers are in training mode, with dropout


def targets(model: MM2SG) -> list[str]:
    """Names of the linear layers that get an adapter, within a decoder layer, in its order; as published not lm_head.

    Raises:
        UserError: there are none.
    """
    head = model.language.get_output_embeddings()
    layers = (
        name.removesuffix(".base_layer")
        for name, layer in model.language.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and not is_adapter(f"{name}.")
    )
    if not (names := list(dict.fromkeys(name.rpartition(".")[2] for name in layers))):
        raise UserError("this language model has no linear layers for an adapter; leave the adapter out")
    return names


def freeze(model: MM2SG, vision_layers: int | None = 12) -> None:
    """Leave trainable: the adapter, projector, whole pooler, and the last `vision_layers` layers of the vision tower.

    As published these include layers behind the feature layer and parts of the pooler's BERT that get no gradient.
    With None only the adapter is trained, as for a model that reads text only.
    """
    model.requires_grad_(False)
    if vision_layers is not None:
        layers = model.vision.clip.encoder.layers
        for part in (model.projector, model.pooler, *layers[max(len(layers) - vision_layers, 0) :]):
            part.requires_grad_(True)
    for name, parameter in model.language.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def parameter_groups(
    model: MM2SG, learning_rate: float, weight_decay: float = 0.0, projector_rate: float | None = None
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for a torch optimiser, in the published order.

    Decayed and other parameters of everything but the projector, then the same two of the projector if it has a
    `projector_rate` of its own. As published everything decays that is no bias and in no LayerNorm, so the weights of
    RMSNorm and BatchNorm do.
    """
    kept = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for parameter, _ in module.named_parameters(recurse=False)
    }
    groups = []
    for of_projector, rate in ((False, learning_rate), (True, projector_rate)):
        for decay in (weight_decay, 0.0):
            members = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and (projector_rate is not None and name.startswith("projector.")) == of_projector
                and (name in kept or "bias" in name) == (len(groups) % 2 == 1)
            ]
            groups.append({"params": members, "lr": rate, "weight_decay": decay})
    return groups[:2] if projector_rate is None else groups


@torch.no_grad()
def merge_lora(model: MM2SG) -> None:
    """Add the adapter to the weights it adapts, in float32, and take it out.

    Raises:
        UserError: the base is quantised; the sum would have to be rounded to 4 bits again.
    """
    for name, layer in list(adapted_layers(model)):
        base = layer.get_base_layer()
        if type(base) is not nn.Linear:
            raise UserError(
                f"{name}: is quantised, and an adapter is merged into full precision only; load the base with 16 bits"
            )
        down, up = (matrices[ADAPTER].weight.float() for matrices in (layer.lora_A, layer.lora_B))
        base.weight.copy_(base.weight.float() + layer.scaling[ADAPTER] * up @ down)
        model.language.set_submodule(name, base)


def adapted_layers(model: MM2SG) -> Iterator[tuple[str, Any]]:
    """Name within the language model, and layer (peft's `LoraLayer`), of every layer that has an adapter."""
    for name, module in model.language.named_modules():
        if hasattr(module, "lora_A"):
            yield name, module


def is_adapter(name: str) -> bool:
    """Whether the parameter of this name belongs to an adapter."""
    return ".lora_" in name
