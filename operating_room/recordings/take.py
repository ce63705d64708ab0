"""One take on disk: which files belong to each of its timepoints.

Data specification, section 1. Nothing is opened except the index file and the tracks of the take. Cameras are looked
up by their name (fix 1 of section 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from operating_room.domain.collection import CAMERA_MODALITIES, Camera, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.numbers import file_number
from operating_room.errors import UserError
from operating_room.recordings.folders import list_names
from operating_room.recordings.index import Element, TakeFile, read_elements, read_index, read_seconds, read_take_file
from operating_room.recordings.modalities import BY_NAME, TABLE
from operating_room.recordings.timepoint import Timepoint

# Modalities with files of their own for each timepoint, in the order in which it lists them.
_FILES = tuple(row.name for row in sorted(TABLE, key=lambda row: not row.several) if row.of_take is None)
# Those with one file for the whole take that each timepoint comes with; the others are read when they are asked for.
_OF_TAKES = tuple(row.name for row in TABLE if row.of_take is not None and not row.optional)


class RecordedTake:
    """A take on disk. Folders are listed once, when something in them is first asked for."""

    def __init__(
        self, root: Path, take: Take, domain: Domain, positional_views: bool = False, at_least: int = 0
    ) -> None:
        """`root` is the folder of the take's dataset; for `positional_views` see `Dataset`.

        `at_least` so many timepoints are there of a take that is being recorded: in the house layout take.yaml, which
        is written before, does not know; in others time may have gone back.
        """
        self.root = root
        self.take = take
        self.domain = domain
        self._positional_views = positional_views
        self._at_least = at_least
        self._listings: dict[str, frozenset[str]] = {}
        self._elements: dict[str, Sequence[Any] | None] = {}

    @cached_property
    def collection(self) -> Collection:
        """The dataset of the take."""
        return self.domain.collection(self.take)

    def path(self, name: str, **numbers: str | int) -> Path | None:
        """A file of the take or of a timepoint, whether it is there or not; None if the dataset has none of that name.

        Also None if its path needs a frame number that is not among `numbers`.
        """
        try:
            return self.root / self.collection.path(name, self.take, **numbers)
        except KeyError:
            return None

    @cached_property
    def index_file(self) -> Path:
        """The index file of the take.

        Raises:
            UserError: there is none.
        """
        candidates = [self.root / path for path in self.collection.index_files(self.take)]
        for path in candidates:
            if self.has(path):
                return path
        names = " or ".join(path.name for path in candidates)
        raise UserError(f"{candidates[0].parent}: no {names}; unpack the take {self.take.name} there")

    @cached_property
    def _take_file(self) -> TakeFile | None:
        """What take.yaml says, in the house layout."""
        return read_take_file(self.index_file) if self.collection.layout == "house" else None

    @property
    def pictures(self) -> str:
        """How names of pictures end: `jpg` or `png`.

        Raises:
            UserError: the index file is missing or damaged.
        """
        return "jpg" if self._take_file is None else self._take_file.pictures

    @cached_property
    def index(self) -> Sequence[Element]:
        """The elements of the index.

        Raises:
            UserError: the index file is missing, damaged or of another form.
        """
        if self._take_file is not None:
            listed = [(f"{position:06d}", {}) for position in range(max(self._take_file.frames, self._at_least))]
        else:
            # A clock may jump back while a take is recorded, which `mmor live` tells and goes on.
            read = read_elements if self._at_least else read_index
            listed = read(self.index_file, self.collection.frame_keys)
        return tuple(Element.at(position, time, frames) for position, (time, frames) in enumerate(listed))

    def at(self, time: str) -> float:
        """When a time stamp is, in s since the take began.

        Raises:
            UserError: the index file is missing or damaged.
        """
        return float(time) if self._take_file is None else int(time) * self._take_file.period

    @cached_property
    def seconds(self) -> dict[int, Mapping[str, str]]:
        """The frame numbers of each second, in the order of time.

        The published code takes them from `take_jsons` in MM-OR, from the index in 4D-OR. A take of one's own without
        the former has the same numbers in its index.

        Raises:
            UserError: the file is damaged or of another form.
        """
        path = self._existing(self.path("seconds"))
        if path is None:
            return {int(element.time): element.numbers for element in self.index}
        listed = read_seconds(path, self.collection.frame_keys)
        return {second: {**frames, "time": f"{second:06d}"} for second, frames in listed.items()}

    @cached_property
    def expected(self) -> Sequence[Timepoint]:
        """All timepoints with every file that they could have, whether it is there or not.

        Raises:
            UserError: the index file is missing, damaged or of another form.
        """
        return tuple(map(self.expected_of, self.index))

    @cached_property
    def timepoints(self) -> Sequence[Timepoint]:
        """All timepoints with the files that are there, in the order of the index file.

        Raises:
            UserError: the index file is missing, or it or the tracks are damaged or of another form.
        """
        return tuple(self._found(expected) for expected in self.expected)

    def timepoint(self, frame_id: str) -> Timepoint:
        """The timepoint at a position of the index. Nobody looks for the others, and it is not kept.

        Raises:
            UserError: the index has no such position, or it or the tracks are damaged or of another form.
        """
        try:
            position = int(file_number(frame_id))
        except ValueError:
            position = -1
        if not 0 <= position < len(self.index):
            told = f"has no timepoint {frame_id[:40]!r}, only 000000 to {len(self.index) - 1:06d}"
            raise UserError(f"{self.index_file}: {told}; choose one of these, or labels made for this index")
        return self._found(self.expected_of(self.index[position]))

    def elements(self, modality: str) -> Sequence[Any] | None:
        """The elements of a modality's file of the whole take, by integer time stamp; None if there is no file.

        The file is read once, when it is first asked for. That a take has none is normal.

        Raises:
            UserError: the file is damaged or of another form.
        """
        if modality not in self._elements:
            of_take = BY_NAME[modality].of_take
            path = None if of_take is None else self._existing(self.path(of_take.file))
            self._elements[modality] = None if of_take is None or path is None else of_take.read(path)
        return self._elements[modality]

    def readable(self) -> tuple[RecordedTake, list[str]]:
        """For those who look at a take: itself without the files of the whole take that cannot be read.

        Returns:
            the take, and what is wrong with each of these files.
        """
        problems: dict[str, str] = {}
        for modality in _OF_TAKES:
            try:
                self.elements(modality)
            except UserError as error:
                problems[modality] = str(error)
        if not problems:
            return self, []
        without = RecordedTake(self.root, self.take, self.domain, self._positional_views, self._at_least)
        without._elements |= dict.fromkeys(problems)
        return without, list(problems.values())

    def with_element(self, timepoint: Timepoint, modality: str) -> Timepoint:
        """A timepoint with its element of a modality's file of the whole take, if it has one.

        Raises:
            UserError: the file is damaged or of another form.
        """
        elements, second = self.elements(modality) or (), int(timepoint.time)
        if second >= len(elements) or elements[second] is None:
            return timepoint
        return replace(timepoint, records={**timepoint.records, modality: elements[second]})

    def camera_file(self, camera: str) -> Path | None:
        """The file with the calibration of a camera, if it is there."""
        names = self.collection.camera_files(self.take, camera)
        return next((self.root / name for name in names if self.has(self.root / name)), None)

    def depth_picture(self, timepoint: Timepoint, camera: str) -> Path | None:
        """The depth picture of a camera, if it is there."""
        frame = self.index[int(timepoint.frame_id)].numbers.get(self.collection.camera[camera].frame)
        path = None if frame is None else self.collection.depth_picture(self.take, camera, frame)
        return None if path is None else self._existing(self.root / path)

    def depth_pictures(self, element: Element) -> list[Path]:
        """The depth pictures that cameras could have of an element of the index, whether they are there or not."""
        frames = {camera.name: element.numbers.get(camera.frame) for camera in self.collection.cameras}
        paths = (self.collection.depth_picture(self.take, name, n) for name, n in frames.items() if n is not None)
        return [self.root / path for path in paths if path is not None]

    @cached_property
    def annotation_folder(self) -> Path | None:
        """The folder with the take's raw relation labels."""
        folders = [self.root / folder for folder in self.collection.annotation_folders(self.take)]
        return next((folder for folder in folders if self.list_folder(folder)), None)

    def list_folder(self, folder: Path) -> frozenset[str]:
        """The names in a folder, listed once; none if there is no such folder; hidden ones are left out.

        Raises:
            UserError: the folder may not be read, or a link to it leads nowhere.
        """
        key = str(folder)
        if key not in self._listings:
            self._listings[key] = list_names(folder)
        return self._listings[key]

    def has(self, path: Path) -> bool:
        """Whether a folder of the take or dataset has an entry of that name; each folder is listed once."""
        return path.name in self.list_folder(path.parent)

    def _existing(self, path: Path | None) -> Path | None:
        return path if path is not None and self.has(path) else None

    def _found(self, expected: Timepoint) -> Timepoint:
        files = {}
        for modality, paths in expected.files.items():
            if present := {key: path for key, path in paths.items() if self.has(path)}:
                # As published: the n-th picture that exists takes the place of the n-th camera.
                positional = self._positional_views and modality in CAMERA_MODALITIES
                files[modality] = dict(zip(paths, present.values())) if positional else present
        found = replace(expected, files=files)
        for modality in _OF_TAKES:
            found = self.with_element(found, modality)
        return found

    @cached_property
    def _label_folder(self) -> Path:
        """The folder with the take's raw relation labels, whether it is there or not."""
        return self.annotation_folder or self.root / self.collection.annotation_folders(self.take)[0]

    @cached_property
    def _mask_folders(self) -> dict[str, Path]:
        """The folder of label masks of each camera that has them."""
        folders = {
            camera.name: self.collection.label_mask_folder(self.take, camera.name)
            for camera in self.collection.labelled_cameras
        }
        return {name: self.root / folder for name, folder in folders.items() if folder is not None}

    @cached_property
    def _cameras(self) -> Sequence[Camera]:
        """The cameras, first those that an import has found in another order, in that order."""
        found = {name: place for place, name in enumerate(() if self._take_file is None else self._take_file.cameras)}
        return sorted(self.collection.cameras, key=lambda camera: found.get(camera.name, len(found)))

    def expected_of(self, element: Element) -> Timepoint:
        """The timepoint of an element with every file that it could have, whether it is there or not.

        Raises:
            UserError: the index file is missing or damaged.
        """
        collection, take, numbers, ending = self.collection, self.take, element.numbers, self.pictures
        files: dict[str, dict[str, Path]] = {name: {} for name in _FILES}
        for camera in self._cameras:
            if (frame := numbers.get(camera.frame)) is None:
                continue
            picture = self.root / collection.picture(take, camera.name, frame, ending)
            files[camera.modality][camera.name] = picture
            if (folder := self._mask_folders.get(camera.name)) is not None:
                files["label_masks"][camera.name] = folder / collection.mask_name(picture)
        for name in collection.files:
            if name == "masks":
                for number in range(self.domain.labels.masks):
                    files[name][str(number)] = self.root / collection.path(name, take, number=number, **numbers)
            elif name in files and (path := self.path(name, **numbers)) is not None:
                files[name][""] = path
        files["annotation"][""] = self._label_folder / f"{element.frame_id}.json"
        return Timepoint(
            take,
            element.frame_id,
            element.time,
            self.domain,
            {name: of_it for name, of_it in files.items() if of_it},
            period=None if self._take_file is None else self._take_file.period,
        )
