"""Ground truth of stage 1: annotated label masks become cleaned class pictures, segment records and the file of videos.

Data specification, sections 7.1 to 7.3. Everything is written to a folder of its own, prepared once; what is there,
whole, and of the present mask is not made again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files import picture_files
from operating_room.files.atomic import write_json
from operating_room.files.png import write_png
from operating_room.files.readers import read_ids, read_json, read_label_mask
from operating_room.recordings.file_checks import check_shape
from operating_room.scores.fingerprints import fingerprint
from operating_room.work.progress import track
from operating_room.work.workers import in_workers
from panoptic_segmentation.data.label_masks import (
    TRAINING_ID_STEP,
    Size,
    category_map,
    clean,
    segment_records,
    unknown_labels,
)
from panoptic_segmentation.data.prepared_index import PreparedIndex, State, state_of
from panoptic_segmentation.data.videos import Video

_NOTED = 500  # masks, after which it is noted that they are prepared: the work of minutes
CANVAS = (2048, 1536)  # published width and height of all pictures, px


class BadMasks(UserError):
    """Annotated masks cannot be used; all others are prepared. `of` tells what is wrong with each."""

    def __init__(self, told: str, of: Mapping[Path, str]) -> None:
        super().__init__(told)
        self.of = of


def ground_truth_path(folder: Path, name: str) -> Path:
    """The published ground-truth file; `name` is such as `hybridor_ground_truth_val`."""
    return folder / "datasets" / f"{name}.json"


def prepare(videos: Sequence[Video], folder: Path, name: str, size: Size = CANVAS, workers: int = 1) -> dict[str, Any]:
    """Write the class pictures of `videos` and their ground-truth file below `folder`, unless they are there.

    A label of the masks that is prepared, but neither a category nor a known mistake, is named on standard error.

    Args:
        name: of the ground-truth file.
        size: of all prepared pictures; the masks are resized to it, nearest pixel.
        workers: processes.

    Returns:
        the published ground-truth JSON.

    Raises:
        BadMasks: a mask is unreadable or of another shape than its picture; all others are prepared first.
        UserError: there is no video, or the folder cannot be written.
    """
    if not videos:
        raise UserError("the chosen takes have no annotated frame; choose other takes or add segmentation exports")
    path, index, labels = ground_truth_path(folder, name), PreparedIndex(folder), videos[0].domain.labels
    categories = json.dumps(asdict(labels), sort_keys=True)
    made_how = f"{size[0]}x{size[1]} {fingerprint([categories, str(picture_files.READING)])}"
    jobs: dict[Path, _Job] = {}
    for video in track(videos, "looking at label masks"):
        # Station pictures are brought to the canvas whatever their shape.
        pictures = [None] * len(video.frames) if video.is_station else video.pictures()
        made = zip(video.prepared(folder), video.prepared(folder, True))
        for mask, both, picture in zip(video.masks(), made, pictures):
            state = state_of(mask, made_how)
            jobs[mask] = _Job(mask, both, picture, state, index.is_known(both, state))
    masks = fingerprint([json.dumps(_video_list(videos, size)), *(str(job.state.mask) for job in jobs.values())])
    whole = State(masks, made_how)
    if index.is_untouched([path], whole) and all(
        index.is_untouched(job.made, job.state) for job in track(jobs.values(), "looking at prepared masks")
    ):
        return read_json(path)
    records: dict[Path, list[dict[str, Any]]] = {}
    bad: dict[Path, str] = {}
    unknown: dict[int, list[Path]] = {}
    new: dict[Sequence[Path], State] = {}
    index.forget(job.made for job in jobs.values() if not job.is_known)
    results = in_workers(
        partial(_prepare_frame, size=size, labels=labels), list(jobs.values()), workers, "ground truth", chunk=16
    )
    try:
        for job, found in zip(jobs.values(), results, strict=True):  # or progress would end before the last one
            if isinstance(found, str):
                bad[job.mask] = found
                continue
            records[job.mask], new[job.made] = found.records, job.state
            for label in found.unknown:
                unknown.setdefault(label, []).append(job.mask)
            if len(new) == _NOTED:
                index.add(new)
                new = {}
    finally:  # of an interrupted run, too: the next one goes on from there
        index.add(new)
    for label, there in sorted(unknown.items()):
        told = f"note: label {label} is in no table of the domain and counts as background, as published"
        print(f"{told}: in {len(there)} masks, first {there[0]}", file=sys.stderr)
    if bad:
        print(*bad.values(), sep="\n", file=sys.stderr)
        others = ", the others are prepared" if len(bad) < len(jobs) else ""
        first = next(iter(bad.values()))
        raise BadMasks(f"{len(bad)} of {len(jobs)} masks cannot be used{others}; first: {first}", bad)
    content = ground_truth(videos, records, size)
    write_json(path, content)
    index.add({(path,): whole})
    return content


def ground_truth(videos: Sequence[Video], records: Mapping[Path, list[dict[str, Any]]], size: Size) -> dict[str, Any]:
    """The published ground-truth JSON (section 7.3) of `videos`, given the segment records of their masks."""
    labels = videos[0].domain.labels
    annotations = []
    for video in videos:
        frames = []
        for i, (picture, mask) in enumerate(zip(video.pictures(), video.masks())):
            segments = [segment | {"id": segment["rgb2idcolor"]} for segment in records[mask]]
            frames.append({"image_id": f"{video.video_id}_{i}", "file_name": picture.name, "segments_info": segments})
        annotations.append({"video_id": video.video_id, "annotations": frames})
    categories = [
        {"id": c.category_id, "name": c.name, "isthing": 1, "color": list(c.color)} for c in labels.categories
    ]
    return {"categories": categories, "videos": _video_list(videos, size), "annotations": annotations}


def _video_list(videos: Sequence[Video], size: Size) -> list[dict[str, Any]]:
    width, height = size
    return [
        {
            "video_id": video.video_id,
            "images": [
                {
                    "id": f"{video.video_id}_{i}",
                    "file_name": picture.name,
                    "height": height,
                    "width": width,
                    "video_id": video.video_id,
                }
                for i, picture in enumerate(video.pictures())
            ],
            "video_folder": video.take.folder,
        }
        for video in videos
    ]


@dataclass(frozen=True)
class _Job:
    """One mask to prepare."""

    mask: Path
    made: tuple[Path, Path]  # for training and for validation
    picture: Path | None  # of whose shape the mask must be
    state: State
    is_known: bool  # what was made is of this state of the mask


@dataclass(frozen=True)
class _Prepared:
    """What a mask holds."""

    records: list[dict[str, Any]]  # of its segments
    unknown: tuple[int, ...] = ()  # labels that are neither categories nor known mistakes; only of a mask that was read


def _prepare_frame(job: _Job, size: Size, labels: Labels) -> _Prepared | str:
    """Write a mask's training and evaluation picture, unless they are there and whole; return what it holds.

    What is wrong with the mask is returned too, since an exception would end the work on all others.
    """
    training, evaluation = job.made
    if job.is_known:
        with suppress(UserError):  # damaged: made again
            categories = (read_ids(training) // TRAINING_ID_STEP).astype(np.uint8)
            read_ids(evaluation)
            return _Prepared(segment_records(categories, labels))
    try:
        mask = read_label_mask(job.mask)
        if job.picture is not None:
            check_shape(mask, job.mask, job.picture)
    except UserError as error:
        return str(error)
    cleaned = clean(mask)
    categories = category_map(cleaned, size, labels)
    ids = np.zeros((*categories.shape, 3), np.uint8)  # the digits of base 256, the lowest first
    ids[..., 1], ids[..., 0] = np.divmod(categories.astype(np.uint16) * TRAINING_ID_STEP, 256)
    write_png(evaluation, labels.colors[categories])
    write_png(training, ids)
    return _Prepared(segment_records(categories, labels), unknown_labels(cleaned, labels))
