"""A take as a FiftyOne dataset: a folder of plain files, written without FiftyOne and its database.

    metadata.json, samples.json   read by `fo.Dataset.from_dir(dataset_dir=..., dataset_type=fo.types.FiftyOneDataset)`
    masks/<camera>/<name>.png     raw labels
    data/<camera>/<name>.jpg      the pictures, if they are copied; else samples point to where they are

A sample is a picture. `metadata.json` names no version of FiftyOne: its reader then takes each sample by itself and
makes the fields from what it finds. Masks are found by their whole path, so that the folder stays where it was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmor.exports.frames import class_names, copy_picture, export_folder, require_room
from operating_room.files.atomic import write_json
from operating_room.files.picture_files import picture_size
from operating_room.files.png import write_png
from operating_room.files.readers import check_picture, read_label_mask
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.recordings.transcripts import words_of
from operating_room.work.progress import track

SAMPLES, METADATA, MASKS, PICTURES = "samples.json", "metadata.json", "masks", "data"


def export_fiftyone(recorded: RecordedTake, out: Path, pictures: bool = False) -> Path:
    """Write a take to the folder `out/<take>`, and return it.

    Args:
        recorded: the take.
        out: the folder of the export.
        pictures: copy the pictures, too.

    Raises:
        UserError: the index or a file of the take is damaged, the disk has no room, or something else is in this place
            (see `export_folder`); nothing is written then.
    """
    target = (out / recorded.take.name).absolute()
    views = [path for timepoint in recorded.timepoints for path in timepoint.views.values()]
    require_room(target, views if pictures else ())
    samples: list[dict[str, Any]] = []
    words = words_of(recorded)
    with export_folder(target, "fiftyone") as folder:
        for timepoint in track(recorded.timepoints, f"exporting {recorded.take.name}"):
            common = _common(recorded, timepoint, words(timepoint))
            for camera, picture in timepoint.views.items():
                width, height = picture_size(picture)
                sample = {
                    "filepath": str(picture.absolute()),
                    "tags": [*recorded.domain.splits_of(recorded.take)],
                    "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
                    "camera": camera,
                    **common,
                }
                if pictures:
                    sample["filepath"] = f"{PICTURES}/{camera}/{picture.name}"
                    copy_picture(picture, folder / sample["filepath"])
                else:
                    check_picture(picture)
                if (mask := timepoint.several("label_masks").get(camera)) is not None:
                    place = Path(MASKS, camera, f"{picture.stem}.png")
                    write_png(folder / place, read_label_mask(mask)[..., None])
                    sample["ground_truth"] = {"_cls": "Segmentation", "tags": [], "mask_path": str(target / place)}
                samples.append(sample)
        names = {str(label): name for label, name in class_names(recorded.domain.labels).items()}
        info = {"take": recorded.take.name, "dataset": recorded.collection.title, "mask_targets": names}
        write_json(folder / METADATA, {"media_type": "image", "info": info})
        write_json(folder / SAMPLES, {"samples": samples})
    return target


def _common(recorded: RecordedTake, timepoint: Timepoint, words: str | None) -> dict[str, Any]:
    """What all pictures of a timepoint share: `dataset.group_by("frame_id")` puts them side by side."""
    fields: dict[str, Any] = {
        "take": recorded.take.name,
        "frame_id": timepoint.frame_id,
        "seconds": recorded.at(timepoint.time),
    }
    if (path := timepoint.one("annotation")) is not None:
        triplets = read_labels(path, timepoint.take, timepoint.domain).triplets
        fields["graph"] = _classifications(triplets)
    if words is not None:
        fields["speech"] = words
    return fields


def _classifications(triplets: tuple[Triplet, ...]) -> dict[str, Any]:
    """Triplets as classifications: the label is the predicate, so that samples can be filtered by it."""
    return {
        "_cls": "Classifications",
        "classifications": [
            {"_cls": "Classification", "tags": [], "label": t.predicate, "subject": t.subject, "object": t.object}
            for t in triplets
        ],
    }
