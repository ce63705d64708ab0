"""Pictures to views of the vision tower's size (stage-2 specification, section 6).

Views are bytes until they are normalised: so they are kept, read ahead and stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operating_room.files.readers import open_picture
from scene_graph_generation.inputs.prepared_views import PreparedViews

if TYPE_CHECKING:
    from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOR = tuple(int(255 * mean) for mean in MEAN)
KEPT_BYTES = 1 << 30  # of decoded views that all readers of one training or evaluation keep together
BLACK_SIZE = (2048, 1536)  # px, of the picture that stands for a missing view (data specification, section 4.1)


def prepare_view(picture: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[Tensor, "3 size size"]:
    """Pad a picture to a square with CLIP's mean colour and resize it (Pillow, bicubic)."""
    from PIL import Image

    return _prepare(Image.fromarray(picture), size)


def prepare_file(path: Path, size: int) -> UInt8[Tensor, "3 size size"]:
    """As `prepare_view`, of a file.

    Raises:
        UserError: the picture is missing or damaged.
    """
    return _prepare(open_picture(path), size)


def _prepare(picture: Image.Image, size: int) -> UInt8[Tensor, "3 size size"]:
    from PIL import Image

    width, height = picture.size
    side = max(width, height)
    if width > height:
        # Pillow resizes along the rows first, then along the columns, and rounds in between. Rows of padding stay what
        # they are in the first part, so that it needs the picture's own rows only: the same bits, a quarter cheaper.
        picture = picture.resize((size, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (picture.width if width > height else side, side), PAD_COLOR)
    square.paste(picture, ((square.width - picture.width) // 2, (side - height) // 2))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))


def normalise_views(views: UInt8[Tensor, "views 3 size size"]) -> Float[Tensor, "views 3 size size"]:
    """Scale to 0..1, subtract CLIP's mean, divide by its standard deviation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return views.float().div_(255).sub_(mean).div_(std)


class ViewReader:
    """Reads pictures as views; those that were prepared before are looked up (`mmor scene-graph preprocess views`).

    With `keep` each of the other files is read once and stays in memory while there is room.
    """

    def __init__(self, size: int, keep: bool = False, readers: int = 1) -> None:
        self.size = size
        self._room = KEPT_BYTES // readers // (3 * size * size) if keep else 0
        self._kept: dict[Path, int] = {}  # row of each
        self._prepared = PreparedViews(size)

    def __call__(self, paths: Sequence[Path | None]) -> UInt8[Tensor, "views 3 size size"]:
        """The views of these pictures; None is a black picture.

        Raises:
            UserError: a picture is missing or damaged, or has changed since it was prepared.
        """
        if not paths:
            return torch.zeros(0, 3, self.size, self.size, dtype=torch.uint8)
        return torch.stack([self._black if path is None else self._view(path) for path in paths])

    def shown(self, views: UInt8[Tensor, "views 3 size size"]) -> Float[Tensor, "shown 3 size size"]:
        """As the model is shown these views; no picture at all is one view of the mean colour."""
        return normalise_views(views) if len(views) else torch.zeros(1, 3, self.size, self.size)

    def none(self) -> Float[Tensor, "0 3 size size"]:
        """No view at all, for a sample that is text only."""
        return torch.zeros(0, 3, self.size, self.size)

    @cached_property
    def _black(self) -> UInt8[Tensor, "3 size size"]:
        width, height = BLACK_SIZE
        return prepare_view(np.zeros((height, width, 3), np.uint8), self.size)

    def _view(self, path: Path) -> UInt8[Tensor, "3 size size"]:
        if path in self._kept:
            return self._rows[self._kept[path]]
        view = self._prepared.find(path)
        if view is not None:  # mapped into memory, where the system keeps it
            return view
        view = prepare_file(path, self.size)
        if len(self._kept) < self._room:
            self._rows[len(self._kept)] = view
            self._kept[path] = len(self._kept)
        return view

    @cached_property
    def _rows(self) -> UInt8[Tensor, "rows 3 size size"]:
        """Room for the views that are kept, in one piece, of which only what is written to takes memory.

        Thousands of small pieces that stay, between large ones that come and go, leave holes of so many sizes that
        the C library looks for the right one longer than the step of a small model takes (docs/performance.md).
        """
        return torch.empty(self._room, 3, self.size, self.size, dtype=torch.uint8)
