"""Ground truth of stage 1: annotated label masks become cleaned class pictures, segment records and videos.

Data specification, sections 7.1 to 7.3. Everything is written to a folder of its own, prepared once; what is there,
whole, and of the present mask is not made again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.collection import Camera, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files import picture_files
from operating_room.files.atomic import write_json
from operating_room.files.png import write_png
from operating_room.files.readers import read_ids, read_json, read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.file_checks import check_shape
from operating_room.recordings.take import RecordedTake
from operating_room.scores.fingerprints import fingerprint
from operating_room.work.processes import is_first
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

VIDEO_LENGTH = 200  # frames
VIDEO_OVERLAP = 3  # frames that a part shares with the one before
_NOTED = 500  # masks, after which it is noted that they are prepared: the work of minutes
CANVAS = (2048, 1536)  # published width and height of all pictures, px


class BadMasks(UserError):
    """Annotated masks cannot be used; all others are prepared. `of` tells what is wrong with each."""

    def __init__(self, told: str, of: Mapping[Path, str]) -> None:
        super().__init__(told)
        self.of = of


@dataclass(frozen=True)
class Video:
    """The annotated frames of one camera of one take, or a part of them."""

    root: Path  # of the take's dataset
    domain: Domain
    take: Take
    camera: str
    frames: tuple[str, ...]  # frame numbers in the order of time
    pictures_end: str = "jpg"  # jpg or png, as the take says
    part: int | None = None

    @property
    def collection(self) -> Collection:
        """The dataset of the take."""
        return self.domain.collection(self.take)

    @property
    def is_station(self) -> bool:
        """Whether its pictures are brought to the canvas first, whatever their shape (stage-1 specification, 4.1)."""
        return self.collection.camera[self.camera].modality == "station_views"

    @property
    def whole_id(self) -> str:
        """The published `video_id`: `001_PKA_simstation0`, `001_4DOR_2`."""
        return f"{self.take.name}_{self.camera}"

    @property
    def video_id(self) -> str:
        """The published `video_id_part`, which names the video in all files: `001_PKA_1_part0`."""
        return self.whole_id if self.part is None else f"{self.whole_id}_part{self.part}"

    def pictures(self) -> list[Path]:
        """The pictures of the frames."""
        collection = self.collection
        end = self.pictures_end
        return [self.root / collection.picture(self.take, self.camera, frame, end) for frame in self.frames]

    def masks(self) -> list[Path]:
        """The annotated label masks of the frames."""
        collection = self.collection
        found = (collection.label_mask(self.take, self.camera, frame) for frame in self.frames)
        return [self.root / mask for mask in found if mask is not None]

    def prepared(self, folder: Path, for_validation: bool = False) -> list[Path]:
        """The prepared pictures of the frames below `folder`: ids for training, or class colours for validation."""
        collection = self.collection
        root = folder / collection.root
        return [root / collection.panoptic_mask(self.take, self.camera, frame, for_validation) for frame in self.frames]


def find_videos(
    dataset: Dataset,
    takes: Iterable[Take],
    length: int = VIDEO_LENGTH,
    overlap: int = VIDEO_OVERLAP,
    annotated: bool = True,
    with_pictures: bool = True,
    left_out: list[str] | None = None,
) -> list[Video]:
    """The videos of `takes`, MM-OR before 4D-OR, against the order of sample files; cameras without a frame have none.

    Takes without any, and annotated frames whose picture is lost, are named on standard error.

    Raises:
        UserError: the domain has no categories, the index of a take is missing or damaged, or two videos would have one
            name.

    Args:
        annotated: only frames with an annotated mask, as published; else all.
        with_pictures: only frames whose picture is there; the published preparation does not look.
        length: the largest number of frames of a video.
        overlap: frames that a part shares with the one before.
        left_out: gets a line for each take that cannot be looked into, if there is another; without it, such a take is
            an error.
    """
    domain = dataset.domain
    domain.require_categories()
    order = domain.datasets[::-1]
    videos: list[Video] = []
    empty = []
    for take in sorted(takes, key=lambda take: order.index(take.dataset)):
        try:
            found = _videos_of(dataset.take(take), length, overlap, annotated, with_pictures)
        except UserError as error:
            if left_out is None:
                raise
            left_out.append(f"take {take.name} is left out: {error}")
            continue
        videos += found
        if not found:
            empty.append(take.name)
    if left_out and not videos:
        raise UserError(left_out[0])
    _check_names(videos, dataset)
    if empty and is_first():
        names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        print(f"left out for want of {'annotated ' * annotated}frames: {names}", file=sys.stderr)
    return videos


def _videos_of(recorded: RecordedTake, length: int, overlap: int, annotated: bool, with_pictures: bool) -> list[Video]:
    """The videos of one take; arguments as of `find_videos`."""
    videos: list[Video] = []
    take, domain = recorded.take, recorded.domain
    for camera in domain.collection(take).labelled_cameras:
        every = Video(recorded.root, domain, take, camera.name, _frame_numbers(recorded, camera), recorded.pictures)
        frames = _with_files(every, recorded, annotated, with_pictures)
        parts = split_video(len(frames), length, overlap)
        video = replace(every, frames=frames)
        if len(parts) == 1:
            videos.append(video)
        else:
            videos += [replace(video, frames=frames[part], part=n) for n, part in enumerate(parts)]
    return videos


def first_frames(videos: Sequence[Video], limit: int | None) -> list[Video]:
    """The first `limit` frames of each camera, in the parts that they belong to; None leaves all."""
    if limit is None:
        return list(videos)
    chosen: dict[tuple[Take, str], dict[str, None]] = {}
    limited = []
    for video in videos:
        there = chosen.setdefault((video.take, video.camera), {})
        if len(there) < limit:  # parts share frames: a later one goes on from those of the one before
            new = [frame for frame in video.frames if frame not in there]
            there |= dict.fromkeys(new[: limit - len(there)])
            limited.append(replace(video, frames=tuple(frame for frame in video.frames if frame in there)))
    return limited


def split_video(count: int, length: int = VIDEO_LENGTH, overlap: int = VIDEO_OVERLAP) -> list[slice]:
    """The parts of a video of `count` frames: every `length - overlap` frames one of up to `length` frames starts."""
    if count <= length:
        return [slice(0, count)] if count else []
    return [slice(start, min(start + length, count)) for start in range(0, count, length - overlap)]


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


def _check_names(videos: Sequence[Video], dataset: Dataset) -> None:
    """Names of takes and cameras are joined by `_`, which both may hold; takes on disk may be predicted one by one.

    Raises:
        UserError: two videos have one name.
    """
    owners: dict[str, dict[tuple[str, str], None]] = {}  # name -> takes and cameras
    for take in dataset.takes():
        for camera in dataset.domain.collection(take).labelled_cameras:
            owners.setdefault(f"{take.name}_{camera.name}", {})[take.name, camera.name] = None
    for video in videos:
        for name in (video.whole_id, video.video_id):
            owners.setdefault(name, {})[video.take.name, video.camera] = None
            if len(owners[name]) > 1:
                (a, one), (b, other) = list(owners[name])[:2]
                told = f"takes {a} and {b} have a camera {one} and {other}, whose videos would both be called {name}"
                raise UserError(f"{told}; rename a take or a camera")


def _frame_numbers(recorded: RecordedTake, camera: Camera) -> tuple[str, ...]:
    """The frame numbers of a camera, in the order of time; the picture of a camera that stalls is one frame."""
    found = (numbers[camera.frame] for numbers in recorded.seconds.values() if camera.frame in numbers)
    return tuple(dict.fromkeys(found))


def _with_files(video: Video, recorded: RecordedTake, annotated: bool, with_pictures: bool) -> tuple[str, ...]:
    """The frames with the wanted files; an annotated mask is not an interpolated one."""
    folder = video.collection.label_mask_folder(video.take, video.camera)
    if annotated and (folder is None or not recorded.list_folder(video.root / folder)):
        return ()
    pictures = dict(zip(video.frames, video.pictures()))
    frames = video.frames
    if annotated:
        frames = tuple(frame for frame, mask in zip(frames, video.masks()) if _exists(recorded, mask))
    if not with_pictures:
        return frames
    seen = tuple(frame for frame in frames if _exists(recorded, pictures[frame]))
    if annotated and len(seen) < len(frames) and is_first():
        there = set(seen)
        path = pictures[next(frame for frame in frames if frame not in there)]
        print(f"{path}: not there, {len(frames) - len(seen)} annotated frames are left out", file=sys.stderr)
    return seen


def _exists(recorded: RecordedTake, path: Path) -> bool:
    return path.name in recorded.list_folder(path.parent)
