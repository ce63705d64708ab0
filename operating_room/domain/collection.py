"""How one dataset lies on disk: its takes and splits, its cameras, and the path of every file.

Data specification, sections 1, 2, 4.1 and 7.3. Nothing here looks at the disk; paths are relative to the folder of the
dataset. A pattern holds fields in braces: {take}, {folder} (of the take), {number} (of the take, or of a mask),
{camera}, {time} (the six-digit time stamp), {frame_id} (the six-digit position in the index), {pictures} (jpg or png,
as the take says), and the keys under which an element of the index holds frame numbers ({azure}, {pcd}).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import regex

from operating_room.errors import UserError

CAMERA_MODALITIES = ("room_views", "station_views", "tracker_view", "ego_views")
MODALITIES = (
    *CAMERA_MODALITIES,
    *("point_cloud", "audio", "audio_embedding", "transcript", "robot_screen", "tracker"),
    *("masks", "label_masks", "annotation", "robot_log", "gaze", "hands"),
)
# What `files` may hold: modalities with a file for each timepoint, and the small masks made from annotated ones.
TIMEPOINT_FILES = (
    *("point_cloud", "audio", "audio_embedding", "transcript", "robot_screen"),
    *("masks", "masks_from_annotation", "gaze", "hands"),
)
# What `take_files` may hold, besides the label file of each downstream task.
TAKE_FILES = ("seconds", "tracks", "recording", "subtitles", "robot_log")
SEPARATED_SPLITS = ("train", "val", "test")  # no take may be in two of these; other splits are parts of them
INTERPOLATED = "_interpolated"  # ending of the label masks that were made automatically between annotated ones
FOLDER_NAME = r"[\w\-][\w\-.]*"  # nothing that leaves the folder it is in
_PATIENCE = 0.5  # s for a name; a form as ([a-z]+)+ can take years

Picture = TypeVar("Picture")


@dataclass(frozen=True, order=True)
class Take:
    """A recorded surgery: `001_PKA` of MM-OR, `001_4DOR` of 4D-OR. Made by `Collection.take`.

    Its dataset and name say which one it is; the other fields follow from them.
    """

    dataset: str
    name: str
    sample_name: str = field(compare=False)  # in sample and prediction files: 001_PKA_MMOR, 001_4DOR
    folder: str = field(compare=False)  # below the dataset's root; several short MM-OR takes share one


@dataclass(frozen=True)
class Camera:
    """A camera of a dataset."""

    name: str  # "1", "simstation0", "trackercam", "external_1"
    modality: str  # one of CAMERA_MODALITIES
    frame: str  # the key of an index element that holds its frame number; `frame_id` where pictures are numbered so
    picture: str  # pattern
    masks: str | None = None  # pattern of the folder of its annotated label masks


@dataclass(frozen=True)
class Slots:
    """Which cameras a model is shown, in which places (section 4.1); names of cameras.

    The picture in the first slot provides the visual tokens that survive the pooler.
    """

    training: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()  # a missing one is black
    instead: tuple[str, ...] = ()  # stand in where none of the cameras of `evaluation` recorded
    also: tuple[str, ...] = ()  # behind the others where they recorded


@dataclass(frozen=True)
class OwnTakes:
    """Which names takes may have that are in no published list."""

    names: str = r"[A-Za-z0-9_\-]+"  # regular expression
    rule: str = "take names have letters, digits, '-' and '_' (no umlauts) only"
    ending: str = ""  # names that end so belong to this dataset and no other
    folders: str = ""  # the rule of the names of folders, where it is another

    def allows(self, name: str) -> bool:
        """Whether the form of names is that of this one.

        Raises:
            UserError: nobody lives to know.
        """
        try:
            return regex.fullmatch(self.names, name, timeout=_PATIENCE) is not None
        except TimeoutError as error:
            told = f"tries {name!r} for ever; write it without repetitions of what is repeated"
            raise UserError(f"own: the form of names {self.names!r} {told}") from error


@dataclass(frozen=True)
class Collection:
    """One dataset. Mappings are no part of its hash, only of equality."""

    name: str  # in code and files: MMOR
    title: str  # for people: MM-OR
    root: str  # its folder: MM-OR_data
    layout: Literal["patterns", "house"] = "patterns"  # house: docs/own_room.md; a take has take.yaml for an index
    suffix: str = ""  # what sample names append to take names: _MMOR
    takes: tuple[str, ...] = ()  # the published ones
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    own: OwnTakes = OwnTakes()
    folder: str = "{take}"  # pattern of the folder of a take; with {number} takes are numbered
    folders: Mapping[str, str] = field(default_factory=dict, hash=False)  # takes that lie elsewhere
    frame_keys: tuple[str, ...] = ()  # the frame numbers in an element of the index
    cameras: tuple[Camera, ...] = ()
    slots: Slots = Slots()
    index: tuple[str, ...] = ()  # patterns of the index file; the first that exists counts
    annotation: tuple[str, ...] = ()  # patterns of the raw relation labels of a timepoint; as above
    labels: Literal["mmor", "4dor", "triplets"] = "triplets"  # which reader of raw relation labels
    files: Mapping[str, str] = field(default_factory=dict, hash=False)  # of a timepoint: TIMEPOINT_FILES -> pattern
    take_files: Mapping[str, str] = field(default_factory=dict, hash=False)  # TAKE_FILES and tasks -> pattern
    calibration: tuple[str, ...] = ()  # patterns of the file of a camera; the first that exists counts
    depth: str | None = None  # pattern of the depth pictures, with {frame} as in the picture of the camera
    period: float = 1.0  # s between timepoints of simulated takes; a recorded one says its own
    thinned: Mapping[str, int] = field(default_factory=dict, hash=False)  # take -> every n-th label file counts
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # task -> takes not evaluated

    @property
    def numbered(self) -> bool:
        """Whether folders of takes have a number instead of the take's name."""
        return "{number}" in self.folder

    def can_be_take(self, name: str) -> bool:
        """Whether a take of this dataset, published or own, may have this name."""
        numbered = not self.numbered or re.fullmatch(r"[0-9]{3}", name.removesuffix(self.own.ending)) is not None
        allowed = re.fullmatch(FOLDER_NAME, name) is not None and self.own.allows(name)
        return numbered and allowed and name.endswith(self.own.ending)

    def take(self, name: str) -> Take:
        """The take of that name, published or own."""
        folder = self.folders.get(name)
        if folder is None:
            number = int(name.removesuffix(self.own.ending)) if self.numbered else 0
            folder = self.folder.format(take=name, number=number)
        return Take(self.name, name, name + self.suffix, folder)

    @cached_property
    def published(self) -> tuple[Take, ...]:
        """The published takes, in their order."""
        return tuple(map(self.take, self.takes))

    def name_of_folder(self, folder: str) -> str | None:
        """The name of the take whose folder is called so; None if folders are called as takes, or differently."""
        if self._folder_form is None or (found := self._folder_form.fullmatch(folder)) is None:
            return None
        return f"{int(found[1]):03d}{self.own.ending}" if self.numbered else found[1]

    @cached_property
    def _folder_form(self) -> re.Pattern[str] | None:
        """What the folder of a take looks like; None if it is the name of the take."""
        if self.folder == "{take}":
            return None
        before, after = re.split(r"\{take\}|\{number\}", self.folder)
        return re.compile(f"{re.escape(before)}({'[0-9]{1,3}' if self.numbered else '[^/]+'}){re.escape(after)}")

    # Cameras.

    @cached_property
    def camera(self) -> dict[str, Camera]:
        """Cameras by name."""
        return {camera.name: camera for camera in self.cameras}

    def cameras_of(self, modality: str) -> tuple[Camera, ...]:
        """The cameras of a modality."""
        return tuple(camera for camera in self.cameras if camera.modality == modality)

    @cached_property
    def labelled_cameras(self) -> tuple[Camera, ...]:
        """The cameras with annotated label masks: those of stage 1."""
        return tuple(camera for camera in self.cameras if camera.masks is not None)

    @property
    def max_views(self) -> int:
        """The most pictures that evaluation shows."""
        return max(len(self.slots.evaluation), len(self.slots.instead)) + len(self.slots.also)

    def training_pictures(self, views: Mapping[str, Picture]) -> list[Picture]:
        """The pictures of a training sample that exist, in the order of the slots; `views` is camera -> picture."""
        return [views[name] for name in self.slots.training if name in views]

    def evaluation_pictures(self, views: Mapping[str, Picture]) -> list[Picture | None]:
        """The picture slots at evaluation, at most `max_views`; None stands for a black picture.

        Args:
            views: camera -> picture, of those that recorded.
        """
        recorded = {self.camera[name].modality for name in views}
        modalities = [{self.camera[name].modality for name in n} for n in (self.slots.evaluation, self.slots.instead)]
        usual = modalities[0] & recorded or not modalities[1] & recorded
        slots = [views.get(name) for name in (self.slots.evaluation if usual else self.slots.instead)]
        return slots + [views[name] for name in self.slots.also if name in views]

    # Paths.

    def path(self, modality: str, take: Take, **numbers: str | int) -> Path:
        """The file of a timepoint (a key of `files`) or of a take (of `take_files`).

        Args:
            modality: which file.
            take: whose.
            numbers: what its pattern asks for besides take and folder: time, frame_id, number, or a key of the index.

        Raises:
            KeyError: this dataset has no such file, or a number is missing.
        """
        pattern = self.files[modality] if modality in self.files else self.take_files[modality]
        return self._path(pattern, take, **numbers)

    def index_files(self, take: Take) -> tuple[Path, ...]:
        """The names an index file may have; the first that exists counts."""
        return tuple(self._path(pattern, take) for pattern in self.index)

    def annotation_files(self, take: Take, frame_id: str) -> tuple[Path, ...]:
        """The raw relation labels of a timepoint; the first of which the folder exists counts."""
        return tuple(self._path(pattern, take, frame_id=frame_id) for pattern in self.annotation)

    def annotation_folders(self, take: Take) -> tuple[Path, ...]:
        """The folders that may hold raw relation labels; the first that exists counts."""
        return tuple(path.parent for path in self.annotation_files(take, ""))

    def picture(self, take: Take, camera: str, frame: str, pictures: str = "jpg") -> Path:
        """The picture of a camera; `frame` is the number under the camera's key of the index."""
        row = self.camera[camera]
        return self._path(row.picture, take, camera=camera, pictures=pictures, **{row.frame: frame})

    def label_mask_folder(self, take: Take, camera: str) -> Path | None:
        """The folder of annotated label masks of a camera; None if it has none."""
        pattern = self.camera[camera].masks
        return None if pattern is None else self._path(pattern, take, camera=camera)

    def label_mask(self, take: Take, camera: str, frame: str, interpolated: bool = False) -> Path | None:
        """The annotated label mask of a frame, or the automatically interpolated one; named like the picture."""
        folder = self.label_mask_folder(take, camera)
        return None if folder is None else folder / self.mask_name(self.picture(take, camera, frame), interpolated)

    @staticmethod
    def mask_name(picture: Path, interpolated: bool = False) -> str:
        """What the label mask of a picture is called."""
        return f"{picture.stem}{INTERPOLATED if interpolated else ''}.png"

    def labelled_picture(self, take: Take, camera: str, mask: str, pictures: str = "jpg") -> Path:
        """The picture that belongs to a label mask, told from its name."""
        folder = self.picture(take, camera, "", pictures).parent
        return folder / f"{mask.removesuffix('.png').removesuffix(INTERPOLATED)}.{pictures}"

    def panoptic_mask(self, take: Take, camera: str, frame: str, for_validation: bool = False) -> Path:
        """The prepared panoptic picture (written, section 7.2): ids for training, class colours for validation."""
        name = f"panoptic_seg_{camera}{'_for_val' if for_validation else ''}"
        return Path(take.folder, name, f"{self.picture(take, camera, frame).stem}.png")

    def camera_files(self, take: Take, camera: str) -> tuple[Path, ...]:
        """The names that the file with the calibration of a camera may have; the first that exists counts."""
        return tuple(self._path(pattern, take, camera=camera) for pattern in self.calibration)

    def depth_picture(self, take: Take, camera: str, frame: str) -> Path | None:
        """The depth picture of a camera; None if this dataset has none."""
        return None if self.depth is None else self._path(self.depth, take, camera=camera, frame=frame)

    @cached_property
    def folders_beside(self) -> frozenset[str]:
        """The names of the folders beside those of the takes, which hold no take whatever they look like."""
        first = {pattern.split("/")[0] for pattern in (*self.files.values(), *self.take_files.values())}
        return frozenset(name for name in first - {self.folder.split("/")[0]} if "{" not in name)

    def _path(self, pattern: str, take: Take, **fields: str | int) -> Path:
        return Path(pattern.format(take=take.name, folder=take.folder, **fields))
