"""Whether a file of a timepoint is what it should be: one function per kind of file, which calls the reader of models.

Each raises UserError with one line that names the file. Formats: data specification, sections 1 and 8.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files.array_files import read_gaze, read_hands
from operating_room.files.readers import (
    again,
    check_audio,
    check_picture,
    picture_size,
    read_label_mask,
    read_point_cloud,
)
from operating_room.files.tensors import read_vector
from operating_room.graphs.prompts import metadata_blocks
from operating_room.recordings.index import read_tracks
from operating_room.recordings.masks import SMALL
from operating_room.recordings.questions import read_robot_log, read_screen, read_speech

_NOBODY = -1  # in place of the number of a camera
_NOT_FOUND = -1  # in place of x and y of a gaze
_SHAPE_TOLERANCE = 0.02  # by which the proportions of a mask and its picture may differ


def check_view(path: Path, _: Take, __: Domain) -> None:
    """A picture in colour."""
    check_picture(path)


def check_cloud(path: Path, _: Take, __: Domain) -> None:
    """A point cloud."""
    read_point_cloud(path)


def check_sound(path: Path, _: Take, __: Domain) -> None:
    """Sound that can be decoded."""
    check_audio(path)


def check_vector(path: Path, _: Take, __: Domain) -> None:
    """An audio embedding."""
    read_vector(path)


def check_speech(path: Path, _: Take, __: Domain) -> None:
    """What was said."""
    read_speech(path)


def check_gaze(path: Path, take: Take, domain: Domain) -> None:
    """Where people look in px, each told by the number of a camera."""
    gaze = read_gaze(path)
    _check_cameras(path, gaze[:, 0], take, domain)
    places = gaze[:, 1:3]
    _refuse_shares(path, places[(places != _NOT_FOUND).any(1)])


def check_hands(path: Path, take: Take, domain: Domain) -> None:
    """Where their hands are in px, each told by the number of a camera; NaN is nobody."""
    hands = read_hands(path)
    _check_cameras(path, hands[:, 0], take, domain)
    _refuse_shares(path, hands[:, 1:][np.isfinite(hands[:, 1:])])


def check_screen_summary(path: Path, _: Take, domain: Domain) -> None:
    """An object of parts, each with type and template name."""
    try:
        metadata_blocks(domain.language, read_screen(path), None, None)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error


def check_tracks(path: Path, _: Take, domain: Domain) -> None:
    """What every second of it would say in a prompt; in the order of time, where the elements tell theirs."""
    elements = read_tracks(path)
    _check_order(path, [None if element is None else element.get("timestamp") for element in elements])
    for second, element in enumerate(elements):
        try:
            metadata_blocks(domain.language, None, element, None)
        except UserError as error:
            raise UserError(f"{path}: second {second}: {error}") from error


def check_robot_log(path: Path, _: Take, __: Domain) -> None:
    """Lines of every second."""
    read_robot_log(path)


def check_label_mask(path: Path, take: Take, domain: Domain) -> None:
    """One label per pixel, each in the table or a known mistake of the annotators; in the shape of its picture.

    Not smaller than what is made of it for stage 2, where a dataset has that.
    """
    labels = read_label_mask(path)
    _check_labels(path, labels, domain.labels)
    if "masks" in domain.collection(take).files and min(labels.shape) < SMALL:
        size = f"{labels.shape[1]}x{labels.shape[0]}"
        raise UserError(f"{path}: is {size} px, and stage 2 needs {SMALL}x{SMALL} at least; export it larger")
    if (picture := labelled_picture(path, take, domain)) is not None:
        check_shape(labels, path, picture)


def labelled_picture(mask: Path, take: Take, domain: Domain) -> Path | None:
    """The picture that belongs to a label mask, if it is there."""
    collection = domain.collection(take)
    for camera in collection.labelled_cameras:
        parts = (collection.label_mask_folder(take, camera.name) or Path()).parts
        if mask.parent.parts[-len(parts) :] != parts:
            continue
        root = mask.parents[len(parts)]
        for ending in ("jpg", "png"):
            picture = root / collection.labelled_picture(take, camera.name, mask.name, ending)
            if picture.exists():
                return picture
    return None


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


def check_mask_shape(mask: Path, picture: Path) -> None:
    """`check_shape` of a mask of any kind that is only shown; what cannot be read is told where it is read.

    Raises:
        UserError: the proportions differ.
    """
    try:
        width, height = picture_size(mask)
    except UserError:
        return
    check_shape(np.broadcast_to(np.uint8(0), (height, width)), mask, picture)


def check_small_mask(path: Path, _: Take, domain: Domain) -> None:
    """Labels of the table at 32x32 px."""
    mask = read_label_mask(path)
    if mask.shape != (SMALL, SMALL):
        raise UserError(f"{path}: is {mask.shape[1]}x{mask.shape[0]} px instead of {SMALL}x{SMALL}; {again(path)}")
    _check_labels(path, mask, domain.labels)


def _check_cameras(path: Path, numbers: Float32[np.ndarray, " rows"], take: Take, domain: Domain) -> None:
    last = len(domain.collection(take).cameras)
    for number in numbers.tolist():
        if not math.isnan(number) and number not in (_NOBODY, *range(1, last + 1)):
            told = f"1 to {last}, the place in the domain's list of cameras, or {_NOBODY}: nobody knows whose"
            raise UserError(f"{path}: has the camera number {number:g}; expected {told}")


def _check_order(path: Path, times: list[Any]) -> None:
    """Elements are found by their place: time stamps never go back, and once they count seconds they all do.

    A clock that counts them may be less than a second off.
    """
    told = [(place, time) for place, time in enumerate(times) if type(time) in (int, float)]
    counted = bool(told) and abs(told[0][1] - told[0][0]) < 1
    for (_, before), (place, time) in pairwise(told):
        if time < before or (counted and abs(time - place) >= 1):
            raise UserError(
                f"{path}: element {place} has the time stamp {time:g}, the one before it {before:g}; elements are "
                "found by their place, one for each second; put them in order, null where there is none"
            )


def _refuse_shares(path: Path, places: Float32[np.ndarray, "..."]) -> None:
    """Places are told in px: as shares of a picture they would all be read as its first pixel."""
    if places.size and ((places > 0) & (places < 1)).all():
        raise UserError(f"{path}: its places all lie in the first pixel, as shares of a picture do; write them in px")


def _check_labels(path: Path, mask: np.ndarray, labels: Labels) -> None:
    counts = np.bincount(mask.reshape(-1), minlength=256)
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - set(labels.labels.tolist()) - labels.mistakes.keys())
    if unknown:
        names = ", ".join(map(str, unknown))
        raise UserError(f"{path}: has labels that are in no table: {names}; export the mask again, or add them there")
