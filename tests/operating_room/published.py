"""Where the files of published takes lie, for tests that write or damage them."""

from __future__ import annotations

from pathlib import Path

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor


def place(root: Path, name: str, take: Take, **numbers: str | int) -> Path:
    """A file of a take or of one of its timepoints; `root` is the folder of its dataset."""
    return root / mmor().collection(take).path(name, take, **numbers)


def index_place(root: Path, take: Take, of_folder: bool = False) -> Path:
    """The index file of the take's own name, or of the folder that takes may share."""
    return root / mmor().collection(take).index_files(take)[-1 if of_folder else 0]


def picture_place(root: Path, take: Take, camera: str, frame: str) -> Path:
    """The picture of a camera."""
    return root / mmor().collection(take).picture(take, camera, frame)


def mask_place(root: Path, take: Take, camera: str, frame: str, interpolated: bool = False) -> Path:
    """The label mask of a camera that has masks."""
    mask = mmor().collection(take).label_mask(take, camera, frame, interpolated)
    assert mask is not None
    return root / mask
