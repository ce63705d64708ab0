"""The 32x32 label masks of stage 2: label maps reduced (data specification, section 8)."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from operating_room.categories import run_lengths
from operating_room.errors import UserError

SMALL = 32  # px


def reduce_labels(labels: UInt8[np.ndarray, "height width"], size: int = SMALL) -> UInt8[np.ndarray, "size size"]:
    """Reduce a label map to size x size cells; in each the label wins that is rarest in the whole map.

    Rows and columns beyond the last full cell are cut off and count nowhere; ties go to the smaller label.

    Raises:
        UserError: the map is smaller than the result.
    """
    height, width = labels.shape[0] // size, labels.shape[1] // size
    if not height or not width:
        raise UserError(f"label map of {labels.shape[1]}x{labels.shape[0]} px cannot be reduced to {size}x{size} px")
    cut = np.ascontiguousarray(labels[: height * size, : width * size])
    values, lengths = run_lengths(cut.reshape(-1, 1))
    values = values[:, 0]
    by_rarity = np.argsort(np.bincount(values, lengths, minlength=256), kind="stable").astype(np.uint8)
    # A label that does not occur comes first in this order, but no pixel has it.
    rank = np.empty(256, np.uint8)
    rank[by_rarity] = np.arange(256)
    ranks = rank[values].repeat(lengths).reshape(size, height, size, width)
    return by_rarity[ranks.min(axis=1).min(axis=2)]
