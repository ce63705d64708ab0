"""What a second consists of: the files and records of each camera and sensor, which are there or not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from operating_room.domain.collection import CAMERA_MODALITIES
from operating_room.errors import UserError
from operating_room.recordings.index import Element
from operating_room.recordings.modalities import BY_NAME, TABLE, Modality
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.preprocess.masks import mask_cameras

Part = tuple[str, str]  # modality, and camera where there are several
Tell = Callable[[str], None]

GONE = 3  # timepoints in a row without a part after which nobody waits for it
_AGAIN = 10  # timepoints between two chances of a part that comes too late
_MADE_HERE = ("masks", "audio_embedding")
_FILES = tuple(
    row for row in TABLE if row.of_take is None and row.input is not None and row.name not in _MADE_HERE
)  # that a model reads and a recorder writes
_RECORDS = tuple(row for row in TABLE if row.of_take is not None and row.input is not None)


def tell_user(line: str) -> None:
    """Tell the person at the terminal; standard output is for JSON."""
    print(f"live: {line}", file=sys.stderr, flush=True)


def told(part: Part) -> str:
    """A part as JSON lines name it: `room_views/4`, `tracker`."""
    return "/".join(filter(None, part))


@dataclass(frozen=True)
class Look:
    """What there is of a second at some moment."""

    timepoint: Timepoint  # with what is there and whole
    present: Sequence[Part]
    absent: Mapping[Part, Path | None]  # and where its file will be
    broken: Mapping[Part, str]  # of those that are absent: their file is there, but (still) cannot be read


class Presence:
    """Which parts are being recorded. One that stops is told once, and nobody waits for it until it is back."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._misses: dict[Part, int] = {}
        self._told: set[Part] = set()
        self._second_chance: dict[Part, int] = {}
        self._told_broken: set[Part] = set()

    def awaits(self, part: Part) -> bool:
        """Whether a second is held up for this part."""
        return self._misses.get(part, 0) < GONE

    def note(self, present: Collection[Part], absent: Collection[Part], frame_id: str) -> None:
        """What an answered second had."""
        back = [part for part in present if part in self._told]
        for part in present:
            self._misses[part] = 0
        for part in absent:
            self._misses[part] = self._misses.get(part, 0) + 1
        gone = [part for part in absent if not self.awaits(part) and part not in self._told]
        self._told = self._told.union(gone).difference(back)
        if gone:
            names = ", ".join(map(told, gone))
            lacking = f"{GONE} timepoints in a row without {names}"
            self._tell(f"{frame_id}: {lacking}; going on without, until that is there again")
        if back:
            self._tell(f"{frame_id}: {', '.join(map(told, back))} is there now")

    def tell_broken(self, look: Look) -> None:
        """A file that nobody can read costs its part of the second; of each part the first one is told."""
        for part, problem in look.broken.items():
            if part not in self._told_broken:
                self._told_broken.add(part)
                self._tell(f"{look.timepoint.frame_id}: goes on without {told(part)}: {problem}")

    def late(self, part: Part, position: int) -> None:
        """The file of an answered second came after all: the next one waits for this part, unless it is always late."""
        if not self.awaits(part) and position >= self._second_chance.get(part, 0):
            self._misses[part] = GONE - 1
            self._second_chance[part] = position + _AGAIN


class Parts:
    """Looks for the parts of seconds that a model reads."""

    def __init__(self, recorded: RecordedTake, inputs: Collection[str], presence: Presence, sound: bool) -> None:
        """Look at nothing yet.

        Args:
            recorded: the take; its listings of folders are not used.
            inputs: what the model is made for.
            presence: decides whether cameras that stand in for others are looked for.
            sound: whether clips of sound are looked for.
        """
        self.recorded, self.presence, self.inputs = recorded, presence, inputs
        names = (*inputs, "views") if "masks" in inputs else tuple(inputs)
        files = [row for row in _FILES if row.input in names]
        self._rows = [*files, BY_NAME["audio"]] if sound and "audio" in inputs else files
        self._records = [row for row in _RECORDS if row.input in inputs]
        collection = recorded.collection
        groups = mask_cameras(collection, recorded.domain.labels.masks) if "masks" in inputs else []
        masks = [[camera.name for camera in group] for group in groups]
        self._usual = {*collection.slots.evaluation, *collection.slots.also, *(masks[0] if masks else ())}
        self._instead = {*collection.slots.instead, *(name for group in masks[1:] for name in group)} - self._usual
        self._whole: set[Path] = set()  # files that have been checked
        self._kept: dict[str, tuple[tuple[int, int], int, Sequence[Any]]] = {}  # state of file, first second, elements

    def look(self, element: Element) -> Look:
        """What there is of an element of the index.

        Raises:
            UserError: the index file is damaged.
        """
        expected = self.recorded.expected_of(element)
        files: dict[str, dict[str, Path]] = {}
        absent: dict[Part, Path | None] = {}
        broken: dict[Part, str] = {}
        for row in self._rows:
            for camera, path in self._paths(expected, row).items():
                part = row.name, camera
                problem = self._problem(row, path)
                if problem is None:
                    files.setdefault(row.name, {})[camera] = path
                elif problem or row.name != "transcript" or self.subtitles is None:
                    absent[part] = path
                    if problem:
                        broken[part] = problem
        records: dict[str, Any] = {}
        for row in self._records:
            try:
                record = self._record(row, expected)
            except UserError as error:
                record, broken[row.name, ""] = None, str(error)
            if record is not None:
                records[row.name] = record
            elif self._file(row) is not None:
                absent[row.name, ""] = None
        present = [(name, camera) for name, of_it in files.items() for camera in of_it]
        present += [(name, "") for name in records]
        return Look(replace(expected, files=files, records=records), present, absent, broken)

    def begun(self, element: Element) -> bool:
        """Whether there is any file of an element of the index."""
        expected = self.recorded.expected_of(element)
        return any(path.exists() for row in self._rows for path in self._paths(expected, row).values())

    def folders(self) -> set[Path]:
        """The folders that files of timepoints are in, where these are numbered from 0 on."""
        expected = self.recorded.expected_of(Element.at(0, "000000", {}))
        return {path.parent for row in self._rows for path in expected.several(row.name).values()}

    @property
    def subtitles(self) -> Path | None:
        """The subtitles so far, which are an equal of transcripts of each second."""
        path = self.recorded.path("subtitles") if "speech" in self.inputs else None
        return path if path is not None and path.exists() else None

    def forget(self) -> None:
        """Forget which files are whole: those of a second that was handed out."""
        self._whole.clear()

    def _paths(self, expected: Timepoint, row: Modality) -> Mapping[str, Path]:
        """The files of a modality; of cameras that stand in for others only where none of those records."""
        files = expected.several(row.name)
        if row.name not in CAMERA_MODALITIES:
            return files
        first = [
            (name, camera)
            for name in CAMERA_MODALITIES
            for camera in expected.several(name)
            if camera in self._usual and camera not in self.recorded.collection.slots.also
        ]
        shown = self._usual if any(map(self.presence.awaits, first)) else self._usual | self._instead
        return {camera: path for camera, path in files.items() if camera in shown}

    def _problem(self, row: Modality, path: Path) -> str | None:
        """Why a file cannot be used: empty text if it is not there; None if it can."""
        if path in self._whole:
            return None
        if not path.exists():
            return ""
        try:
            if row.check is not None:
                row.check(path, self.recorded.take, self.recorded.domain)
        except UserError as error:
            return str(error)
        self._whole.add(path)
        return None

    def _file(self, row: Modality) -> Path | None:
        return None if row.of_take is None else self.recorded.path(row.of_take.file)

    def _record(self, row: Modality, expected: Timepoint) -> Any:
        """The element of a modality's file of the whole take; None if there is none yet.

        Only what is still to be asked for is kept.

        Raises:
            UserError: the file is damaged, or the element cannot be told.
        """
        path, second = self._file(row), int(expected.time)
        if path is None or row.of_take is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None
        state = status.st_mtime_ns, status.st_size
        known = self._kept.get(row.name)
        if known is None or known[0] != state or second < known[1]:  # a newer second was looked at before
            try:
                known = self._kept[row.name] = state, second, row.of_take.read(path)[second:]
            except UserError:  # it is being written: what was there before holds
                if known is None or second - known[1] >= len(known[2]):
                    raise
        _, first, elements = known
        record = elements[second - first] if 0 <= second - first < len(elements) else None
        if record is not None:
            timepoint_prompt(replace(expected, files={}, records={row.name: record}), None)
        return record
