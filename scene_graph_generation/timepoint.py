"""The files of one timepoint to tensors: views, audio vector, masks, point cloud (stage-2 specification, section 6).

A modality that a timepoint does not have is None. Views are kept as bytes and normalised last, so that they can be
cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operating_room.categories import LABEL_COUNT
from operating_room.errors import UserError
from operating_room.readers import read_label_mask, read_picture, read_point_cloud
from scene_graph_generation.model.pooler import MASKS

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOR = tuple(int(255 * mean) for mean in MEAN)
BLACK_SIZE = (2048, 1536)  # px, of the picture that stands for a missing view (data specification, section 4.1)
MASK_SIZE = 32  # px


def prepare_view(picture: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[Tensor, "3 size size"]:
    """Pad a picture to a square with CLIP's mean colour and resize it (Pillow, bicubic)."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(Image.fromarray(picture), ((side - width) // 2, (side - height) // 2))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1).contiguous()


def normalise_views(views: UInt8[Tensor, "views 3 size size"]) -> Float[Tensor, "views 3 size size"]:
    """Scale to 0..1, subtract CLIP's mean, divide by its standard deviation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (views.float() / 255 - mean) / std


class ViewReader:
    """Reads pictures as prepared views; with `keep` each file is read once and stays in memory."""

    def __init__(self, size: int, keep: bool = False) -> None:
        self.size = size
        self._kept: dict[Path | None, Tensor] | None = {} if keep else None

    def __call__(self, paths: Sequence[Path | None]) -> Float[Tensor, "views 3 size size"]:
        """The views of these pictures; None is a black picture, no picture at all is one view of the mean colour.

        Raises:
            UserError: a picture is missing or damaged.
        """
        if not paths:
            return torch.zeros(1, 3, self.size, self.size)
        return normalise_views(torch.stack([self._view(path) for path in paths]))

    def _view(self, path: Path | None) -> UInt8[Tensor, "3 size size"]:
        if self._kept is not None and path in self._kept:
            return self._kept[path]
        width, height = BLACK_SIZE
        picture = np.zeros((height, width, 3), np.uint8) if path is None else read_picture(path)
        view = prepare_view(picture, self.size)
        if self._kept is not None or path is None:
            self._kept = {} if self._kept is None else self._kept
            self._kept[path] = view
        return view


def read_audio_embedding(path: Path, width: int) -> Float[Tensor, " width"]:
    """The stored audio vector.

    Raises:
        UserError: the file is damaged, holds something else, or a vector of another length.
    """
    try:
        vector = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as an audio embedding; delete it and preprocess again") from error
    if not isinstance(vector, Tensor) or vector.numel() != width or not vector.is_floating_point():
        raise UserError(f"{path}: expected an audio embedding of {width} numbers; delete it and preprocess again")
    return vector.detach().flatten().float()


def read_masks(paths: Sequence[Path]) -> UInt8[Tensor, "masks 32 32"] | None:
    """The 32x32 label maps of a timepoint, None if there are none.

    Raises:
        UserError: a file is damaged, of another size, has labels out of range, or there are more than three.
    """
    if not paths:
        return None
    if len(paths) > MASKS:
        raise UserError(f"{paths[MASKS]}: is mask number {len(paths)} of its timepoint, but the model takes {MASKS}")
    masks = [read_label_mask(path) for path in paths]
    for path, mask in zip(paths, masks):
        if mask.shape != (MASK_SIZE, MASK_SIZE) or mask.max() >= LABEL_COUNT:
            raise UserError(
                f"{path}: expected {MASK_SIZE}x{MASK_SIZE} labels below {LABEL_COUNT}; preprocess masks again"
            )
    return torch.from_numpy(np.stack(masks))


def read_cloud(path: Path) -> Float[Tensor, "points 6"] | None:
    """Coordinates in metres and colours in 0..1; None for a cloud without points.

    Raises:
        UserError: the file is damaged.
    """
    points = read_point_cloud(path)
    return torch.from_numpy(points) if len(points) else None
