"""Where people look and where their hands are, from their glasses (EgoExOR, arXiv 2505.24287)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from operating_room.files.array_files import GAZE_COLUMNS, HAND_COLUMNS, read_gaze, read_hands
from operating_room.files.readers import picture_size

Ego = Mapping[int, Path]  # number of a camera -> its picture, of the glasses whose pictures are shown
_OTHER_SIDES = [2, 3, 0, 1, 6, 7, 4, 5]  # the eight points of the hands with left and right exchanged


def gaze_of(path: Path, ego: Ego) -> Float[Tensor, "people 3"]:
    """Where the wearers of these glasses look: x and y as shares of their picture, depth in m; missing: below 0.

    Rows are found by the number of the camera, so that those of other cameras in the file change nothing. The published
    code demands as many of them as there are pictures; here a person without row has none.

    Raises:
        UserError: see `operating_room.files.array_files.read_gaze`, or a picture is missing or damaged.
    """
    rows = [np.append(_shares(row[1:3], picture), row[3]) for row, picture in _rows(read_gaze(path), ego)]
    return torch.from_numpy(np.array(rows, np.float32).reshape(-1, GAZE_COLUMNS - 1))


def hands_of(path: Path, ego: Ego) -> Float[Tensor, "people 16"]:
    """x and y of eight points of the hands of the wearers of these glasses, as shares of their picture; missing: NaN.

    Raises:
        UserError: see `operating_room.files.array_files.read_hands`, or a picture is missing or damaged.
    """
    rows = [_shares(row[1:], picture) for row, picture in _rows(read_hands(path), ego)]
    return torch.from_numpy(np.array(rows, np.float32).reshape(-1, HAND_COLUMNS - 1))


def mirrored_gaze(gaze: Float[Tensor, "people 3"]) -> Float[Tensor, "people 3"]:
    """Left is right; what was not found stays so."""
    x = gaze[:, 0]
    return torch.cat([torch.where(x < 0, x, 1 - x)[:, None], gaze[:, 1:]], dim=1)


def mirrored_hands(hands: Float[Tensor, "people 16"]) -> Float[Tensor, "people 16"]:
    """Left is right, also of the hands: a left hand in a mirror is a right one."""
    points = hands.unflatten(1, (8, 2))[:, _OTHER_SIDES]
    return torch.stack([1 - points[..., 0], points[..., 1]], dim=-1).flatten(1)


def _rows(values: np.ndarray, ego: Ego) -> list[tuple[np.ndarray, Path]]:
    """The first row of each camera, in the order of the cameras, with its picture."""
    found: dict[int, np.ndarray] = {}
    for row in values:
        if np.isfinite(row[0]):
            found.setdefault(int(row[0]), row)
    return [(found[number], picture) for number, picture in ego.items() if number in found]


def _shares(points: np.ndarray, picture: Path) -> np.ndarray:
    """Points in px (x, y, x, y, ...) as shares of width and height of a picture."""
    return points / np.tile(np.array(picture_size(picture), np.float32), len(points) // 2)
