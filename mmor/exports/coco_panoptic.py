"""Masks as COCO panoptic: `panoptic.json`, and PNGs whose pixels are ids of segments, R + 256 G + 65536 B.

A segment is all that a picture shows of one category, since annotated masks tell no objects apart. Its id is the
colour of its category, so that the PNGs look like the masks of this software; 0, black, is what no category is drawn
on. The id of a category is its label in the annotated masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mmor.exports.frames import (
    BACKGROUND,
    MaskedPicture,
    class_colors,
    class_names,
    color_table,
    copy_picture,
    export_folder,
    masks_to_export,
)
from operating_room.files.atomic import write_json
from operating_room.files.png import write_png
from operating_room.recordings.take import RecordedTake
from operating_room.work.progress import track

JSON_NAME, FOLDER = "panoptic.json", "panoptic"


def export_coco_panoptic(
    recorded: RecordedTake, out: Path, predictions: Path | None = None, pictures: bool = False
) -> Path:
    """Write the masks of a take to the folder `out/<take>`, and return it.

    Args:
        recorded: the take.
        out: the folder of the export.
        predictions: see `masked_pictures`.
        pictures: also copy the pictures, to `images`.

    Raises:
        UserError: no mask, one that is damaged or has an unknown label, no room on the disk, or something else is in
            this place (see `export_folder`); nothing is written then.
    """
    found, target = masks_to_export(recorded, out, predictions, pictures)
    labels = recorded.domain.labels
    colors, names, table = class_colors(labels), class_names(labels), color_table(labels)
    images, annotations = [], []
    with export_folder(target, "coco-panoptic") as folder:
        for number, each in enumerate(track(found, f"exporting {recorded.take.name}"), 1):
            mask = each.labels(labels)
            write_png(folder / FOLDER / f"{each.name}.png", table[mask])
            if pictures:
                copy_picture(each.picture, folder / "images" / f"{each.name}{each.picture.suffix}")
            images.append(_image(number, each, mask))
            annotations.append(
                {"image_id": number, "file_name": f"{each.name}.png", "segments_info": _segments(mask, colors)}
            )
        write_json(
            folder / JSON_NAME,
            {
                "info": {"description": f"take {recorded.take.name} of {recorded.collection.title}"},
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": [
                    {"id": label, "name": name, "supercategory": "", "isthing": 1, "color": list(colors[label])}
                    for label, name in names.items()
                ],
            },
        )
    return target


def _image(number: int, each: MaskedPicture, mask: UInt8[np.ndarray, "height width"]) -> dict[str, Any]:
    """The record of a picture, in whose size its mask is."""
    height, width = mask.shape
    return {"id": number, "file_name": f"{each.name}{each.picture.suffix}", "height": height, "width": width}


def _segments(mask: UInt8[np.ndarray, "height width"], colors: dict[int, tuple[int, int, int]]) -> list[dict[str, Any]]:
    from scipy import ndimage

    areas = np.bincount(mask.ravel(), minlength=256)
    records = []
    for label, place in enumerate(ndimage.find_objects(mask), 1):
        if place is None or label == BACKGROUND:
            continue
        rows, columns = place
        red, green, blue = colors[label]
        records.append(
            {
                "id": red + 256 * green + 65536 * blue,
                "category_id": label,
                "area": int(areas[label]),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "iscrowd": 0,
            }
        )
    return records
