"""The videos of stage 1: which frames of which cameras there are, in parts as published (data specification, 7.1)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from operating_room.domain.collection import Camera, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.work.processes import is_first

VIDEO_LENGTH = 200  # frames
VIDEO_OVERLAP = 3  # frames that a part shares with the one before


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
        frames = tuple(frame for frame, mask in zip(frames, video.masks()) if recorded.has(mask))
    if not with_pictures:
        return frames
    seen = tuple(frame for frame in frames if recorded.has(pictures[frame]))
    if annotated and len(seen) < len(frames) and is_first():
        there = set(seen)
        path = pictures[next(frame for frame in frames if frame not in there)]
        print(f"{path}: not there, {len(frames) - len(seen)} annotated frames are left out", file=sys.stderr)
    return seen
