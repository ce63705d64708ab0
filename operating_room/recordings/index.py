"""Files that say which frame belongs to which moment: index files, take_jsons, tracks (data specification, section 1).

Two files tell the same frame numbers, and people write them in several ways: `17`, `17.0`, `"17"` and `"000017"` are
one number, as file names spell it. Time must grow: two timepoints of one time would share sound, words, cloud and
masks, and a memory would run backwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from operating_room.domain.numbers import file_number
from operating_room.domain.reading.nodes import Value, read_yaml, require_known
from operating_room.errors import UserError
from operating_room.files.readers import read_json

_INDEX = "an index is a list of [time stamp, frame numbers]; copy it again"
_COPY_AGAIN = "copy it again or mend it"
_PICTURES = ("jpg", "png")
MOST_FRAMES = 10**6  # frame ids have six digits


@dataclass(frozen=True)
class Element:
    """One element of a take's index."""

    frame_id: str  # its position, six digits
    time: str  # time stamp, six digits
    numbers: Mapping[str, str]  # what paths are made of: frame_id, time, and the frame numbers of cameras that recorded

    @classmethod
    def at(cls, position: int, time: str, frames: Mapping[str, str]) -> Element:
        """The element at a position, with a time stamp and the frame numbers of cameras."""
        frame_id = f"{position:06d}"
        return cls(frame_id, time, {**frames, "time": time, "frame_id": frame_id})


@dataclass(frozen=True)
class TakeFile:
    """The take.yaml of a take in the house layout, whose timepoints are numbered from 000000 on."""

    period: float  # s between timepoints
    frames: int  # how many timepoints
    pictures: Literal["jpg", "png"]
    cameras: tuple[str, ...] = ()  # in the order of the files that an import has read


def read_take_file(path: Path) -> TakeFile:
    """What take.yaml says; of `source`, which whoever made the take fills, the order of cameras that an import notes.

    Raises:
        UserError: the file is missing or no YAML, lacks a key, has an unknown one or a wrong value; with the line.
    """
    fields = read_yaml(path).fields(("period", "frames", "pictures"), ("source",))
    pictures = require_known(fields["pictures"], _PICTURES, "form of pictures")
    cameras = _sources(fields["source"]) if "source" in fields else ()
    period, frames = fields["period"].positive(), fields["frames"].whole(1, MOST_FRAMES)
    return TakeFile(period, frames, cast(Literal["jpg", "png"], pictures), cameras)


def _sources(source: Value) -> tuple[str, ...]:
    try:
        return tuple(item.text() for item in source.named()["sources"][1].items())
    except (UserError, KeyError):  # a note of another form
        return ()


def read_index(path: Path, keys: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """Time stamp and frame numbers of every timepoint; whatever else an element holds is ignored.

    Args:
        path: of the index file.
        keys: of the frame numbers that are known.

    Raises:
        UserError: the file is damaged or of another form, lists no timepoint, or time does not grow from each to the
            next.
    """
    index = read_elements(path, keys)
    if not index:
        raise UserError(f"{path}: {_INDEX}")
    for position, ((before, _), (now, _)) in enumerate(pairwise(index), 1):
        if int(now) <= int(before):
            what = f"the same time {now}" if int(now) == int(before) else f"the times {before} and {now}"
            raise UserError(
                f"{path}: elements {position - 1} and {position} have {what}, but time must grow; sort the elements "
                "and leave out all but one of each time (positions are the frame ids of the labels)"
            )
    return index


def read_elements(path: Path, keys: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """As `read_index`, of an index that is being written: with nothing in it yet, or a clock that jumped back.

    Raises:
        UserError: the file is damaged or of another form.
    """
    elements = read_json(path)
    if not isinstance(elements, list):
        raise UserError(f"{path}: {_INDEX}")
    index: list[tuple[str, dict[str, str]]] = []
    for position, element in enumerate(elements):
        try:
            time, frames, *_ = element
            index.append((file_number(time), _frame_numbers(frames, keys)))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: element {position} is not [time stamp, {{camera: frame number}}] but "
                f"{str(element)[:80]}; copy the index again"
            ) from error
    return index


def read_seconds(path: Path, keys: Collection[str]) -> dict[int, dict[str, str]]:
    """The frame numbers of each second in the order of time, from a file of `take_jsons`; `keys` as in `read_index`.

    Raises:
        UserError: the file is damaged or of another form, lists no second, or has one twice.
    """
    content = read_json(path)
    seconds: dict[int, dict[str, str]] = {}
    try:
        for name, frames in content["timestamps"].items():
            second = int(file_number(name))
            if second in seconds:
                raise UserError(f"{path}: has second {second} twice; leave one of them out")
            try:
                seconds[second] = _frame_numbers(frames, keys)
            except (TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{path}: second {name} has no frame numbers but {str(frames)[:80]}; {_COPY_AGAIN}"
                ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path}: is not {{"timestamps": {{second: frame numbers}}}}; {_COPY_AGAIN}') from error
    if not seconds:
        raise UserError(f"{path}: lists no second, so that nothing could be made of the take; {_COPY_AGAIN}")
    return dict(sorted(seconds.items()))


def read_tracks(path: Path) -> list[dict[str, Any] | None]:
    """The tracked tools of a take by integer time stamp.

    Raises:
        UserError: the file is damaged or of another form.
    """
    elements = read_json(path)
    if not isinstance(elements, list) or not all(isinstance(element, dict | None) for element in elements):
        raise UserError(f"{path}: tracks are a list of objects, one per second; copy the file again")
    return elements


def _frame_numbers(frames: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
    """Those of the cameras that are known here; null is a camera that recorded nothing."""
    known = sorted(frames.keys() & keys)
    return {key: file_number(frames[key]) for key in known if frames[key] is not None}
