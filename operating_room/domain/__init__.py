"""What exists in an operating room, and how its recordings lie on disk: one object that is handed in."""

from operating_room.domain.collection import Camera, Collection, Slots, Take
from operating_room.domain.domain import OWN, Domain, Task, bundled, mmor
from operating_room.domain.labels import Category, Labels
from operating_room.domain.language import NONE, Language
from operating_room.domain.reading.collections import read_splits

__all__ = [
    "NONE",
    "OWN",
    "Camera",
    "Category",
    "Collection",
    "Domain",
    "Labels",
    "Language",
    "Slots",
    "Take",
    "Task",
    "bundled",
    "mmor",
    "read_splits",
]
