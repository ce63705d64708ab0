"""Labels of small things that the published categories lack: masks of their own beside the published ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from operating_room.domain.collection import Collection
from operating_room.domain.domain import Domain, mmor
from operating_room.domain.labels import Category, Labels
from operating_room_simulator.stage.poses import Scene

_NAMES = ("needle", "cloth", "scalpel", "pointer", "instrument")
_FOLDER = "small_things"


@cache
def small_things() -> Domain:
    """The bundled domain with categories of small things and the folders that hold their masks."""
    domain = mmor()
    collections = tuple(_with_folders(collection) for collection in domain.collections)
    return replace(domain, name="mmor_small_things", labels=with_small_things(domain.labels), collections=collections)


def with_small_things(labels: Labels) -> Labels:
    """The categories and, above all their raw labels, those of small things."""
    first, rank = labels.count, len(labels.categories)
    more = tuple(
        Category(name, (40 * i + 20, 255 - 40 * i, 100), first + i, rank + i, name) for i, name in enumerate(_NAMES)
    )
    return replace(labels, categories=labels.categories + more, count=first + len(more))


def published(
    labels: UInt8[np.ndarray, "height width"], scene: Scene, known: Labels
) -> UInt8[np.ndarray, "height width"]:
    """The mask without small things: one in a hand is part of who holds it, one that lies about is background.

    Args:
        labels: raw labels, those of small things among them.
        scene: what the mask shows.
        known: the published categories.
    """
    table = np.arange(256, dtype=np.uint8)
    table[known.count :] = 0
    for person, figure in scene.people.items():
        for tool in figure.tools:
            if tool in _NAMES:
                table[known.count + _NAMES.index(tool)] = known.by_entity[person].label
    return table[labels]


def small_things_mask(mask: Path) -> Path:
    """Where the mask with small things lies whose published mask is `mask`: in a folder beside that one."""
    return mask.parent.parent / _FOLDER / mask.parent.name / mask.name


def _with_folders(collection: Collection) -> Collection:
    cameras = tuple(
        replace(camera, masks=camera.masks.replace("{folder}/", f"{{folder}}/{_FOLDER}/")) if camera.masks else camera
        for camera in collection.cameras
    )
    return replace(collection, cameras=cameras)
