"""Masks for CVAT: an archive in its form `Segmentation mask 1.1`, to be uploaded to a task with the same pictures.

labelmap.txt                        name:R,G,B:: of each class
ImageSets/Segmentation/default.txt  the names of the pictures
SegmentationClass/<name>.png        class colours
SegmentationObject/<name>.png       a colour for each object; here an object is all that a picture shows of a class
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from mmor.exports.frames import (
    BACKGROUND,
    background_name,
    class_names,
    color_table,
    export_folder,
    masks_to_export,
    picture_bytes,
)
from operating_room.files.atomic import atomic_path
from operating_room.files.png import png_bytes
from operating_room.recordings.take import RecordedTake
from operating_room.work.progress import track

LABELMAP, CLASSES, OBJECTS = "labelmap.txt", "SegmentationClass", "SegmentationObject"
ARCHIVE, PICTURES = "annotations.zip", "images.zip"
# Readers turn the colours of objects into numbers by Pascal VOC's list, whatever the label map says: the bits of a
# number, three at a time, are the highest of red, green and blue. The number of an object is its label.
_OBJECT_COLORS = np.array(
    [
        [sum((number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3)]
        for number in range(256)
    ],
    np.uint8,
)
_NAMES = "ImageSets/Segmentation/default.txt"


def export_cvat(recorded: RecordedTake, out: Path, predictions: Path | None = None, pictures: bool = False) -> Path:
    """Write the masks of a take to `out/<take>/annotations.zip`, and return that folder.

    Args:
        recorded: the take.
        out: the folder of the export.
        predictions: see `masked_pictures`.
        pictures: also write `images.zip`, from which a task with pictures of these names can be made.

    Raises:
        UserError: no mask, one that is damaged or has an unknown label, no room on the disk, or something else is in
            this place (see `export_folder`); nothing is written then.
    """
    found, target = masks_to_export(recorded, out, predictions, pictures)
    labels = recorded.domain.labels
    table, names = color_table(labels), {BACKGROUND: background_name(labels), **class_names(labels)}
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{names[label]}:{','.join(map(str, table[label]))}::" for label in names]
    with export_folder(target, "cvat") as folder:
        with atomic_path(folder / ARCHIVE) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
            _add(archive, LABELMAP, "\n".join(lines) + "\n")
            _add(archive, _NAMES, "".join(f"{each.name}\n" for each in found))
            for each in track(found, f"exporting {recorded.take.name}"):
                mask = each.labels(labels)
                _add(archive, f"{CLASSES}/{each.name}.png", png_bytes(table[mask]))
                _add(archive, f"{OBJECTS}/{each.name}.png", png_bytes(_OBJECT_COLORS[mask]))
        if pictures:
            with atomic_path(folder / PICTURES) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
                for each in track(found, f"pictures of {recorded.take.name}"):
                    _add(archive, f"{each.name}{each.picture.suffix}", picture_bytes(each.picture))
    return target


def _add(archive: ZipFile, name: str, content: str | bytes) -> None:
    """With a fixed date: the same masks make the same archive."""
    archive.writestr(ZipInfo(name), content)
