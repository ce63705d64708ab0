"""Whether a file of a take is what it should be: one function per kind of file, which calls the reader of the models.

Each raises UserError with one line that names the file. Formats: data specification, sections 1 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from operating_room.domain.categories import KNOWN_MISTAKES, LABELS
from operating_room.domain.domain import Task, mmor
from operating_room.domain.language import Language
from operating_room.domain.takes import Take
from operating_room.errors import UserError
from operating_room.files.mp3 import read_mp3
from operating_room.files.readers import (
    again,
    check_audio,
    check_picture,
    picture_size,
    read_json,
    read_label_mask,
    read_point_cloud,
)
from operating_room.files.tensors import read_vector
from operating_room.graphs.prompts import metadata_blocks
from operating_room.recordings import layout
from operating_room.recordings.index import read_tracks
from operating_room.recordings.masks import SMALL
from operating_room.recordings.questions import read_screen, read_speech
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.transcripts import CLIP_S
from operating_room.scores.downstream import label_class

_SHAPE_TOLERANCE = 0.02  # by which the proportions of a mask and its picture may differ
_KNOWN_LABELS = frozenset(LABELS.tolist()) | KNOWN_MISTAKES.keys()


def check_screen_summary(path: Path) -> None:
    """An object of parts, each with type and template name."""
    try:
        metadata_blocks(mmor().language, read_screen(path), None, None)
    except UserError as error:
        raise _named(path, error) from error


def check_tracks(path: Path, language: Language) -> None:
    """What every second of it would say in a prompt."""
    for second, element in enumerate(read_tracks(path)):
        try:
            metadata_blocks(language, None, element, None)
        except UserError as error:
            raise UserError(f"{path}: second {second}: {error}") from error


def check_recording(path: Path, last: int) -> None:
    """An mp3 that can be cut into clips and decoded, as long as its take, whose last second is `last`."""
    duration_s = read_mp3(path).duration_s
    check_audio(path)
    if duration_s < last - CLIP_S:
        raise UserError(f"{path}: ends after {duration_s:.0f} s, the take after {last} s; {again(path)}")


def check_label_mask(path: Path) -> None:
    """One label per pixel, each in the table or a known mistake of the annotators; in the shape of its picture."""
    labels = read_label_mask(path)
    _check_labels(path, labels)
    check_shape(labels, path, layout.labelled_view(path))


def check_shape(labels: UInt8[np.ndarray, "height width"], mask: Path, picture: Path) -> None:
    """Masks may be larger or smaller than their picture, which they are resized with, but not of another shape.

    Raises:
        UserError: the proportions differ.
    """
    try:
        width, height = picture_size(picture)
    except UserError:  # not there, or damaged: whoever needs the picture says so
        return
    ratio = labels.shape[1] * height / (labels.shape[0] * width)
    if abs(ratio - 1) > _SHAPE_TOLERANCE:
        sizes = f"{labels.shape[1]}x{labels.shape[0]}", f"{width}x{height}"
        raise UserError(f"{mask}: is {sizes[0]} px, its picture {picture.name} {sizes[1]}; export the mask again")


def check_small_mask(path: Path) -> None:
    """Labels of the table at 32x32 px."""
    mask = read_label_mask(path)
    if mask.shape != (SMALL, SMALL):
        raise UserError(f"{path}: is {mask.shape[1]}x{mask.shape[0]} px instead of {SMALL}x{SMALL}; {again(path)}")
    _check_labels(path, mask)


def check_frame_labels(path: Path, task: Task, frame_ids: Collection[str]) -> None:
    """A downstream label file: frame id -> label, each of a frame that the index has."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must map frame ids to labels; {again(path)}")
    for frame_id, label in content.items():
        try:
            label_class(task, label)
        except UserError as error:
            raise UserError(f"{path}: frame {frame_id} has the label {str(label)[:60]!r}; {again(path)}") from error
    if unknown := sorted(content.keys() - set(frame_ids)):
        what = f"labels {len(unknown)} frames that the index does not have, the first is {unknown[0]}"
        raise UserError(f"{path}: {what}; copy the right index")


def _named(path: Path, error: UserError) -> UserError:
    """The error with the file in front, if it does not name it."""
    return error if str(error).startswith(str(path)) else UserError(f"{path}: {error}")


def _check_labels(path: Path, mask: np.ndarray) -> None:
    counts = np.bincount(mask.reshape(-1), minlength=256)
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - _KNOWN_LABELS)
    if unknown:
        names = ", ".join(map(str, unknown))
        raise UserError(f"{path}: has labels that are in no table: {names}; export the mask again, or add them there")


# By the names that the modalities have in `Timepoint`.
CHECKS: dict[str, Callable[[Path, Take], object]] = {
    **dict.fromkeys(("room_views", "station_views", "tracker_view"), lambda path, _: check_picture(path)),
    "point_cloud": lambda path, _: read_point_cloud(path),
    "audio": lambda path, _: check_audio(path),
    "audio_embedding": lambda path, _: read_vector(path),
    "transcript": lambda path, _: read_speech(path),
    "robot_screen": lambda path, _: check_screen_summary(path),
    "masks": lambda path, _: check_small_mask(path),
    "label_masks": lambda path, _: check_label_mask(path),
    "annotation": read_labels,
}
