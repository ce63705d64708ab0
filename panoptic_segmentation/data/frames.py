"""The pictures of a video as the segmenter takes them, read ahead while it is busy (stage-1 specification, 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files.readers import picture_size, read_picture
from operating_room.work.ahead import THREADS, Ahead
from panoptic_segmentation.config.settings import InferenceSettings
from panoptic_segmentation.data.label_masks import Size
from panoptic_segmentation.data.pictures import resize_for_test, resize_station
from panoptic_segmentation.data.videos import Video


class BadFrame(UserError):
    """A picture that cannot be used: its video is left out, the others go on."""


def shape_of(video: Video, canvas: Size) -> tuple[int, int]:
    """Height and width of the pictures of a video before they are resized, by the first one; else those of the canvas.

    Station pictures are brought to the canvas first. A picture that is unreadable is told when it is read.
    """
    width, height = canvas
    if not video.is_station:
        with suppress(UserError):
            width, height = picture_size(video.pictures()[0])
    return height, width


def windows(
    video: Video, settings: InferenceSettings, device: torch.device
) -> Iterator[Float[Tensor, "frames 3 height width"]]:
    """The pictures of a video at network size, RGB in 0..255, some at a time on a device.

    Other threads decode and resize the next window meanwhile. Pictures travel in 8 bits and become floats there.

    Raises:
        BadFrame: a picture is unreadable, or of another shape than those before it.
    """
    paths, size = video.pictures(), settings.window
    is_station = video.is_station
    ahead = Ahead(lambda path: _read(path, is_station, settings), 2 * max(size, THREADS))
    shape: tuple[int, ...] | None = None
    try:
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            ahead.begin(paths[start : start + size + max(size, THREADS)])
            pictures = [ahead.take(path) for path in part]
            for path, picture in zip(part, pictures):
                shape = shape or picture.shape
                if picture.shape != shape:
                    raise BadFrame(
                        f"{path}: has other proportions than the frames before it, from {paths[0].name} on; copy again "
                        "whichever of the two is wrong"
                    )
            yield torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float()
    finally:  # also where somebody stops half-way
        ahead.close()


def _read(path: Path, is_station: bool, settings: InferenceSettings) -> UInt8[np.ndarray, "height width 3"]:
    try:
        picture = read_picture(path)
    except UserError as error:
        raise BadFrame(str(error)) from error
    if is_station:
        picture = resize_station(picture, settings.canvas)
    return resize_for_test(picture, settings.shortest, settings.longest)
