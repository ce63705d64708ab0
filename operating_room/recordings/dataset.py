"""The index: which takes are on disk, and which files belong to each of their timepoints.

Data specification, section 1. A modality that a timepoint does not have is None, or absent from its mapping; nothing is
opened except the index file and the tracks of a take. Cameras are looked up by their number in the file name (fix 1
of section 11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from operating_room.domain.domain import Domain, mmor
from operating_room.domain.numbers import file_number
from operating_room.domain.takes import FOURDOR, MMOR, OWN, SPLITS, TAKES, Take, find_take, split_takes
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import sample_id
from operating_room.recordings import layout
from operating_room.recordings.folders import find_roots, list_names, takes_of_root
from operating_room.recordings.index import read_index, read_seconds, read_tracks

Camera = TypeVar("Camera", int, str)


@dataclass(frozen=True)
class Timepoint:
    """One element of a take's index file, with the files that exist for it."""

    take: Take
    frame_id: str  # position in the index file, six digits
    time: str  # time stamp, six digits; need not equal the position
    room_views: Mapping[int, Path] = field(default_factory=dict)  # camera (MM-OR 1..5, 4D-OR 1..6) -> picture
    station_views: Mapping[int, Path] = field(default_factory=dict)  # 0..3, layout.ROBOT_SCREEN is the robot's screen
    tracker_view: Path | None = None
    point_cloud: Path | None = None
    audio: Path | None = None  # clip
    audio_embedding: Path | None = None
    transcript: Path | None = None  # JSON
    robot_screen: Path | None = None  # JSON summary
    tracker: dict[str, Any] | None = None  # the element of the take's tracks at this time
    masks: Mapping[int, Path] = field(default_factory=dict)  # running number 0..2 -> 32x32 mask made from predictions
    label_masks: Mapping[str, Path] = field(default_factory=dict)  # segmentation camera -> annotated label mask
    annotation: Path | None = None  # raw relation labels

    @property
    def sample_id(self) -> str:
        """`<take>_<frame>`, the key of prediction files."""
        return sample_id(self.take.sample_name, self.frame_id)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Modality (the name of its field here) and path of every file of this timepoint; tracks are no file of it."""
        for name, _, path in self.files_by_camera():
            yield name, path

    def files_by_camera(self) -> Iterator[tuple[str, str, Path]]:
        """As `files`, with the camera (or number of a mask) between them; empty where there is only one."""
        for name in _SEVERAL_FILES:
            for camera, path in getattr(self, name).items():
                yield name, str(camera), path
        for name in _SINGLE_FILES:
            if (path := getattr(self, name)) is not None:
                yield name, "", path


_SEVERAL_FILES = ("room_views", "station_views", "masks", "label_masks")
_SINGLE_FILES = (
    *("tracker_view", "point_cloud", "audio", "audio_embedding"),
    *("transcript", "robot_screen", "annotation"),
)


class RecordedTake:
    """A take on disk. Folders are listed once, when something in them is first asked for."""

    def __init__(self, root: Path, take: Take, domain: Domain, positional_views: bool = False) -> None:
        """`root` is the folder of the take's dataset; for `positional_views` see `Dataset`."""
        self.root = root
        self.take = take
        self.domain = domain
        self._positional_views = positional_views
        self._listings: dict[str, frozenset[str]] = {}

    @cached_property
    def index_file(self) -> Path:
        """The index file of the take.

        Raises:
            UserError: there is none.
        """
        candidates = layout.index_files(self.root, self.take)
        for path in candidates:
            if self.has(path):
                return path
        own, shared = candidates
        raise UserError(f"{own.parent}: no {own.name} or {shared.name}; unpack the take {self.take.name} there")

    @cached_property
    def seconds(self) -> dict[int, dict[str, str]]:
        """The frame numbers of each second, in the order of time.

        The published code takes them from `take_jsons` in MM-OR, from the index in 4D-OR. A take of one's own without
        the former has the same numbers in its index.

        Raises:
            UserError: the file is damaged or of another form.
        """
        path = layout.take_json(self.root, self.take)
        if self.take.dataset == MMOR and self.has(path):
            return read_seconds(path)
        return {int(time): frames for time, frames in read_index(self.index_file)}

    @cached_property
    def expected(self) -> Sequence[Timepoint]:
        """All timepoints with every file that they could have, whether it is there or not.

        Raises:
            UserError: the index file is missing, damaged or of another form.
        """
        return tuple(
            self._expected(f"{position:06d}", time, frames)
            for position, (time, frames) in enumerate(read_index(self.index_file))
        )

    @cached_property
    def timepoints(self) -> Sequence[Timepoint]:
        """All timepoints with the files that are there, in the order of the index file.

        Raises:
            UserError: the index file is missing, or it or the tracks are damaged or of another form.
        """
        return tuple(self._found(expected) for expected in self.expected)

    def timepoint(self, frame_id: str) -> Timepoint:
        """The timepoint at a position of the index.

        Raises:
            UserError: the index has no such position.
        """
        try:
            position = int(file_number(frame_id))
        except ValueError:
            position = -1
        if not 0 <= position < len(self.timepoints):
            raise UserError(
                f"{self.index_file}: has no timepoint {frame_id[:9]!r}, only 000000 to {len(self.timepoints) - 1:06d}; "
                "choose one of these, or labels made for this index"
            )
        return self.timepoints[position]

    @cached_property
    def tracks(self) -> Sequence[dict[str, Any] | None] | None:
        """Tracked tools by integer time stamp; None if the take has no such file, which is normal.

        Raises:
            UserError: the file is damaged or of another form.
        """
        path = self._existing(layout.tracks(self.root, self.take)) if self.take.dataset == MMOR else None
        return None if path is None else read_tracks(path)

    @cached_property
    def annotation_folder(self) -> Path | None:
        """The folder with the take's raw relation labels."""
        folders = layout.relation_label_folders(self.root, self.take)
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

    def _present(self, paths: Mapping[Camera, Path]) -> dict[Camera, Path]:
        return {key: path for key, path in paths.items() if self.has(path)}

    def _views(self, paths: Mapping[int, Path]) -> dict[int, Path]:
        present = self._present(paths)
        # As published: the n-th picture that exists takes the place of the n-th camera.
        return dict(zip(paths, present.values())) if self._positional_views else present

    def _found(self, expected: Timepoint) -> Timepoint:
        second = int(expected.time)
        return replace(
            expected,
            room_views=self._views(expected.room_views),
            station_views=self._views(expected.station_views),
            masks=self._present(expected.masks),
            label_masks=self._present(expected.label_masks),
            tracker=self.tracks[second] if self.tracks is not None and second < len(self.tracks) else None,
            **{name: self._existing(getattr(expected, name)) for name in _SINGLE_FILES},
        )

    def _expected(self, frame_id: str, time: str, frames: Mapping[str, str]) -> Timepoint:
        root, take = self.root, self.take
        room = {camera: layout.frame_key(take, str(camera)) for camera in layout.ROOM_CAMERAS[take.dataset]}
        segmented = {camera: layout.frame_key(take, camera) for camera in layout.SEGMENTATION_CAMERAS[take.dataset]}
        labels = self.annotation_folder or layout.relation_label_folders(root, take)[0]
        cloud = frames.get("pcd") if take.dataset == FOURDOR else time
        common = Timepoint(
            take=take,
            frame_id=frame_id,
            time=time,
            room_views={i: layout.room_view(root, take, i, frames[key]) for i, key in room.items() if key in frames},
            point_cloud=None if cloud is None else layout.point_cloud(root, take, cloud),
            masks={i: layout.small_mask(root, take, time, i) for i in range(layout.MASKS_PER_TIMEPOINT)},
            label_masks={
                camera: layout.label_mask(root, take, camera, frames[key])
                for camera, key in segmented.items()
                if key in frames
            },
            annotation=layout.relation_label(labels, frame_id),
        )
        if take.dataset == FOURDOR:
            return common
        station, tracker = (frames.get(key) for key in layout.FRAME_KEYS[MMOR][1:])
        stations = (
            {} if station is None else {i: layout.station_view(root, take, i, station) for i in layout.STATION_CAMERAS}
        )
        return replace(
            common,
            station_views=stations,
            robot_screen=None if station is None else layout.screen_summary(root, take, station),
            tracker_view=None if tracker is None else layout.tracker_view(root, take, tracker),
            audio=layout.audio_clip(root, take, time),
            audio_embedding=layout.audio_embedding(root, take, time),
            transcript=layout.transcript(root, take, time),
        )


class Dataset:
    """MM-OR and 4D-OR on disk, or one of them."""

    def __init__(self, root: Path, domain: Domain | None = None, positional_views: bool = False) -> None:
        """Find the two datasets.

        Args:
            root: the folder that holds MM-OR_data and/or 4D-OR_data, or one of these folders itself.
            domain: what is recorded there; None is MM-OR with 4D-OR.
            positional_views: number the views of a timepoint as the published code does: the n-th picture that exists
                is camera n, so that a missing camera shifts those after it (fix 1 of section 11).

        Raises:
            UserError: there is no dataset.
        """
        self.domain = mmor() if domain is None else domain
        self.roots = find_roots(root)
        self.root = next(iter(self.roots.values())).parent  # the folder that holds them
        self._positional_views = positional_views
        self._recorded: dict[Take, RecordedTake] = {}

    def takes(self) -> list[Take]:
        """The takes on disk, 4D-OR first: the published ones, then the user's own; see `folders.takes_of_root`."""
        return [take for dataset, root in self.roots.items() for take in takes_of_root(root, dataset)]

    def take(self, take: Take) -> RecordedTake:
        """The take of that name; what it holds is looked up when asked for.

        Raises:
            UserError: its dataset is not there.
        """
        if take.dataset not in self.roots:
            wanted = layout.ROOT_NAMES[take.dataset]
            raise UserError(f"{self.root}: no {wanted}, which holds the take {take.name}; put or link it there")
        if take not in self._recorded:
            self._recorded[take] = RecordedTake(self.roots[take.dataset], take, self.domain, self._positional_views)
        return self._recorded[take]

    def select(self, split: str) -> list[Take]:
        """The takes of a split that are on disk, in published order; of `own`, those in no published list.

        Raises:
            UserError: there is no such split.
        """
        on_disk = self.takes()
        if split == OWN:
            return [take for take in on_disk if take not in TAKES]
        return [take for take in split_takes(split) if take in on_disk]

    def choose(self, names: Sequence[str] | None) -> list[Take]:
        """The takes that a user names, each once: a take's name, or a split (also `own`) for its takes on disk.

        Args:
            names: None means all takes on disk.

        Raises:
            UserError: a named take is not on disk, or nothing is left.
        """
        on_disk = self.takes()
        chosen: list[Take] = []
        for name in names if names is not None else ():
            if name in (*SPLITS, OWN):
                chosen += self.select(name)
            elif (take := find_take(name)) in on_disk:
                chosen.append(take)
            else:
                raise UserError(
                    f"{self.root}: no take {take.name}; there are {', '.join(t.name for t in on_disk) or 'none'}"
                )
        if not (chosen := on_disk if names is None else list(dict.fromkeys(chosen))):
            raise UserError(f"{self.root}: none of the takes of {', '.join(names or ['the dataset'])} is there")
        return chosen
