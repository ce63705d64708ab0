"""The segmentation categories: name, colour, raw label, category id, and tables between them.

Data specification, section 7.1. `label` is the pixel value of the annotated masks, which may have gaps; `category_id`
is its rank. The first category is the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Integer, UInt8


@dataclass(frozen=True)
class Category:
    """One segmentation category."""

    name: str  # as annotators call it
    color: tuple[int, int, int]  # RGB
    label: int  # pixel value in the annotated masks
    category_id: int
    entity: str  # its name in scene graphs; a category that is no entity keeps its own

    @property
    def color_id(self) -> int:
        """R + 256 G + 65536 B."""
        red, green, blue = self.color
        return red + 256 * green + 65536 * blue


@dataclass(frozen=True)
class Labels:
    """What is seen in masks. A domain without masks has no categories."""

    categories: tuple[Category, ...] = ()
    mistakes: Mapping[int, str] = field(default_factory=dict, hash=False)  # labels left by mistake -> what they are
    count: int = 0  # labels are below this number everywhere, also in the mask encoder of stage 2
    masks: int = 0  # small masks per timepoint

    @cached_property
    def by_entity(self) -> dict[str, Category]:
        """The category of each entity that has one."""
        return {category.entity: category for category in self.categories}

    @cached_property
    def colors(self) -> UInt8[np.ndarray, "categories 3"]:
        """RGB by category id."""
        return np.array([category.color for category in self.categories], np.uint8).reshape(-1, 3)

    @cached_property
    def labels(self) -> UInt8[np.ndarray, " categories"]:
        """The raw label by category id."""
        return np.array([category.label for category in self.categories], np.uint8)

    @cached_property
    def label_to_category(self) -> UInt8[np.ndarray, " 256"]:
        """Category id by raw label; unknown labels are background."""
        table = np.zeros(256, np.uint8)
        table[self.labels] = np.arange(len(self.categories))
        return table

    def colors_to_categories(
        self, picture: UInt8[np.ndarray, "height width channels"]
    ) -> UInt8[np.ndarray, "height width"]:
        """Category id of each pixel of a class-colour picture (RGB or RGBA); unknown colours become background."""
        return self._map_colors(picture, np.arange(len(self.categories), dtype=np.uint8))

    def colors_to_labels(
        self, picture: UInt8[np.ndarray, "height width channels"]
    ) -> UInt8[np.ndarray, "height width"]:
        """The raw label of each pixel of a class-colour picture (RGB or RGBA); unknown colours become 0."""
        return self._map_colors(picture, self.labels)

    def _map_colors(
        self, picture: UInt8[np.ndarray, "height width channels"], values: UInt8[np.ndarray, " categories"]
    ) -> UInt8[np.ndarray, "height width"]:
        """The value of the category of each pixel."""
        if not self.categories:
            return np.zeros(picture.shape[:2], np.uint8)
        colors, lengths = run_lengths(picture[..., :3].reshape(-1, 3))
        ids = color_ids(colors[None])[0]
        known = np.array([category.color_id for category in self.categories])
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
        category = order[place]
        found = np.where(known[category] == ids, values[category], 0).astype(np.uint8)
        return found.repeat(lengths).reshape(picture.shape[:2])


def run_lengths(
    pixels: UInt8[np.ndarray, "pixels channels"],
) -> tuple[UInt8[np.ndarray, "runs channels"], Integer[np.ndarray, " runs"]]:
    """The value and length of each run of equal pixels. Masks are flat: what is done per run is done in no time."""
    flat, channels = np.ascontiguousarray(pixels).reshape(-1), pixels.shape[1]
    differs = flat[channels:] != flat[:-channels]
    changes = differs[::channels]
    for channel in range(1, channels):
        changes = changes | differs[channel::channels]
    ends = np.append(np.flatnonzero(changes), len(pixels) - 1)[: len(pixels)]
    return pixels[ends], np.diff(ends, prepend=-1)


def has_other_colors(picture: UInt8[np.ndarray, "height width 3"], mapped: UInt8[np.ndarray, "height width"]) -> bool:
    """Whether a class-colour picture has colours of no class, which became 0 in `mapped`: the background is black."""
    return bool((picture.any(axis=-1) & (mapped == 0)).any())


def color_ids(picture: UInt8[np.ndarray, "height width channels"]) -> Integer[np.ndarray, "height width"]:
    """R + 256 G + 65536 B of each pixel."""
    wide = picture[..., :3].astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
