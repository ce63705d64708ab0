"""What is on disk, and what is wrong with it: `mmor data check`.

Every file that an index points to is read by the reader of the models. One problem never hides another: all are
collected, each in one line that names the file.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from operating_room.doctor import house_checks, take_checks
from operating_room.doctor.findings import Checkup, Finding, Severity, TakeFiles
from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN, Domain
from operating_room.errors import UserError, one_line
from operating_room.files.picture_files import read_depth
from operating_room.files.readers import check_subtitles, read_json
from operating_room.recordings.conversion import label_files
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.file_checks import check_label_mask
from operating_room.recordings.folders import folders_of_no_take
from operating_room.recordings.index import read_seconds
from operating_room.recordings.modalities import BY_NAME, TABLE, UNPACK, files_per_timepoint, modalities_of
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import CAUSAL, SETTINGS, WINDOW, audio_window
from operating_room.work.behind import behind
from operating_room.work.processes import cpu_threads
from operating_room.work.progress import track


def check(dataset: Dataset, names: Sequence[str] | None = None) -> Checkup:
    """Look at everything in a dataset.

    Args:
        dataset: where to look.
        names: takes and splits to look at, as in `Dataset.choose`; takes of a named split that are absent are gaps.
            None is all that is there; which published takes are not is only noted.

    Raises:
        UserError: a named take is not there. Whatever else is wrong goes into the report.
    """
    domain = dataset.domain
    takes = dataset.choose(names) if names is not None else dataset.takes()
    visit = _Visit(dataset.root)
    by_folder = sorted(takes, key=lambda take: (take.dataset, take.folder))
    groups = [list(sharing) for _, sharing in groupby(by_folder, key=lambda take: (take.dataset, take.folder))]
    reports: dict[Take, TakeFiles] = {}
    files = 0
    for sharing in track(groups, "listing takes"):
        counted, jobs = visit.collect([dataset.unkept(take) for take in sharing])
        reports |= zip(sharing, counted, strict=True)
        files += len(jobs)
    on_disk = dataset.takes()
    for name, data in dataset.roots.items():
        if names is None:
            visit.look_for_folders_of_no_take(data, name, domain)
        collection = domain.collection(name)
        if name in dataset.splits_beside:
            for finding in house_checks.look_at_splits(data, {take.name for take in on_disk}):
                visit.note(*finding)
            continue
        published = collection.splits
        wanted = (
            _whole(published) if names is None else {split: published[split] for split in names if split in published}
        )
        visit.look_for_absent_takes(data, wanted, on_disk, Severity.NOTE if names is None else Severity.GAP)
    for finding in house_checks.look_at_domain(domain, dataset.root):
        visit.note(*finding)
    for take in takes:
        if take.sample_name in (*domain.splits, OWN):
            path = dataset.roots[take.dataset] / take.folder
            told = f"is a take with the name of a split, which --take {take.name} means instead; rename its folder"
            visit.note(Severity.BROKEN, path, f"{path}: {told}")
        if domain.collection(take).layout == "house":
            visit.look_beside(dataset.unkept(take))
    for path, (severity, told) in track(_complaints(dataset, groups), "checking files", total=files):
        if told:
            visit.note(severity, path, told if str(path) in told else f"{path}: {told}")
    findings = sorted(visit.findings, key=lambda finding: (-finding.severity, finding.path))
    return Checkup(dataset.root, tuple(reports[take] for take in takes), tuple(findings), files)


def _complaints(dataset: Dataset, groups: Sequence[Sequence[Take]]) -> Iterator[tuple[Path, tuple[Severity, str]]]:
    """What is wrong with each file. They are listed once more, folder by folder: those of all takes are millions."""
    visit = _Visit(dataset.root)
    for sharing in groups:
        _, jobs = visit.collect([dataset.unkept(take) for take in sharing])
        yield from zip(jobs, behind(_complaint, jobs.values(), cpu_threads()), strict=True)


class _Visit:
    """Goes through the takes, notes what is missing, and collects the files to look into."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.findings: dict[Finding, None] = {}  # in order, each once
        # Each raises UserError, or returns text that is worth knowing; a shared file is looked into once.
        self.jobs: dict[Path, Callable[[], object]] = {}
        self._of_several: set[Path] = set()  # files seen so far that are not in a place of one take

    def collect(self, sharing: Sequence[RecordedTake]) -> tuple[list[TakeFiles], dict[Path, Callable[[], object]]]:
        """Takes of one folder: how many files each has, and the checks of those that no take before has."""
        self.jobs = {}
        reports = [self.count(recorded) for recorded in sharing]
        self.look_at_labels(sharing)
        names = {name for recorded in sharing for name in (recorded.take.name, recorded.take.folder)}
        places = {path: str(path).removeprefix(str(sharing[0].root)) for path in self.jobs}
        shared = {path for path, place in places.items() if not any(name in place for name in names)}
        jobs = {path: job for path, job in self.jobs.items() if path not in self._of_several}
        self._of_several |= shared
        return reports, jobs

    def note(self, severity: Severity, path: Path, message: str) -> None:
        """Add a finding."""
        self.findings[Finding(severity, path, one_line(message))] = None

    def count(self, recorded: RecordedTake) -> TakeFiles:
        """Count the files of a take."""
        take = recorded.take
        report = TakeFiles(take, tuple(recorded.domain.splits_of(take)))
        try:
            unheard = self._unheard(recorded)
            files = [file for file in _files(recorded) if file[1] not in unheard]
        except UserError as error:
            self.note(Severity.BROKEN, _index_file(recorded), str(error))
            return report
        report.timepoints = len(recorded.expected)
        missing: dict[str, Path] = {}
        counted: Counter[str] = Counter()
        for name, path, job in files:
            names = self._list(recorded, path.parent)
            counted[name] += bool(names) and (name not in BY_NAME or not BY_NAME[name].optional)
            if path.name in names:
                report.found[name] += 1
                self.jobs.setdefault(path, job)
            else:
                missing.setdefault(name, path)
        self._look_at_lenses(recorded)
        for folder, places in take_checks.places_of(recorded, self._list):
            self.jobs.setdefault(folder, partial(take_checks.check_places, folder, places))
        self._look_at_seconds(recorded)
        if recorded.collection.layout == "house":  # where a camera or modality without a folder was not used
            del counted["annotation"]  # which timepoints have a graph is up to the annotators
            report.expected = dict(+counted)
        else:
            report.expected = {name: number * report.timepoints for name, number in _per_timepoint(recorded).items()}
            report.expected |= {name: 1 for name, _, _ in files if name not in BY_NAME}
            for name in unheard.values():
                report.expected[name] -= 1
        for name in [row.name for row in TABLE if row.of_take is not None and report.found[row.name]]:
            try:
                known = {second for second, element in enumerate(recorded.elements(name) or ()) if element is not None}
                report.found[name] = sum(int(timepoint.time) in known for timepoint in recorded.expected)
            except UserError:  # the job on that file says what is wrong
                del report.found[name]
                report.expected.pop(name, None)
        for name, expected in report.expected.items():
            if lacking := expected - report.found[name]:
                path = missing.get(name, recorded.index_file)  # without a frame number there is no file name
                what = f"{lacking} of {expected} files are missing: {name} of take {take.name}"
                row = BY_NAME.get(name)
                advice = UNPACK if row is None else row.advice(self._data, recorded.collection)
                self.note(Severity.GAP, path, f"{path}: {what}; {advice}")
        return report

    def _unheard(self, recorded: RecordedTake) -> dict[Path, str]:
        """Clips and vectors of seconds before which there is no sound, where sound was prepared up to a second only."""
        unheard: dict[Path, str] = {}
        for timepoint in recorded.expected:
            if not audio_window(recorded.at(timepoint.time), causal=True)[1]:
                for name in ("audio", "audio_embedding"):
                    path = timepoint.one(name)
                    if path is not None and path.name not in self._list(recorded, path.parent) and _is_causal(path):
                        unheard[path] = name
        return unheard

    def _look_at_lenses(self, recorded: RecordedTake) -> None:
        """Collect camera files and depth pictures; most takes have none, which is no gap."""
        take, collection, root = recorded.take, recorded.collection, recorded.root
        for camera in collection.camera:
            paths = [root / path for path in collection.camera_files(take, camera)]
            views = (timepoint.views.get(camera) for timepoint in recorded.expected)
            seen = next((v for v in views if v is not None and v.name in self._list(recorded, v.parent)), None)
            for path in [path for path in paths if path.name in self._list(recorded, path.parent)][:1]:
                self.jobs.setdefault(path, partial(take_checks.check_camera, path, seen))
        for element in recorded.index:
            for path in recorded.depth_pictures(element):
                if path.name in self._list(recorded, path.parent):
                    self.jobs.setdefault(path, partial(read_depth, path))

    def _look_at_seconds(self, recorded: RecordedTake) -> None:
        """Note times of the index that the file of seconds does not have: no sound and words are made for them.

        And those of which it names other frames: stage 1 goes by this file, stage 2 by the index.
        """
        path = recorded.path("seconds")
        try:
            lacking = [element.time for element in recorded.index if int(element.time) not in recorded.seconds]
            other = [
                (element.time, key, element.numbers[key], frames[key])
                for element in recorded.index
                for frames in [recorded.seconds.get(int(element.time), {})]
                for key in sorted(recorded.collection.frame_keys)
                if element.numbers.get(key) != frames.get(key) and key in element.numbers and key in frames
            ]
        except UserError:
            return  # the check of that file says what is wrong
        if path is not None and lacking:
            what = f"lacks {len(lacking)} of {len(recorded.index)} times of the index, the first is {lacking[0]}"
            self.note(Severity.GAP, path, f"{path}: {what}, so that they get no sound and words; copy it again")
        if path is not None and other:
            time, key, number, here = other[0]
            what = f"names other frames than {recorded.index_file.name} in {len({row[0] for row in other})} seconds"
            told = f"{what}, in second {time} {key} {here} and there {number}: masks would be of other pictures"
            self.note(Severity.BROKEN, path, f"{path}: {told}; copy both again")

    def look_beside(self, recorded: RecordedTake) -> None:
        """Note what is in the folder of a take in the house layout and read by nothing."""
        with contextlib.suppress(UserError):  # its index is broken, which has been noted
            for finding in house_checks.look_at_take(recorded):
                self.note(*finding)

    def look_for_folders_of_no_take(self, root: Path, dataset: str, domain: Domain) -> None:
        """Note folders that hold a take by the look of it, and why it cannot be used."""
        for path, reason in folders_of_no_take(root, dataset, domain).items():
            self.note(Severity.BROKEN, path, f"{path}: {reason}")

    def look_for_absent_takes(
        self, root: Path, splits: Mapping[str, Sequence[str]], on_disk: Sequence[Take], severity: Severity
    ) -> None:
        """Note the takes of splits that are not there."""
        there = {take.name for take in on_disk}
        for split, of_split in splits.items():
            if names := [name for name in of_split if name not in there]:
                what = f"{len(names)} of {len(of_split)} takes of {split} are absent: {', '.join(names)}"
                self.note(severity, root, f"{root}: {what}; unpack them there if they are needed")

    def look_at_labels(self, sharing: Sequence[RecordedTake]) -> None:
        """Look for labels of unknown frames, and into all label masks, in a folder that several takes may share."""
        root, take, collection = sharing[0].root, sharing[0].take, sharing[0].collection
        try:
            sharing[0].list_folder(root / take.folder)
        except UserError:
            return  # which has been noted
        frames: list[Mapping[str, str]] = []
        frame_ids: dict[Take, set[str]] = {}
        for recorded in sharing:
            try:
                frames += _frames(recorded)
                frame_ids[recorded.take] = {timepoint.frame_id for timepoint in recorded.expected}
            except UserError:
                pass  # that index is broken, which has been noted; whether its labels have frames cannot be told
        complete = len(frame_ids) == len(sharing)
        for camera in collection.labelled_cameras:
            numbers = {number[camera.frame] for number in frames if camera.frame in number}
            masks = [collection.label_mask(take, camera.name, n, made) for n in numbers for made in (False, True)]
            known = {mask.name for mask in masks if mask is not None}
            folder = root / (collection.label_mask_folder(take, camera.name) or take.folder)
            for name in self._list(sharing[0], folder):
                if name.endswith(".png"):
                    self.jobs.setdefault(
                        folder / name, partial(check_label_mask, folder / name, take, sharing[0].domain)
                    )
                    self._require_frame(folder / name, not complete or name in known)
        for recorded in sharing:
            for pattern, folder in zip(collection.annotation, collection.annotation_folders(recorded.take)):
                known_ids = frame_ids.get(recorded.take)
                if "{take}" not in pattern:  # the folder's, which has labels of all takes in it
                    known_ids = set().union(*frame_ids.values()) if complete else None
                for name in self._list(recorded, root / folder):
                    if name.endswith(".json") and known_ids is not None:
                        self._require_frame(root / folder / name, name.removesuffix(".json") in known_ids)

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
    take, domain = recorded.take, recorded.domain
    for timepoint in recorded.expected:
        for name, _, path in timepoint.files_by_camera():
            if (check_file := BY_NAME[name].check) is not None:
                yield name, path, partial(check_file, path, take, domain)
    for row in TABLE:
        path = None if row.of_take is None else recorded.path(row.of_take.file)
        if row.of_take is not None and path is not None and (recorded.has(path) or not row.optional):
            yield row.name, path, partial(row.of_take.check, path, take, domain)
    checks: dict[str, Callable[[Path], object]] = {
        "seconds": partial(read_seconds, keys=recorded.collection.frame_keys),
        "recording": partial(take_checks.check_recording, last=_last(recorded)),
        "subtitles": partial(check_subtitles, last=_last(recorded) or math.inf),  # 0: nobody knows when it ends
    }
    for name, check_file in checks.items():
        path = recorded.path(name)
        if path is not None and (recorded.has(path) or recorded.collection.layout != "house"):
            yield name, path, partial(check_file, path)
    frame_ids = {timepoint.frame_id for timepoint in recorded.expected}
    graphs: set[str] = set()
    with contextlib.suppress(UserError):  # a folder that cannot be listed has been noted
        graphs = {label.stem for label in label_files(recorded)}
    for task in domain.tasks:
        path = recorded.path(task.name)
        asked = task in domain.tasks_of(take)
        if path is not None and (asked or recorded.has(path)):  # else nobody asks for it
            needed = graphs if asked else ()
            yield task.name, path, partial(take_checks.check_task_labels, path, task, frame_ids, needed)


def _is_causal(path: Path) -> bool:
    """Whether sound was prepared so where this file would be."""
    with contextlib.suppress(UserError):  # nothing says how
        settings = read_json(path.with_name(f"{SETTINGS}.json"))
        return isinstance(settings, dict) and settings.get(WINDOW) == CAUSAL
    return False


def _per_timepoint(recorded: RecordedTake) -> dict[str, int]:
    """Files per timepoint by modality. How many label masks there are is up to the annotators."""
    domain, collection = recorded.domain, recorded.collection
    rows = [row for row in modalities_of(domain, collection) if not row.optional]
    return {row.name: files_per_timepoint(row, domain, collection) for row in rows}


def _whole(splits: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The splits that are no part of one before them."""
    whole: dict[str, Sequence[str]] = {}
    for split in sorted(splits, key=lambda split: -len(splits[split])):
        if not any(set(splits[split]) <= set(other) for other in whole.values()):
            whole[split] = splits[split]
    return {split: splits[split] for split in splits if split in whole}


def _index_file(recorded: RecordedTake) -> Path:
    """The index file of a take, or the folder in which it cannot be looked for."""
    try:
        return recorded.index_file
    except UserError:
        return recorded.root / recorded.take.folder


def _last(recorded: RecordedTake) -> float:
    """The last second of a take, of which there are words and sound."""
    try:
        return recorded.at(f"{list(recorded.seconds)[-1]:06d}")
    except (UserError, IndexError):  # the check of that file says what is wrong
        return 0.0


def _frames(recorded: RecordedTake) -> list[Mapping[str, str]]:
    """The frame numbers in index and take_jsons; annotators may have worked with either."""
    frames = [element.numbers for element in recorded.index]
    with contextlib.suppress(UserError):  # the check of that file says what is wrong
        frames += recorded.seconds.values()
    return frames


def _complaint(job: Callable[[], object]) -> tuple[Severity, str]:
    """What is wrong with a file, or worth knowing of it; the check of one never ends those of all others."""
    try:
        found = _read(job)
    except UserError as error:
        return Severity.BROKEN, str(error)
    return Severity.NOTE, found if isinstance(found, str) else ""


def _read(job: Callable[[], object]) -> object:
    try:
        return job()
    except UserError:
        raise
    except Exception as error:  # whatever a reader stumbles over, the file is bad
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(f"cannot be read ({what}); do not use this file, and please report it") from error
