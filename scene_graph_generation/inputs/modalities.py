"""What a model is told besides its views, one row for each modality: its files, reader, tokens and encoder.

Stage-2 specification, sections 1 and 6; gaze and hands as EgoExOR has them (arXiv 2505.24287). To add one: a row here
with its reader, its name in the settings, and the part of `model.pooler.ImagePooler` that encodes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files.array_files import NO_GAZE
from operating_room.files.readers import read_label_mask, read_point_cloud
from operating_room.files.tensors import read_vector
from operating_room.recordings import modalities as recordings
from operating_room.recordings.masks import SMALL
from operating_room.recordings.modalities import BY_NAME
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.glasses import Ego, gaze_of, hands_of, mirrored_gaze, mirrored_hands


@dataclass(frozen=True)
class Modality:
    """One of the modalities that stand beside the views."""

    recorded: recordings.Modality
    encoder: str  # the part of the pooler that encodes it
    read: Callable[[Sequence[Path], Ego, MM2SGConfig], Tensor]
    least: Callable[[MM2SGConfig], Tensor | None]  # the smallest that there can be; None: the model has no encoder
    tokens: Callable[[MM2SGConfig], int]  # at most
    mirrored: Callable[[Tensor], Tensor] = lambda values: values  # in a mirrored room

    @property
    def name(self) -> str:
        """In `MM2SGConfig.modalities`, `Example.others` and `Evidence.others`."""
        return self.recorded.input or ""

    @property
    def key(self) -> str:
        """Of training records."""
        return self.recorded.record or ""


def read_audio_embedding(path: Path, width: int) -> Float[Tensor, " width"]:
    """The stored audio vector.

    Raises:
        UserError: see `operating_room.files.tensors.read_vector`.
    """
    return read_vector(path, width)


def read_masks(paths: Sequence[Path], config: MM2SGConfig) -> UInt8[Tensor, "masks 32 32"]:
    """The 32x32 label maps of a timepoint.

    Raises:
        UserError: a file is damaged, of another size, has labels that the model does not know, or there are more than
            the model takes.
    """
    if len(paths) > config.masks:
        raise UserError(f"{paths[-1]}: is mask number {len(paths)} of its timepoint, the model takes {config.masks}")
    masks = [read_label_mask(path) for path in paths]
    for path, mask in zip(paths, masks):
        if mask.shape != (SMALL, SMALL) or mask.max() >= config.labels:
            raise UserError(f"{path}: expected {SMALL}x{SMALL} labels below {config.labels}; preprocess masks again")
    return torch.from_numpy(np.stack(masks))


def read_cloud(path: Path) -> Float[Tensor, "points 6"]:
    """Coordinates in metres and colours in 0..1.

    Raises:
        UserError: see `operating_room.files.readers.read_point_cloud`.
    """
    return torch.from_numpy(read_point_cloud(path))


# In the published order of their tokens.
MODALITIES = (
    Modality(
        BY_NAME["point_cloud"],
        "point_encoder",
        read=lambda paths, ego, config: read_cloud(paths[0]),
        least=lambda config: torch.zeros(1, 6) if "cloud" in config.modalities else None,
        tokens=lambda config: 1,
        mirrored=lambda cloud: cloud * cloud.new_tensor([-1, 1, 1, 1, 1, 1]),
    ),
    Modality(
        BY_NAME["audio_embedding"],
        "project_audio",
        read=lambda paths, ego, config: read_audio_embedding(paths[0], config.pooler.audio_width),
        least=lambda config: torch.zeros(config.pooler.audio_width),
        tokens=lambda config: 1,
    ),
    Modality(
        BY_NAME["masks"],
        "mask_encoder",
        read=lambda paths, ego, config: read_masks(paths, config),
        least=lambda config: torch.zeros(1, SMALL, SMALL, dtype=torch.uint8) if config.masks else None,
        tokens=lambda config: config.masks,  # however many there are
        mirrored=lambda masks: masks.flip(-1),
    ),
    Modality(
        BY_NAME["gaze"],
        "gaze_encoder",
        read=lambda paths, ego, config: gaze_of(paths[0], ego),
        least=lambda config: torch.full((1, 3), NO_GAZE) if "gaze" in config.modalities else None,
        tokens=lambda config: config.pooler.max_views,
        mirrored=mirrored_gaze,
    ),
    Modality(
        BY_NAME["hands"],
        "hand_encoder",
        read=lambda paths, ego, config: hands_of(paths[0], ego),
        least=lambda config: torch.zeros(1, 16) if "hands" in config.modalities else None,
        tokens=lambda config: config.pooler.max_views,
        mirrored=mirrored_hands,
    ),
)

# What goes through the pooler with the views of each branch, behind them, as EgoExOR has it; masks are ours.
BRANCHES = {"ego": ("gaze", "hands"), "exo": ("audio", "cloud", "masks")}


def most_visual_tokens(config: MM2SGConfig) -> int:
    """The most visual tokens of a sample: those of a view for each branch, and all behind them."""
    return config.vision.tokens * (2 if config.pooler.branches == "ego_exo" else 1) + other_tokens(config)


def other_tokens(config: MM2SGConfig) -> int:
    """The most visual tokens of a sample behind those of its views; of two branches none, all is pooled with them."""
    if config.pooler.branches == "ego_exo":
        return 0
    return sum(row.tokens(config) for row in MODALITIES if row.least(config) is not None)
