"""Small pictures and masks of timepoints, as data URLs that fit into what a page may still take."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files import readers
from operating_room.graphs.prompts import metadata_blocks
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.file_checks import check_mask_shape
from operating_room.recordings.questions import read_screen, read_speech
from operating_room.recordings.timepoint import Timepoint

# Width in px and number of cameras: the first that fits is taken.
SIZES = ((240, 4), (200, 4), (160, 4), (160, 3), (128, 3), (112, 2), (96, 1))
_KINDS = {"room_views": "room", "station_views": "station", "tracker_view": "tracking camera", "ego_views": "worn"}


@dataclass(frozen=True)
class View:
    """One camera at one timepoint; pictures as data URLs."""

    name: str
    picture: str
    predicted: str | None = None  # masks with transparent background
    annotated: str | None = None
    problems: tuple[str, ...] = ()  # with what is shown nevertheless


@dataclass
class Album:
    """Where pictures are taken from; each take is looked up once."""

    dataset: Dataset
    masks: Mapping[Path, Path] = field(default_factory=dict)  # picture of a camera -> predicted class-colour picture
    problems: dict[str, None] = field(default_factory=dict)  # with indices and files of whole takes
    _found: dict[str, dict[str, Timepoint]] = field(default_factory=dict)

    def timepoint(self, sample: Sample) -> Timepoint | None:
        """The timepoint of a sample; None where its take, or it, is not on disk, or the take's index is damaged."""
        if sample.take_name not in self._found:
            take = self.dataset.domain.find_take(sample.take_name)
            timepoints: Sequence[Timepoint] = ()
            if take in self.dataset.takes():
                recorded, problems = self.dataset.take(take).readable()
                self.problems |= dict.fromkeys(problems)
                try:
                    timepoints = recorded.timepoints
                except UserError as error:  # costs its own take
                    self.problems[str(error)] = None
            self._found[sample.take_name] = {timepoint.frame_id: timepoint for timepoint in timepoints}
        return self._found[sample.take_name].get(sample.frame_id)

    def fitting(self, timepoint: Timepoint, budget: int) -> tuple[list[View], list[str]]:
        """Views whose pictures take at most `budget` bytes, as large as that allows; none if nothing fits.

        Returns:
            the views, and what is wrong with pictures that cannot be read.
        """
        read, problems = [], []
        for camera, path in list(timepoint.views.items())[: SIZES[0][1]]:
            try:
                read.append((_name(timepoint, camera), readers.read_picture(path)))
            except UserError as error:  # costs its own camera
                problems.append(str(error))
        for width, count in SIZES:
            found = [View(name, jpeg(picture, width, 62)) for name, picture in read[:count]]
            if sum(len(view.picture) for view in found) <= budget:
                return found, problems
        return [], problems

    def all_views(self, timepoint: Timepoint, width: int) -> Iterator[View]:
        """Every camera with its masks.

        Raises:
            UserError: a picture or mask cannot be read.
        """
        labels, annotations = timepoint.domain.labels, timepoint.several("label_masks")
        for camera, path in timepoint.views.items():
            predicted, annotated = self.masks.get(path), annotations.get(camera)
            yield View(
                _name(timepoint, camera),
                jpeg(readers.read_picture(path), width, 70),
                None if predicted is None else _predicted(predicted, labels, width),
                None if annotated is None else _annotated(annotated, labels, width),
                tuple(_misshapen([mask for mask in (predicted, annotated) if mask is not None], path)),
            )


def signals(timepoint: Timepoint) -> tuple[dict[str, str], list[str]]:
    """What the sensors without a picture say, in words, and what is wrong with files that cannot be read."""
    found, problems = dict[str, str](), list[str]()
    for name, said in (("heard", _heard), ("robot screen", _on_screen), ("tracked tools", _tracked)):
        try:
            words = said(timepoint)
        except UserError as error:  # costs its own sensor
            problems.append(str(error))
            continue
        if words:
            found[name] = words
    return found, problems


def _heard(timepoint: Timepoint) -> str | None:
    transcript = timepoint.one("transcript")
    return None if transcript is None else read_speech(transcript)


def _on_screen(timepoint: Timepoint) -> str | None:
    screen = timepoint.one("robot_screen")
    if screen is None:
        return None
    parts = read_screen(screen)
    metadata_blocks(timepoint.domain.language, parts, None, None)  # has all its fields, or says which one is missing
    return ", ".join(f"{part['type']}: {part['template_name']}" for part in parts.values())


def _tracked(timepoint: Timepoint) -> str | None:
    if timepoint.tracker is None:
        return None
    metadata_blocks(timepoint.domain.language, None, timepoint.tracker, None)
    return str(len(timepoint.tracker["unique_id_dicts"]))


def jpeg(picture: UInt8[np.ndarray, "height width 3"], width: int, quality: int) -> str:
    """As a data URL, no wider than `width` px."""
    image = Image.fromarray(picture)
    image.thumbnail((width, width))
    return _encode(image, "JPEG", quality=quality)


def overlay(categories: UInt8[np.ndarray, "height width"], labels: Labels, width: int) -> str:
    """A category map as a palette picture whose background is transparent."""
    height = max(1, width * categories.shape[0] // categories.shape[1])  # of a mask that is a line
    image = Image.fromarray(categories).resize((width, height), 0)
    image.putpalette(labels.colors.tobytes())
    return _encode(image, "PNG", transparency=0, bits=8)


def require_takes(dataset: Dataset, samples: list[Sample]) -> None:
    """Pictures are wanted, so some take of the results must be there.

    Raises:
        UserError: none is.
    """
    names = {sample.take_name for sample in samples}
    if names and not names & {take.sample_name for take in dataset.takes()}:
        raise UserError(
            f"{dataset.root}: none of the takes of the results is there ({sorted(names)[0]}, ...); give their --data"
        )


def _predicted(path: Path, labels: Labels, width: int) -> str:
    return overlay(labels.colors_to_categories(readers.read_picture(path)), labels, width)


def _annotated(path: Path, labels: Labels, width: int) -> str:
    return overlay(labels.label_to_category[readers.read_label_mask(path)], labels, width)


def _misshapen(masks: Sequence[Path], picture: Path) -> Iterator[str]:
    for mask in masks:
        try:
            check_mask_shape(mask, picture)
        except UserError as error:
            yield str(error)


def _name(timepoint: Timepoint, camera: str) -> str:
    kind = _KINDS[timepoint.collection.camera[camera].modality]
    return f"{kind} {camera}"


def _encode(image: Image.Image, form: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
