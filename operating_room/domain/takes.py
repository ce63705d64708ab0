"""The takes of MM-OR and 4D-OR, their folders and splits (data specification, section 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from operating_room.errors import UserError

MMOR = "MMOR"
FOURDOR = "4DOR"
DATASETS = (FOURDOR, MMOR)  # the order of the published sample files
OWN = "own"  # where a split is asked for: the takes that are in no published list
NAME_RULE = f"take names have letters, digits, '-' and '_' only and do not end in _{MMOR} or _{FOURDOR}"


@dataclass(frozen=True, order=True)
class Take:
    """A recorded surgery. `name` is `001_PKA` in MM-OR and `001_4DOR` in 4D-OR."""

    dataset: str
    name: str

    @property
    def sample_name(self) -> str:
        """The take name in sample and prediction files: `001_PKA_MMOR`, `001_4DOR`."""
        return f"{self.name}_{MMOR}" if self.dataset == MMOR else self.name

    @property
    def folder(self) -> str:
        """The folder that holds the take below its dataset's root; several short MM-OR takes share one."""
        if self.dataset == FOURDOR:
            return f"export_holistic_take{int(self.name.split('_')[0])}_processed"
        return _SHARED_FOLDERS.get(self.name, self.name)


_SHARED_FOLDERS = {
    **dict.fromkeys(("012_1_PKA", "012_2_PKA"), "012_PKA"),
    **dict.fromkeys(("015_PKA", "016_PKA", "017_PKA", "018_1_PKA", "018_2_PKA"), "015-018_PKA"),
    **dict.fromkeys((f"{n:03d}_PKA" for n in range(19, 23)), "019-022_PKA"),
    **dict.fromkeys((f"{n:03d}_PKA" for n in range(23, 33)), "023-032_PKA"),
}

_MMOR_SPLITS = {
    "train": [
        *("001_PKA", "003_TKA", "005_TKA", "006_PKA", "008_PKA", "010_PKA", "012_1_PKA", "012_2_PKA"),
        *("035_PKA", "037_TKA"),
    ],
    "small_train": ["001_PKA", "003_TKA", "035_PKA", "037_TKA", "005_TKA"],
    "mini_train": ["013_PKA"],
    "val": ["002_PKA", "007_TKA", "009_TKA"],
    "test": ["004_PKA", "011_TKA", "036_PKA", "038_TKA"],
    "short_clips": [
        *["013_PKA", "014_PKA", "015_PKA", "016_PKA", "017_PKA", "018_1_PKA", "018_2_PKA"],
        *(f"{n:03d}_PKA" for n in range(19, 34)),
    ],
}
_FOURDOR_SPLITS = {
    "train": (1, 3, 5, 7, 9, 10),
    "small_train": (1, 5, 7, 9),
    "mini_train": (1,),
    "val": (4, 8),
    "test": (2, 6),
    "short_clips": (),
}
SPLITS = tuple(_MMOR_SPLITS)

MMOR_TAKES = tuple(Take(MMOR, name) for name in sorted({n for names in _MMOR_SPLITS.values() for n in names}))
FOURDOR_TAKES = tuple(Take(FOURDOR, f"{number:03d}_4DOR") for number in range(1, 11))
TAKES = (*FOURDOR_TAKES, *MMOR_TAKES)


def split_takes(split: str, datasets: tuple[str, ...] = DATASETS) -> list[Take]:
    """The takes of a split in published order, 4D-OR first.

    Raises:
        UserError: there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    takes = [Take(FOURDOR, f"{number:03d}_4DOR") for number in _FOURDOR_SPLITS[split]]
    takes += [Take(MMOR, name) for name in _MMOR_SPLITS[split]]
    return [take for take in takes if take.dataset in datasets]


def splits_of(take: Take) -> list[str]:
    """The splits that contain `take`."""
    return [split for split in SPLITS if take in split_takes(split)]


def is_own_name(name: str) -> bool:
    """Whether a folder of this name may hold an own take of the form of MM-OR."""
    return re.fullmatch(r"[A-Za-z0-9_\-]+", name) is not None and not name.endswith((f"_{MMOR}", f"_{FOURDOR}"))


def find_take(name: str) -> Take:
    """The take of a name with or without dataset suffix, also of its folder as a shell completes it (`001_PKA/`,
    `export_holistic_take1_processed/`).

    A name outside the published lists is an own take: like 4D-OR if it is a number with the suffix (`101_4DOR`), else
    like MM-OR.

    Raises:
        UserError: the name cannot be a take name.
    """
    name = name.rstrip("/")
    if folder := re.fullmatch(r"export_holistic_take([0-9]{1,3})_processed", name):
        name = f"{int(folder[1]):03d}_{FOURDOR}"
    if name.endswith(f"_{FOURDOR}"):
        if re.fullmatch(r"[0-9]{3}_4DOR", name) is None:
            raise UserError(f"take name {name!r}: those of 4D-OR are 001_4DOR to 010_4DOR, own ones up to 999_4DOR")
        return Take(FOURDOR, name)
    short = name.removesuffix(f"_{MMOR}")
    if not is_own_name(short):
        raise UserError(f"take name {name!r} cannot be one: {NAME_RULE}")
    return Take(MMOR, short)
