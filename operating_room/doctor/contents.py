"""What belongs to one timepoint, for people: its files, what is wrong with them, its prompt and its labels.

`mmor data show` prints one timepoint, `mmor data table` the pictures and labels of a whole take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from operating_room.doctor.take_checks import check_frame_labels
from operating_room.domain.domain import OWN, Task
from operating_room.errors import UserError, one_line
from operating_room.files.readers import read_json
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.scene_graph import as_said, target_text
from operating_room.recordings.modalities import BY_NAME, TABLE
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint

MISSING = "missing"
COLUMNS = ("take", "timepoint", "second", "camera", "picture", "label_mask", "interpolated_mask", "scene_graph_label")


@dataclass(frozen=True)
class File:
    """A file that a timepoint could have."""

    modality: str
    camera: str  # or number of a mask; `take` for files of the whole take; empty where there is only one
    path: Path
    problem: str  # `missing`, or what its reader says; empty if all is well


@dataclass(frozen=True)
class Contents:
    """A timepoint and all that is known of it."""

    sample_id: str
    dataset: str
    splits: tuple[str, ...]
    second: int  # since the take began
    frames: Mapping[str, str]  # key of the index -> frame number
    files: tuple[File, ...]
    pictures: tuple[str, ...]  # slots of a model's input at evaluation, in order: file name, or `black`
    elements: tuple[tuple[str, str], ...]  # modality with one file of the take, and whether this second has something
    prompt: str  # as in evaluation, or why it cannot be made
    memory: str  # what the memory in it is made of
    graph: str  # as a training target, or why there is none
    downstream: Mapping[str, Any]  # task -> stored label, of tasks with a label file
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        record = asdict(self)
        record["files"] = [{**asdict(file), "path": str(file.path)} for file in self.files]
        return record


def contents(recorded: RecordedTake, frame_id: str, with_memory: bool = False) -> Contents:
    """All that belongs to a timepoint; every file is read by the reader that models use.

    Args:
        recorded: its take.
        frame_id: position in the index.
        with_memory: put the memory of the labelled graphs before it into the prompt, as in training. In evaluation the
            memory holds the model's own graphs.

    Raises:
        UserError: there is no such timepoint, or the take's index cannot be read.
    """
    readable, _ = recorded.readable()  # what is wrong with the others is told below
    timepoint = readable.timepoint(frame_id)
    position = int(timepoint.frame_id)
    files = tuple(_look(recorded, *file) for file in recorded.expected[position].files_by_camera())
    problems = [file.problem for file in files if file.problem not in ("", MISSING)]
    past, memory = None, "none asked for"
    if with_memory:
        try:
            past, memory = _true_memory(readable, position)
        except UserError as error:
            memory = str(error)
            problems.append(memory)
    try:
        prompt = timepoint_prompt(timepoint, past)
    except UserError as error:
        prompt = f"cannot be made: {error}"
        problems.append(str(error))
    graph = "no label"
    if (annotation := timepoint.one("annotation")) is not None:
        try:
            graph = target_text(read_labels(annotation, timepoint.take, timepoint.domain).triplets)
        except UserError as error:
            graph = f"cannot be read: {error}"
    pictures = timepoint.collection.evaluation_pictures(timepoint.views)
    camera = {path: name for name, path in timepoint.views.items()}
    return Contents(
        timepoint.sample_id,
        timepoint.take.dataset,
        tuple(recorded.domain.splits_of(timepoint.take)) or (OWN,),
        timepoint.second,
        _frames(recorded, position),
        files + tuple(_of_take(recorded)),
        tuple("black" if path is None else f"{camera[path]}: {path.name}" for path in pictures),
        tuple(_elements(recorded, timepoint, problems)),
        prompt,
        memory,
        graph,
        dict(_downstream(recorded, timepoint, problems)),
        tuple(dict.fromkeys(problems)),
    )


def describe(found: Contents, root: Path) -> str:
    """A timepoint as text; paths are told below `root`."""
    frames = ", ".join(f"{key} {number}" for key, number in found.frames.items())
    frames = f", frames {frames}" if frames else ""
    lines = [
        f"{found.sample_id} ({found.dataset}, {', '.join(found.splits)}): second {found.second}{frames}",
        "",
        f"{'modality':<16} {'camera':<12} file",
    ]
    for file in found.files:
        path = file.path.relative_to(root) if file.path.is_relative_to(root) else file.path
        note = "" if not file.problem else f"  ({file.problem if file.problem == MISSING else 'BROKEN, see below'})"
        lines.append(f"{file.modality:<16} {file.camera:<12} {path}{note}")
    lines += [f"{modality:<16} {'':<12} {told}" for modality, told in found.elements]
    lines += ["", "pictures that a model sees in evaluation, in order"]
    lines += [f"  {slot} {name}" for slot, name in enumerate(found.pictures, 1)]
    lines += ["", f"prompt (memory: {found.memory})", found.prompt, "", "graph", found.graph]
    if found.downstream:
        lines += ["", "downstream labels", *(f"  {task}: {label}" for task, label in found.downstream.items())]
    if found.problems:
        lines += ["", "broken", *(f"  {problem}" for problem in found.problems)]
    return "\n".join(map(one_line, "\n".join(lines).split("\n")))  # what was said may hold commands to a terminal


def picture_table(recorded: RecordedTake, root: Path) -> Iterator[dict[str, str]]:
    """A row (`COLUMNS`) for each picture of a take, and for each label whose picture is missing.

    Paths are told below `root`; a file that is not there is an empty cell. Nothing but the index is opened.

    Raises:
        UserError: the take's index cannot be read.
    """
    told = partial(_told, recorded, root)
    for timepoint, element in zip(recorded.expected, recorded.index, strict=True):
        for camera, picture, masks in _cameras(recorded, timepoint, element.numbers):
            row = {
                "take": timepoint.take.name,
                "timepoint": timepoint.frame_id,
                "second": str(timepoint.second),
                "camera": camera,
                "picture": told(picture),
                "label_mask": told(masks[0]),
                "interpolated_mask": told(masks[1]),
                "scene_graph_label": told(timepoint.one("annotation")),
            }
            if row["picture"] or row["label_mask"] or row["interpolated_mask"]:
                yield row


def _cameras(
    recorded: RecordedTake, timepoint: Timepoint, frames: Mapping[str, str]
) -> Iterator[tuple[str, Path, tuple[Path | None, Path | None]]]:
    """Camera, picture and label masks (drawn, interpolated) of each camera that has a frame number."""
    take, collection = recorded.take, recorded.collection
    for camera, picture in timepoint.views.items():
        frame = frames[collection.camera[camera].frame]
        drawn, made = (collection.label_mask(take, camera, frame, interpolated) for interpolated in (False, True))
        yield camera, picture, (drawn and recorded.root / drawn, made and recorded.root / made)


def _told(recorded: RecordedTake, root: Path, path: Path | None) -> str:
    if path is None or not recorded.has(path):
        return ""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _look(recorded: RecordedTake, name: str, camera: str, path: Path) -> File:
    """A file with what its reader says."""
    try:
        if not recorded.has(path):
            return File(name, camera, path, MISSING)
        if (check := BY_NAME[name].check) is not None:
            check(path, recorded.take, recorded.domain)
    except UserError as error:
        return File(name, camera, path, str(error))
    return File(name, camera, path, "")


def _of_take(recorded: RecordedTake) -> Iterator[File]:
    """The files of the whole take; these are not opened here."""
    yield File("index", "take", recorded.index_file, "")
    not_asked = {task.name for task in recorded.domain.tasks} - {task.name for task in _tasks(recorded)}
    optional = {row.of_take.file for row in TABLE if row.of_take is not None and row.optional}
    for name in recorded.collection.take_files:
        path = recorded.path(name)
        if path is None or name in not_asked or (name in optional and not recorded.has(path)):
            continue
        yield File(name, "take", path, "" if recorded.has(path) else MISSING)


def _true_memory(recorded: RecordedTake, position: int) -> tuple[str, str]:
    """The memory of the labelled timepoints before a position, and what it is made of."""
    memory, labelled = Memory.of(recorded.domain.language), 0
    for timepoint in recorded.timepoints[:position]:
        if (annotation := timepoint.one("annotation")) is not None:
            memory.add(as_said(read_labels(annotation, recorded.take, recorded.domain).triplets), timepoint.second)
            labelled += 1
    return truncate(memory.text()), f"the labelled graphs of {labelled} of {position} timepoints before"


def _frames(recorded: RecordedTake, position: int) -> dict[str, str]:
    """The frame numbers of a timepoint in the index."""
    numbers = recorded.index[position].numbers
    return {key: numbers[key] for key in sorted(recorded.collection.frame_keys) if key in numbers}


def _elements(recorded: RecordedTake, timepoint: Timepoint, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Modalities with one file for the whole take, each with what this timepoint has of it."""
    for row in TABLE:
        path = None if row.of_take is None else recorded.path(row.of_take.file)
        if path is None:
            continue
        if not recorded.has(path):
            yield row.name, "no file"
            continue
        try:
            there = recorded.with_element(timepoint, row.name).has(row.name)
        except UserError as error:
            problems.append(str(error))
            yield row.name, f"{path.name}, cannot be read"
            continue
        yield row.name, f"{path.name}, has {'something' if there else 'nothing'} for second {int(timepoint.time)}"


def _tasks(recorded: RecordedTake) -> tuple[Task, ...]:
    """The downstream tasks whose labels the take can have."""
    return recorded.domain.tasks_of(recorded.take)


def _downstream(recorded: RecordedTake, timepoint: Timepoint, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Task and stored label, of tasks whose label file is there; of one that cannot be read, a problem."""
    for task in _tasks(recorded):
        path = recorded.path(task.name)
        if path is None or not recorded.has(path):
            continue
        try:
            check_frame_labels(path, task, {known.frame_id for known in recorded.expected})
        except UserError as error:
            problems.append(str(error))
            continue
        yield task.name, read_json(path).get(timepoint.frame_id)
