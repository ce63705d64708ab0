"""Whether a file of a take is what it should be: one function per kind of file, as cheap as damage can be found.

Each raises UserError with one line that names the file. Formats: data specification, sections 1 and 8.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from operating_room import layout
from operating_room.categories import KNOWN_MISTAKES, LABELS
from operating_room.dataset import RecordedTake, read_index
from operating_room.errors import UserError
from operating_room.masks import SMALL
from operating_room.readers import (
    check_audio,
    check_picture,
    check_point_cloud,
    read_bytes,
    read_json,
    read_label_mask,
)
from operating_room.relations import read_labels
from operating_room.takes import MMOR, Take

_COPY_AGAIN = "copy it again from the dataset archive"
_MAKE_AGAIN = "delete it and preprocess again"
_KNOWN_LABELS = frozenset(LABELS.tolist()) | KNOWN_MISTAKES.keys()
_ZIP_START = b"PK\x03\x04"


def check_embedding(path: Path) -> None:
    """A file of torch.save is a zip archive; whether its end is there is seen without torch."""
    data_start = read_bytes(path)[:4]
    if data_start != _ZIP_START or not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is not a whole torch file; {_MAKE_AGAIN}")


def check_transcript(path: Path) -> None:
    """`{"text": "..."}`."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise UserError(f'{path}: a transcript is {{"text": "..."}}; {_MAKE_AGAIN}')


def check_screen_summary(path: Path) -> None:
    """An object of parts, each with type and template name."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(_has_names(part) for part in content.values()):
        raise UserError(f"{path}: a screen summary maps parts to objects with type and template_name; {_COPY_AGAIN}")


def check_label_mask(path: Path) -> None:
    """One label per pixel, each in the category table or a known mistake of the annotators."""
    _check_labels(path, read_label_mask(path))


def check_small_mask(path: Path) -> None:
    """The same at 32x32 px."""
    mask = read_label_mask(path)
    if mask.shape != (SMALL, SMALL):
        raise UserError(f"{path}: is {mask.shape[1]}x{mask.shape[0]} px instead of {SMALL}x{SMALL}; {_MAKE_AGAIN}")
    _check_labels(path, mask)


def read_seconds(path: Path) -> dict[int, dict[str, Any]]:
    """The frame numbers of each second, from a file of `take_jsons`.

    Raises:
        UserError: the file is damaged or of another form.
    """
    content = read_json(path)
    try:
        seconds = {int(second): dict(frames) for second, frames in content["timestamps"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path}: is not {{"timestamps": {{second: frame numbers}}}}; {_COPY_AGAIN}') from error
    return seconds


def take_seconds(recorded: RecordedTake) -> dict[int, dict[str, str]]:
    """The frame numbers of each second of a take, in the order of time.

    The published code takes them from `take_jsons` in MM-OR, from the index in 4D-OR. A take of one's own without the
    former has the same numbers in its index.

    Raises:
        UserError: the file is damaged or of another form.
    """
    path = layout.take_json(recorded.root, recorded.take)
    if recorded.take.dataset == MMOR and recorded.has(path):
        return dict(sorted(read_seconds(path).items()))
    return dict(sorted((int(time), frames) for time, frames in read_index(recorded.index_file)))


def check_frame_labels(path: Path, is_label: Callable[[Any], bool], frame_ids: Collection[str]) -> None:
    """A downstream label file: frame id -> label, each of a frame that the index has."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must map frame ids to labels; {_COPY_AGAIN}")
    for frame_id, label in content.items():
        if not is_label(label):
            raise UserError(f"{path}: frame {frame_id} has the label {str(label)[:60]!r}; {_COPY_AGAIN}")
    if unknown := sorted(content.keys() - set(frame_ids)):
        what = f"labels {len(unknown)} frames that the index does not have, the first is {unknown[0]}"
        raise UserError(f"{path}: {what}; copy the right index")


def is_next_action(label: Any) -> bool:
    """None, or [label, seconds]; an empty list is met too."""
    return label is None or (isinstance(label, list) and (not label or isinstance(label[0], str)))


def is_robot_phase(label: Any) -> bool:
    """The phase."""
    return isinstance(label, str)


def is_sterility_breach(label: Any) -> bool:
    """A list of [subject, object, predicate]."""
    return isinstance(label, list) and all(isinstance(triplet, list) and len(triplet) == 3 for triplet in label)


def _has_names(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(part.get(name), str) for name in ("type", "template_name"))


def _check_labels(path: Path, mask: np.ndarray) -> None:
    counts = np.bincount(mask.reshape(-1), minlength=256)
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - _KNOWN_LABELS)
    if unknown:
        names = ", ".join(map(str, unknown))
        raise UserError(f"{path}: has labels that are in no table: {names}; export the mask again, or add them there")


# By the names that the modalities have in `Timepoint`.
CHECKS: dict[str, Callable[[Path, Take], object]] = {
    **dict.fromkeys(("room_views", "station_views", "tracker_view"), lambda path, _: check_picture(path)),
    "point_cloud": lambda path, _: check_point_cloud(path),
    "audio": lambda path, _: check_audio(path),
    "audio_embedding": lambda path, _: check_embedding(path),
    "transcript": lambda path, _: check_transcript(path),
    "robot_screen": lambda path, _: check_screen_summary(path),
    "masks": lambda path, _: check_small_mask(path),
    "label_masks": lambda path, _: check_label_mask(path),
    "annotation": read_labels,
}
