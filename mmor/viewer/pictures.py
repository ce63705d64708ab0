"""Camera pictures and masks as the page shows them: small, encoded once."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmor.viewer.cache import Cache, file_state
from operating_room.domain.collection import Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.labels import Labels, has_other_colors
from operating_room.errors import UserError
from operating_room.files.readers import read_label_mask, read_picture, read_small_picture
from operating_room.recordings.masks import predictions_origin
from operating_room.recordings.timepoint import Timepoint

WIDTHS = (320, 480, 640, 1280, 2048)  # px that a page may ask for
TRUTH = "truth"  # the name of annotated masks among those of predictions
_QUALITY = 82  # of JPEG


def picture(path: Path, width: int, cache: Cache) -> bytes:
    """A camera picture as JPEG, at most `width` px wide.

    Raises:
        UserError: it cannot be read.
    """
    return cache.get((*file_state(path), width), lambda: _jpeg(read_small_picture(path, width)))


def mask(path: Path, width: int, labels: Labels, annotated: bool, cache: Cache) -> bytes:
    """A mask as PNG of category ids with the colours of the domain as its palette; the background is transparent.

    Args:
        path: label mask, or class-colour picture of a prediction.
        width: px at most.
        labels: the categories.
        annotated: whether it is a label mask.
        cache: keeps it.

    Raises:
        UserError: it cannot be read, or a prediction has colours of no class, which would not be seen.
    """

    def make() -> bytes:
        if annotated:
            categories = labels.label_to_category[read_label_mask(path)]
        else:
            colored = read_picture(path)
            categories = labels.colors_to_categories(colored)
            if has_other_colors(colored, categories):
                raise UserError(f"{path}: has colours of no class of the domain; class colours are needed, unblended")
        return _palette_png(categories, width, labels)

    return cache.get((*file_state(path), width, annotated), make)


class MaskFolder:
    """Masks that a segmenter predicted: what `mmor panoptic predict` wrote to its output folder."""

    def __init__(self, given: Path) -> None:
        """Find the pictures.

        Raises:
            UserError: there are none.
        """
        self.given = given
        places = (given / "inference" / "pan_pred", given / "pan_pred", given)
        self._folder = next((place for place in places if any(place.glob("*/*.png"))), given)
        if not self._videos:
            raise UserError(
                f"{given}: holds no predicted masks (inference/pan_pred/VIDEO/*.png); give the output folder of "
                "`mmor panoptic predict`"
            )

    def require(self, domain: Domain) -> None:
        """The masks must be of this domain, as far as they tell.

        Raises:
            UserError: they are not.
        """
        predictions_origin(self._folder, domain)

    def covers(self, take: Take, collection: Collection) -> bool:
        """Whether there is anything of a take."""
        return any(f"{take.name}_{camera.name}" in self._videos for camera in collection.cameras)

    def find(self, take: Take, camera: str, picture: Path) -> Path | None:
        """The mask of a camera's picture; None if nothing was predicted for it."""
        for video in self._videos.get(f"{take.name}_{camera}", ()):
            path = video / f"{picture.stem}.png"
            if path.exists():
                return path
        return None

    @cached_property
    def _videos(self) -> Mapping[str, list[Path]]:
        """Take and camera -> its folders: one, or one for each part of a long video."""
        found: dict[str, list[Path]] = {}
        try:
            names = sorted(entry.name for entry in os.scandir(self._folder) if entry.is_dir())
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be listed ({error.strerror}); check the path") from error
        for name in names:
            whole, mark, part = name.rpartition("_part")
            found.setdefault(whole if mark and part.isdecimal() else name, []).append(self._folder / name)
        return found


def masks_of(timepoint: Timepoint, folders: Mapping[str, MaskFolder]) -> dict[str, dict[str, Path]]:
    """Camera -> whose masks (`TRUTH`, names of `folders`) -> file, for the cameras of a timepoint that have any."""
    found: dict[str, dict[str, Path]] = {}
    annotated = timepoint.several("label_masks")
    for camera, view in timepoint.views.items():
        of_camera = {TRUTH: annotated[camera]} if camera in annotated else {}
        for name, folder in folders.items():
            if (path := folder.find(timepoint.take, camera, view)) is not None:
                of_camera[name] = path
        if of_camera:
            found[camera] = of_camera
    return found


def _jpeg(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _palette_png(categories: UInt8[np.ndarray, "height width"], width: int, labels: Labels) -> bytes:
    image = Image.fromarray(categories)
    if image.width > width:
        size = width, max(1, round(image.height * width / image.width))
        image = image.resize(size, Image.Resampling.NEAREST)
    image.putpalette(labels.colors.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0, bits=8)
    return buffer.getvalue()
