"""Which parameter is trained at which rate and decayed how much (stage-1 specification, section 9.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from panoptic_segmentation.config.settings import Rates
from panoptic_segmentation.model.encoder_only.vit import Block

_NORMALISATION = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


def parameter_rates(model: nn.Module, rates: Rates) -> Iterator[tuple[str, nn.Parameter, float, float]]:
    """Name, parameter, learning rate and weight decay of each trainable parameter."""
    blocks = sum(isinstance(module, Block) for module in model.modules())
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            if not parameter.requires_grad:
                continue
            rate, decay = rates.base, rates.decay
            if "backbone" in module_name:
                rate *= rates.backbone_multiplier
            rate *= rates.layer_decay ** (blocks - _depth(name, blocks))
            if isinstance(module, _NORMALISATION):
                decay = rates.decay_of_normalisation
            elif isinstance(module, nn.Embedding):
                decay = rates.decay_of_embeddings
            yield name, parameter, rate, decay


def _depth(name: str, blocks: int) -> int:
    """How far a parameter of a vision transformer is from the picture: 0 before the first block, `blocks` after all."""
    block = re.search(r"segmenter\.encoder\.layers\.(\d+)\.", name)
    if block is not None:
        return int(block[1]) + 1
    before = "segmenter.encoder." in name and "segmenter.encoder.norm." not in name
    return 0 if before else blocks


def parameter_groups(model: nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: one per combination of learning rate and weight decay.

    `of_encoder` tells those of a vision transformer, which may get warm later than the others.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter, rate, decay in parameter_rates(model, rates):
        groups.setdefault((rate, decay, name.startswith("segmenter.encoder.")), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "of_encoder": of_encoder}
        for (rate, decay, of_encoder), params in groups.items()
    ]
