"""EoMT, VidEoMT and DINOv2 of transformers with random weights at toy size, and the model of ours that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    EomtConfig,
    EomtForUniversalSegmentation,
    VideomtConfig,
    VideomtForUniversalSegmentation,
)

from computing.machine import seeded
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.segmenter import SegmenterConfig

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "num_blocks": 2,
    "num_queries": 6,
    "num_labels": 3,
}
FITTING = SegmenterConfig(
    classes=3, queries=6, width=32, heads=2, encoder_layers=2, decoder_layers=2, decoder_hidden=128, grid=(4, 4)
)


def ours(config: SegmenterConfig = FITTING, memory: bool = False) -> EncoderOnly:
    """In evaluation mode; `memory` gives it a random one, where a new model has none."""
    with seeded(0):
        model = EncoderOnly(config).eval()
        if memory:
            nn.init.normal_(model.segmenter.heads.query_updater.weight, std=0.3)
    return model


def write_eomt(folder: Path) -> EomtForUniversalSegmentation:
    """Random weights, in evaluation mode and without masked attention."""
    with seeded(1):
        model = EomtForUniversalSegmentation(EomtConfig(**SIZES)).eval()
    _spread(model)
    model.attn_mask_probs.zero_()
    model.save_pretrained(folder)
    return model


def write_videomt(folder: Path) -> VideomtForUniversalSegmentation:
    """Random weights, in evaluation mode."""
    with seeded(2):
        model = VideomtForUniversalSegmentation(VideomtConfig(**SIZES)).eval()
    _spread(model)
    model.save_pretrained(folder)
    return model


def write_dinov2(folder: Path) -> Dinov2WithRegistersModel:
    """Random weights: patches of 14 px, 6x6 of them."""
    with seeded(3):
        model = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=84, patch_size=14
            )
        ).eval()
    _spread(model)
    model.save_pretrained(folder)
    return model


def _spread(model: nn.Module) -> None:
    """Nothing is left at zero or one, where a mistake would not show."""
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
