"""What is on disk, and what is wrong with it: `mmor data check`.

Every file that an index points to is read by the reader of the models. One problem never hides another: all are
collected, each in one line that names the file.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from operating_room.doctor import file_checks
from operating_room.domain.takes import FOURDOR, MMOR, OWN, SPLITS, Take, split_takes, splits_of
from operating_room.errors import UserError, one_line
from operating_room.files.readers import check_subtitles
from operating_room.recordings import layout
from operating_room.recordings.dataset import Dataset, RecordedTake
from operating_room.recordings.folders import folders_of_no_take
from operating_room.recordings.index import read_index, read_seconds
from operating_room.scores.downstream import label_file
from operating_room.work.processes import cpu_threads
from operating_room.work.progress import track

# Files per timepoint by modality, as `Timepoint` names them. How many label masks there are is up to the annotators.
_PER_TIMEPOINT = {
    MMOR: {
        "room_views": len(layout.ROOM_CAMERAS[MMOR]),
        "station_views": len(layout.STATION_CAMERAS),
        **dict.fromkeys(("tracker_view", "point_cloud", "audio", "audio_embedding", "transcript", "robot_screen"), 1),
        "tracker": 1,
        "masks": layout.MASKS_PER_TIMEPOINT,
        "annotation": 1,
    },
    FOURDOR: {
        "room_views": len(layout.ROOM_CAMERAS[FOURDOR]),
        "point_cloud": 1,
        "masks": layout.MASKS_PER_TIMEPOINT,
        "annotation": 1,
    },
}
_LABEL_MASKS = "label_masks"
_COLUMNS = {
    "room_views": "room",
    "station_views": "station",
    "tracker_view": "trackcam",
    "point_cloud": "cloud",
    "audio": "audio",
    "audio_embedding": "embedded",
    "transcript": "words",
    "robot_screen": "screen",
    "tracker": "tracker",
    "masks": "masks",
    "annotation": "relations",
    _LABEL_MASKS: "labels",
}
_UNPACK = "copy it from the dataset archive"
_HINTS = {
    **dict.fromkeys(("room_views", "tracker"), f"normal for some takes, else {_UNPACK}"),
    **dict.fromkeys(("audio", "audio_embedding", "transcript", "masks"), "`mmor scene-graph preprocess` writes it"),
}
_MAIN_SPLITS = ("train", "val", "test", "short_clips")  # every published take is in one of these


class Severity(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    NOTE = 0  # worth knowing, and nothing is wrong
    GAP = 1  # something is not there
    BROKEN = 2  # something is there and cannot be used


@dataclass(frozen=True)
class Finding:
    """One problem; the message is one line and names the file."""

    severity: Severity
    path: Path
    message: str


@dataclass
class TakeFiles:
    """What is there of one take: number of files by modality, and by name for those that a take has once."""

    take: Take
    timepoints: int = 0
    found: Counter[str] = field(default_factory=Counter)
    expected: dict[str, int] = field(default_factory=dict)  # without those whose number cannot be told

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values, with the splits of the take."""
        names = [*self.expected, *(self.found.keys() - self.expected.keys())]
        files = {name: {"found": self.found[name], "expected": self.expected.get(name)} for name in names}
        description = {"take": self.take.name, "dataset": self.take.dataset, "splits": splits_of(self.take)}
        return {**description, "timepoints": self.timepoints, "files": files}


@dataclass(frozen=True)
class Checkup:
    """The result of `check`: print it, or store `to_json()`."""

    root: Path
    takes: tuple[TakeFiles, ...]
    findings: tuple[Finding, ...]  # the broken before the gaps
    opened: int  # files that were looked into

    @property
    def exit_code(self) -> int:
        """0 complete, 1 gaps, 2 broken files."""
        return max((int(finding.severity) for finding in self.findings), default=0)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "root": str(self.root),
            "exit_code": self.exit_code,
            "opened": self.opened,
            "takes": [take.to_json() for take in self.takes],
            "findings": [
                {"severity": finding.severity.name.lower(), "path": str(finding.path), "message": finding.message}
                for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        count = Counter(finding.severity for finding in self.findings)
        return "\n".join(
            [
                *_table(self.takes),
                "",
                *(f"{finding.severity.name.lower():<6}  {finding.message}" for finding in self.findings),
                f"{len(self.takes)} takes, {self.opened} files opened: "
                f"{count[Severity.BROKEN]} broken, {count[Severity.GAP]} gaps",
            ]
        )


def check(root: Path, names: Sequence[str] | None = None) -> Checkup:
    """Look at everything below `root`, the folder that holds MM-OR_data and/or 4D-OR_data, or one of these.

    Args:
        root: where to look.
        names: takes and splits to look at, as in `Dataset.choose`; takes of a named split that are absent are gaps.
            None is all that is there; which published takes are not is only noted.

    Raises:
        UserError: there is no dataset at all, or a named take is not there. Whatever else is wrong goes into the
            report.
    """
    dataset = Dataset(root)
    takes = dataset.choose(names) if names is not None else dataset.takes()
    visit = _Visit()
    reports = tuple(visit.count(dataset.take(take)) for take in track(takes, "listing takes"))
    on_disk = dataset.takes()
    for name, data in dataset.roots.items():
        if names is None:
            visit.look_for_folders_of_no_take(data, name)
        splits = _MAIN_SPLITS if names is None else [split for split in names if split in SPLITS]
        visit.look_for_absent_takes(data, name, splits, on_disk, Severity.NOTE if names is None else Severity.GAP)
    by_folder = sorted(takes, key=lambda take: (take.dataset, take.folder))
    for _, sharing in groupby(by_folder, key=lambda take: (take.dataset, take.folder)):
        visit.look_at_labels([dataset.take(take) for take in sharing])
    with ThreadPoolExecutor(cpu_threads()) as pool:
        complaints = track(pool.map(_complaint, visit.jobs.values()), "checking files", total=len(visit.jobs))
        for path, complaint in zip(visit.jobs, complaints):
            if complaint:
                visit.note(Severity.BROKEN, path, complaint if str(path) in complaint else f"{path}: {complaint}")
    findings = sorted(visit.findings, key=lambda finding: (-finding.severity, finding.path))
    return Checkup(root, reports, tuple(findings), len(visit.jobs))


class _Visit:
    """Goes through the takes, notes what is missing, and collects the files to look into."""

    def __init__(self) -> None:
        self.findings: dict[Finding, None] = {}  # in order, each once
        self.jobs: dict[Path, Callable[[], object]] = {}  # each raises UserError; a shared file is looked into once

    def note(self, severity: Severity, path: Path, message: str) -> None:
        """Add a finding."""
        self.findings[Finding(severity, path, one_line(message))] = None

    def count(self, recorded: RecordedTake) -> TakeFiles:
        """Count the files of a take."""
        take = recorded.take
        report = TakeFiles(take)
        try:
            files = list(_files(recorded))
        except UserError as error:
            self.note(Severity.BROKEN, _index_file(recorded), str(error))
            return report
        report.timepoints = len(recorded.expected)
        report.expected = {name: number * report.timepoints for name, number in _PER_TIMEPOINT[take.dataset].items()}
        report.expected |= {name: 1 for name, _, _ in files if name not in _COLUMNS}
        missing: dict[str, Path] = {}
        for name, path, job in files:
            if path.name in self._list(recorded, path.parent):
                report.found[name] += 1
                self.jobs.setdefault(path, job)
            else:
                missing.setdefault(name, path)
        if report.found["tracker"]:
            try:
                known = {second for second, element in enumerate(recorded.tracks or ()) if element is not None}
                report.found["tracker"] = sum(int(timepoint.time) in known for timepoint in recorded.expected)
            except UserError:  # the job on that file says what is wrong
                del report.found["tracker"], report.expected["tracker"]
        for name, expected in report.expected.items():
            if lacking := expected - report.found[name]:
                path = missing.get(name, recorded.index_file)  # without a frame number there is no file name
                what = f"{lacking} of {expected} files are missing: {name} of take {take.name}"
                self.note(Severity.GAP, path, f"{path}: {what}; {_HINTS.get(name, _UNPACK)}")
        return report

    def look_for_folders_of_no_take(self, root: Path, dataset: str) -> None:
        """Note folders that hold a take by the look of it, and why it cannot be used."""
        for path, reason in folders_of_no_take(root, dataset).items():
            self.note(Severity.BROKEN, path, f"{path}: {reason}")

    def look_for_absent_takes(
        self, root: Path, dataset: str, splits: Sequence[str], on_disk: Sequence[Take], severity: Severity
    ) -> None:
        """Note the published takes that are not there."""
        for split in splits:
            of_split = split_takes(split, (dataset,))
            names = [take.name for take in of_split if take not in on_disk]
            if names:
                what = f"{len(names)} of {len(of_split)} takes of {split} are absent: {', '.join(names)}"
                self.note(severity, root, f"{root}: {what}; unpack them there if they are needed")

    def look_at_labels(self, sharing: Sequence[RecordedTake]) -> None:
        """Look for labels of unknown frames, and into all label masks, in a folder that several takes may share."""
        root, take = sharing[0].root, sharing[0].take
        try:
            sharing[0].list_folder(layout.take_folder(root, take))
        except UserError:
            return  # which has been noted
        frames: list[dict[str, str]] = []
        frame_ids: dict[Take, set[str]] = {}
        for recorded in sharing:
            try:
                frames += _frames(recorded)
                frame_ids[recorded.take] = {timepoint.frame_id for timepoint in recorded.expected}
            except UserError:
                pass  # that index is broken, which has been noted; whether its labels have frames cannot be told
        complete = len(frame_ids) == len(sharing)
        for camera in layout.SEGMENTATION_CAMERAS[take.dataset]:
            folder, key = layout.label_mask_folder(root, take, camera), layout.frame_key(take, camera)
            numbers = {number[key] for number in frames if key in number}
            known = {layout.label_mask(root, take, camera, n, made).name for n in numbers for made in (False, True)}
            for name in self._list(sharing[0], folder):
                if name.endswith(".png"):
                    self.jobs.setdefault(folder / name, partial(file_checks.check_label_mask, folder / name))
                    self._require_frame(folder / name, not complete or name in known)
        for recorded in sharing:
            shared, own = layout.relation_label_folders(root, recorded.take)
            for folder, known_ids in (
                (shared, set().union(*frame_ids.values()) if complete else None),
                (own, frame_ids.get(recorded.take)),
            ):
                for name in self._list(recorded, folder):
                    if name.endswith(".json") and known_ids is not None:
                        self._require_frame(folder / name, name.removesuffix(".json") in known_ids)

    def _require_frame(self, path: Path, known: bool) -> None:
        if not known:
            message = f"{path}: is the label of a frame that the index does not have; remove it or copy the right index"
            self.note(Severity.BROKEN, path, message)

    def _list(self, recorded: RecordedTake, folder: Path) -> frozenset[str]:
        try:
            return recorded.list_folder(folder)
        except UserError as error:
            self.note(Severity.BROKEN, folder, str(error))
            return frozenset()


def _files(recorded: RecordedTake) -> Iterator[tuple[str, Path, Callable[[], object]]]:
    """Name, path and check of every file that a take could have."""
    root, take = recorded.root, recorded.take
    for timepoint in recorded.expected:
        for name, path in timepoint.files():
            yield name, path, partial(file_checks.CHECKS[name], path, take)
    if take.dataset == FOURDOR:
        return
    for name, path, check_file in (
        ("tracker", layout.tracks(root, take), partial(file_checks.check_tracks, language=recorded.domain.language)),
        ("take_json", layout.take_json(root, take), read_seconds),
        ("recording", layout.recording(root, take), partial(file_checks.check_recording, last=_last(recorded))),
        ("subtitles", layout.subtitles(root, take), check_subtitles),
    ):
        yield name, path, partial(check_file, path)
    frame_ids = {timepoint.frame_id for timepoint in recorded.expected}
    for task in recorded.domain.tasks:
        path = label_file(root, take, task, recorded.domain)
        if task not in recorded.domain.tasks_of(take) and not recorded.has(path):
            continue  # nobody asks for it
        yield task.name, path, partial(file_checks.check_frame_labels, path, task, frame_ids)


def _index_file(recorded: RecordedTake) -> Path:
    """The index file of a take, or the folder in which it cannot be looked for."""
    try:
        return recorded.index_file
    except UserError:
        return layout.take_folder(recorded.root, recorded.take)


def _last(recorded: RecordedTake) -> int:
    """The last second of a take, of which there are words and sound."""
    try:
        return list(recorded.seconds)[-1]
    except (UserError, IndexError):  # the check of that file says what is wrong
        return 0


def _frames(recorded: RecordedTake) -> list[dict[str, str]]:
    """The frame numbers in index and take_jsons; annotators may have worked with either."""
    frames = [numbers for _, numbers in read_index(recorded.index_file)]
    with contextlib.suppress(UserError):  # the check of that file says what is wrong
        frames += recorded.seconds.values()
    return frames


def _complaint(job: Callable[[], object]) -> str | None:
    """What is wrong with a file; the check of one never ends those of all others."""
    try:
        _read(job)
    except UserError as error:
        return str(error)
    return None


def _read(job: Callable[[], object]) -> None:
    try:
        job()
    except UserError:
        raise
    except Exception as error:  # whatever a reader stumbles over, the file is bad
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(f"cannot be read ({what}); do not use this file, and please report it") from error


def _table(reports: Sequence[TakeFiles]) -> list[str]:
    """One line per take: found/expected files, or one number where nothing is missing."""
    rows = [["take", "splits", "timepoints", *_COLUMNS.values(), "take files"]]
    for report in reports:
        found, expected = report.found, report.expected
        once = [name for name in expected if name not in _COLUMNS]
        cells = [_cell(found[name], expected.get(name, found[name])) for name in _COLUMNS]
        total = _cell(sum(found[name] for name in once), len(once))
        splits = ", ".join(splits_of(report.take))
        rows.append([report.take.name, splits or OWN, str(report.timepoints), *cells, total])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _cell(found: int, expected: int) -> str:
    if found == expected:
        return str(found) if found else "-"
    return f"{found}/{expected}"
