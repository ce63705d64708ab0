"""Archives of masks that are damaged or made to do harm: one line each, and nothing is lost."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mmor.exports.masks_back import import_masks
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import MMOR_NAME, picture, write, write_dataset


def test_a_colour_of_thousands_of_digits_is_damage(tmp_path: Path) -> None:
    """Python reads none of more than 4300: it was a ValueError."""
    recorded = Dataset(write_dataset(tmp_path / "data")).take(mmor().find_take(MMOR_NAME))
    write(tmp_path / "back" / "labelmap.txt", f"drape:{'1' * 5000},0,0::\n")
    write(tmp_path / "back" / "SegmentationClass" / "a.png", picture("PNG"))
    with pytest.raises(UserError, match=r"labelmap\.txt: line 1 is not name:red,green,blue"):
        import_masks(recorded, tmp_path / "back")


def test_folders_as_older_tools_of_windows_pack_them(tmp_path: Path) -> None:
    """It was said to hold no mask. What leads out of the folder does not lead out."""
    recorded = Dataset(write_dataset(tmp_path / "data")).take(mmor().find_take(MMOR_NAME))
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\ndrape:9,9,9::\n")
        mask = picture("PNG", np.full((48, 64, 3), 9, np.uint8))
        archive.writestr(f"SegmentationClass\\{MMOR_NAME}\\1\\camera01_colorimage-000100.png", mask)
        archive.writestr("..\\..\\outside.png", mask)
    assert len(import_masks(recorded, tmp_path / "back.zip", replace=True).written) == 1
    assert not list(tmp_path.parent.rglob("outside.png"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_masks_of_one_name_are_told(tmp_path: Path) -> None:
    """The later one took the place of the other as they were unpacked."""
    recorded = Dataset(write_dataset(tmp_path / "data")).take(mmor().find_take(MMOR_NAME))
    name = f"SegmentationClass/{MMOR_NAME}/1/camera01_colorimage-000100.png"
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\ndrape:9,9,9::\n")
        for value in (9, 0):
            archive.writestr(name, picture("PNG", np.full((48, 64, 3), value, np.uint8)))
    with pytest.raises(UserError, match=rf"back\.zip: holds {name} twice, and one would be lost"):
        import_masks(recorded, tmp_path / "back.zip")
