"""The takes of MM-OR and 4D-OR, asked of the bundled domain; goes once every caller has a domain handed in."""

from __future__ import annotations

from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN, mmor

__all__ = ["DATASETS", "FOURDOR", "FOURDOR_TAKES", "MMOR", "MMOR_TAKES", "OWN", "SPLITS", "TAKES", "Take"]
MMOR, FOURDOR = "MMOR", "4DOR"
DATASETS = mmor().datasets
SPLITS = mmor().splits
TAKES = mmor().takes
MMOR_TAKES = mmor().collection(MMOR).published
FOURDOR_TAKES = mmor().collection(FOURDOR).published
NAME_RULE = mmor().collection(MMOR).own.rule
split_takes = mmor().split_takes
splits_of = mmor().splits_of
find_take = mmor().find_take


def is_own_name(name: str) -> bool:
    """Whether a folder of this name may hold an own take of the form of MM-OR."""
    return mmor().is_own_name(mmor().collection(MMOR), name)
