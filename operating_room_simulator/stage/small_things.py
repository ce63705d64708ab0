"""Labels of small things that the published categories lack: masks of their own beside the published ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from operating_room.domain.labels import Category, Labels

_NAMES = ("needle", "cloth", "scalpel", "pointer", "instrument")
_FOLDER = "small_things"


def with_small_things(labels: Labels) -> Labels:
    """The categories and, above all their raw labels, those of small things."""
    first, rank = labels.count, len(labels.categories)
    more = tuple(
        Category(name, (40 * i + 20, 255 - 40 * i, 100), first + i, rank + i, name) for i, name in enumerate(_NAMES)
    )
    return replace(labels, categories=labels.categories + more, count=first + len(more))


def small_things_mask(mask: Path) -> Path:
    """Where the mask with small things lies whose published mask is `mask`: a folder of its own in the take's."""
    return mask.parent.parent / _FOLDER / mask.parent.name / mask.name
