"""The 32x32 label masks of stage 2: label maps reduced (data specification, section 8); where predicted ones lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.domain.stored import require_domain
from operating_room.errors import UserError

SMALL = 32  # px
PREDICTION_ORIGIN = "model.json"  # beside stage 1's folder `pan_pred`: which model its pictures are of


def reduce_labels(labels: UInt8[np.ndarray, "height width"], size: int = SMALL) -> UInt8[np.ndarray, "size size"]:
    """Reduce a label map to size x size cells; in each the label wins that is rarest in the whole map.

    Rows and columns beyond the last full cell are cut off and count nowhere; ties go to the smaller label. Masks are
    flat: only pixels that differ from the one above are looked at one by one.

    Raises:
        UserError: the map is smaller than the result.
    """
    height, width = labels.shape[0] // size, labels.shape[1] // size  # of a cell
    if not height or not width:
        raise UserError(f"label map of {labels.shape[1]}x{labels.shape[0]} px cannot be reduced to {size}x{size} px")
    cut = np.ascontiguousarray(labels[: height * size, : width * size])
    words = cut.view(np.uint64 if width * size % 8 == 0 else np.uint8)  # eight pixels are compared at a time
    differing = np.flatnonzero(words[1:] != words[:-1])
    above, below = (part.reshape(-1)[differing].view(np.uint8) for part in (words[:-1], words[1:]))
    changes = np.flatnonzero(above != below)
    above, below = above[changes], below[changes]
    word, place = np.divmod(changes, words.itemsize)
    rows, columns = np.divmod(differing[word] * words.itemsize + place, width * size)
    rows += 1  # where the lower pixel lies

    # A label has the pixels down to where it ends in each column, without those above where it begins.
    ends, starts = (np.bincount(values, rows, 256) for values in (above, below))
    counts = ends - starts + len(cut) * np.bincount(cut[-1], minlength=256)
    by_rarity = counts.argsort(kind="stable").astype(np.uint8)
    # A label that does not occur comes first in this order, but no pixel has it.
    rank = np.empty(256, np.uint8)
    rank[by_rarity] = np.arange(256)
    # A column of a cell shows what its uppermost pixel shows and what begins below.
    ranks = rank.take(cut[::height]).reshape(size * size, width).min(axis=1)
    np.minimum.at(ranks, rows // height * size + columns // width, rank[below])
    return by_rarity[ranks].reshape(size, size)


def predictions_origin(predictions: Path, domain: Domain) -> Path | None:
    """What tells which model the pictures of a folder (`inference/pan_pred`) are of; None of another program's.

    Raises:
        UserError: they were made for another domain, whose colours are other classes.
    """
    origin = predictions.absolute().parent / PREDICTION_ORIGIN
    if not origin.exists():
        return None
    require_domain(origin.parent, domain)
    return origin


def predicted_pictures(predictions: Path, take: Take, camera: str) -> dict[str, Path]:
    """Stem of a camera's picture -> class-colour picture of stage 1, whether its video was cut into parts or not.

    Args:
        predictions: the folder with one folder per video (`inference/pan_pred`).
    """
    name = re.compile(rf"{re.escape(take.name)}_{re.escape(camera)}(_part\d+)?")
    folders = sorted(folder for folder in os.listdir(predictions) if name.fullmatch(folder))
    return {path.stem: path for folder in folders for path in sorted((predictions / folder).glob("*.png"))}
