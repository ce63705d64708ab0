"""The 24 segmentation categories: name, colour, raw label, category id, and tables between them.

Data specification, section 7.1. `label` is the pixel value of the annotated masks (0..29 with gaps), `category_id` its
rank (0..23). Names are the published ones (`ot`, `ae`, `anest`); `entity` gives the scene-graph name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt8

from operating_room.domain.vocabulary import RAW_ENTITY_NAMES


@dataclass(frozen=True)
class Category:
    """One segmentation category."""

    name: str
    color: tuple[int, int, int]  # RGB
    label: int  # pixel value in the annotated masks
    category_id: int

    @property
    def entity(self) -> str:
        """The name of this category in scene graphs; background and cementer have none and keep their own."""
        return RAW_ENTITY_NAMES.get(self.name, self.name)

    @property
    def color_id(self) -> int:
        """R + 256 G + 65536 B."""
        red, green, blue = self.color
        return red + 256 * green + 65536 * blue


_TABLE = (
    ("__background__", (0, 0, 0), 0),
    ("instrument_table", (255, 51, 153), 1),
    ("ae", (0, 0, 255), 2),
    ("ot", (255, 255, 0), 3),
    ("mps_station", (133, 0, 133), 4),
    ("patient", (255, 0, 0), 5),
    ("drape", (183, 91, 255), 6),
    ("anest", (177, 255, 110), 7),
    ("circulator", (255, 128, 0), 8),
    ("assistant_surgeon", (116, 166, 116), 9),
    ("head_surgeon", (76, 161, 245), 10),
    ("mps", (125, 100, 25), 11),
    ("nurse", (128, 255, 0), 12),
    ("drill", (0, 255, 128), 13),
    ("hammer", (204, 0, 0), 15),
    ("saw", (0, 255, 234), 16),
    ("tracker", (255, 128, 128), 17),
    ("mako_robot", (60, 75, 255), 18),
    ("monitor", (255, 255, 128), 24),
    ("c_arm", (0, 204, 128), 25),
    ("unrelated_person", (255, 255, 255), 26),
    ("student", (162, 232, 108), 27),
    ("secondary_table", (153, 0, 153), 28),
    ("cementer", (153, 76, 0), 29),
)
CATEGORIES = tuple(Category(name, color, label, rank) for rank, (name, color, label) in enumerate(_TABLE))
BY_ENTITY = {category.entity: category for category in CATEGORIES}

# Labels that annotators left by mistake; ignored without a word, unlike other unknown labels.
KNOWN_MISTAKES = {
    14: "surgeon_hand_artifact",
    19: "random_artifact/tracking_tool",
    20: "random_artifact/tracking_tool",
    22: "random_artifact",
    23: "random_artifact",
}
LABEL_COUNT = 30  # labels are below this number everywhere, also in the mask encoder of stage 2

COLORS: UInt8[np.ndarray, "24 3"] = np.array([category.color for category in CATEGORIES], np.uint8)
LABELS: UInt8[np.ndarray, " 24"] = np.array([category.label for category in CATEGORIES], np.uint8)
LABEL_TO_CATEGORY: UInt8[np.ndarray, " 256"] = np.zeros(256, np.uint8)  # unknown labels are background
LABEL_TO_CATEGORY[LABELS] = np.arange(len(CATEGORIES))


def colors_to_categories(picture: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width"]:
    """Category id of each pixel of a class-colour picture (RGB or RGBA); unknown colours become background."""
    return _map_colors(picture, np.arange(len(CATEGORIES), dtype=np.uint8))


def colors_to_labels(picture: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width"]:
    """The raw label of each pixel of a class-colour picture (RGB or RGBA); unknown colours become 0."""
    return _map_colors(picture, LABELS)


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


def color_ids(picture: UInt8[np.ndarray, "height width channels"]) -> Integer[np.ndarray, "height width"]:
    """R + 256 G + 65536 B of each pixel."""
    wide = picture[..., :3].astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def _map_colors(
    picture: UInt8[np.ndarray, "height width channels"], values: UInt8[np.ndarray, " 24"]
) -> UInt8[np.ndarray, "height width"]:
    """The value of the category of each pixel."""
    colors, lengths = run_lengths(picture[..., :3].reshape(-1, 3))
    ids = color_ids(colors[None])[0]
    known = np.array([category.color_id for category in CATEGORIES])
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
    category = order[place]
    found = np.where(known[category] == ids, values[category], 0).astype(np.uint8)
    return found.repeat(lengths).reshape(picture.shape[:2])
