"""Whether the files of a whole take are what they should be: recording, cameras, labels of downstream tasks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from operating_room.domain.domain import Task
from operating_room.errors import UserError
from operating_room.files.camera_files import read_camera
from operating_room.files.mp3 import read_mp3
from operating_room.files.readers import again, check_audio, picture_size, read_json
from operating_room.recordings.transcripts import CLIP_S
from operating_room.scores.downstream import check_label_file


def check_recording(path: Path, last: float) -> None:
    """Sound (of an mp3: that can be cut into clips) as long as its take, whose last second is `last`."""
    if path.suffix == ".mp3":
        duration_s = read_mp3(path).duration_s
        check_audio(path)
    else:
        duration_s = check_audio(path)
    if duration_s < last - CLIP_S:
        raise UserError(f"{path}: ends after {duration_s:.0f} s, the take after {last:.0f} s; {again(path)}")


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
