"""Whether the files of a whole take are what they should be: recording, cameras, labels of downstream tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from operating_room.domain.domain import Task
from operating_room.errors import UserError
from operating_room.files.array_files import read_gaze, read_hands
from operating_room.files.camera_files import read_camera
from operating_room.files.mp3 import read_mp3
from operating_room.files.readers import again, check_audio, picture_size, read_json
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import CLIP_S
from operating_room.scores.downstream import check_label_file

# gaze or hands, and files of them, each with the pictures of its timepoint by the number of the camera
Places = tuple[str, Sequence[tuple[Path, Mapping[int, Path]]]]

_READERS = {"gaze": read_gaze, "hands": read_hands}
_COMPARED = 50  # files of a take that are compared with pictures
_LEFT_ON_S = 60.0  # of a recorder behind the end of a take, beside as much as the take itself
_NOT_FOUND = -1  # in place of x and y of a gaze


def check_recording(path: Path, last: float) -> str | None:
    """Sound (of an mp3: that can be cut into clips) as long as its take, whose last second is `last`.

    What it returns is worth knowing: it is much longer, as where it is of another take or the times of this one are
    wrong. A recorder may also have been left on.
    """
    if path.suffix == ".mp3":
        duration_s = read_mp3(path).duration_s
        check_audio(path)
    else:
        duration_s = check_audio(path)
    if duration_s < last - CLIP_S:
        raise UserError(f"{path}: ends after {duration_s:.0f} s, the take after {last:.0f} s; {again(path)}")
    if duration_s <= 2 * last + _LEFT_ON_S:
        return None
    told = f"lasts {duration_s:.0f} s and the take {last:.0f} s, and is read from its start on"
    return f"{path}: {told}; is it of this take, and are its times right (index, or period in take.yaml)?"


def places_of(
    recorded: RecordedTake, listed: Callable[[RecordedTake, Path], Collection[str]]
) -> Iterator[tuple[Path, Places]]:
    """The folders with gaze and hands of a take, and files of them, evenly over it, to be compared with pictures.

    `listed` tells the names in a folder.
    """
    numbers = {camera.name: number for number, camera in enumerate(recorded.collection.cameras, 1)}
    for name in _READERS:
        files = [(path, t.views) for t in recorded.expected if (path := t.one(name)) is not None]
        files = [(path, views) for path, views in files if path.name in listed(recorded, path.parent)]
        places = [
            (path, {numbers[camera]: v for camera, v in views.items() if v.name in listed(recorded, v.parent)})
            for path, views in files[:: max(1, len(files) // _COMPARED)]
        ]
        if places:
            yield places[0][0].parent, (name, places)


def check_places(folder: Path, places: Places) -> str | None:
    """What is worth knowing of gaze or hands: most lie outside of their pictures, as where these were made smaller."""
    name, files = places
    sizes: dict[int, tuple[int, int]] = {}  # of the pictures of a camera
    found, outside = 0, 0
    for path, views in files:
        try:
            rows = _READERS[name](path)
            new = views.keys() & {*rows[:, 0].tolist()} - sizes.keys()
            sizes |= {number: picture_size(views[number]) for number in new}
        except UserError:  # its own check says what is wrong
            continue
        for row in rows:
            size = sizes.get(row[0].item())
            points = row[1 : 1 + (len(row) - 1) // 2 * 2].reshape(-1, 2)
            points = points[np.isfinite(points).all(1) & (points != _NOT_FOUND).any(1)]
            if size is not None:
                found += len(points)
                outside += int(((points < 0) | (points >= size)).any(1).sum())
    if 2 * outside <= found:
        return None
    told = f"{outside} of {found} places of {name} that were looked at lie outside of their pictures"
    return f"{folder}: {told}, as where pictures were made smaller and places not; a model takes them for the edge"


def check_camera(path: Path, picture: Path | None) -> None:
    """A camera file in whose proportions the pictures are, of which this is one."""
    lens = read_camera(path).color
    try:
        size = lens.size if picture is None else picture_size(picture)
    except UserError:  # the check of that picture says what is wrong
        return
    try:
        lens.scaled(*size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_frame_labels(path: Path, task: Task, frame_ids: Collection[str]) -> None:
    """A downstream label file: frame id -> label, each of a frame that the index has."""
    content = check_label_file(path, task)
    if unknown := sorted(content.keys() - set(frame_ids)):
        what = f"labels {len(unknown)} frames that the index does not have, the first is {unknown[0]}"
        raise UserError(f"{path}: {what}; copy the right index")


def check_task_labels(path: Path, task: Task, frame_ids: Collection[str], graphs: Collection[str]) -> None:
    """As `check_frame_labels`; and every frame of `graphs` must have a label, or nothing of the take is scored."""
    check_frame_labels(path, task, frame_ids)
    if lacking := sorted({*graphs} & {*frame_ids} - read_json(path).keys()):
        what = f"has no label for {len(lacking)} frames that have a graph, the first is {lacking[0]}"
        raise UserError(f"{path}: {what}, so that the whole take is left out of {task.name}; {again(path)}")
