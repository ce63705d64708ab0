"""What is in a dataset, in numbers: `mmor data stats`. One pass over the files, in memory that does not grow with it.

Seconds, graphs and triplets, predicates over the time of a take and beside each other, gaps of cameras, and how many
pixels annotated masks give to each class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.collection import Take
from operating_room.errors import UserError, one_line
from operating_room.files.readers import read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import TABLE
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.work.progress import Steps

PARTS = 20  # of the time of a take, in which predicates are counted


@dataclass
class CameraGaps:
    """The pictures of a camera in a take that it is used in."""

    pictures: int = 0
    timepoints: int = 0
    gaps: int = 0  # stretches without a picture
    longest: int = 0  # timepoints of the longest of them
    recorded: list[float] = field(default_factory=lambda: [0.0] * PARTS)  # share of pictures in each part of the time
    _now: int = 0

    def add(self, is_there: bool) -> None:
        """The next timepoint."""
        self.timepoints += 1
        self.pictures += is_there
        self.gaps += not is_there and self._now == 0
        self._now = 0 if is_there else self._now + 1
        self.longest = max(self.longest, self._now)


@dataclass
class Statistics:
    """Numbers of a take, or of several together."""

    name: str
    takes: int = 0
    timepoints: int = 0
    seconds: float = 0.0
    graphs: int = 0  # timepoints with a label
    triplets: int = 0
    different: set[tuple[str, str, str]] = field(default_factory=set)  # triplets; bounded by the language
    predicates: Counter[str] = field(default_factory=Counter)  # triplets
    subjects: Counter[str] = field(default_factory=Counter)  # timepoints in which an entity is in a triplet
    over_time: dict[str, np.ndarray] = field(default_factory=dict)  # predicate -> triplets in each part of the time
    graphs_over_time: np.ndarray = field(default_factory=lambda: np.zeros(PARTS, np.int64))
    together: Counter[tuple[str, str]] = field(default_factory=Counter)  # timepoints with both; with itself: with it
    modalities: Counter[str] = field(default_factory=Counter)  # timepoints with it
    cameras: dict[str, CameraGaps] = field(default_factory=dict)
    masks: int = 0
    pixels: Counter[str] = field(default_factory=Counter)  # class -> pixels of annotated masks
    masks_with: Counter[str] = field(default_factory=Counter)  # class -> masks that show it
    problems: list[str] = field(default_factory=list)

    def add(self, other: Statistics, called: Mapping[str, str]) -> None:
        """Count another take in; gaps of cameras are added up, the longest stays the longest.

        `called` says what cameras of the take are called here, where not as in it.
        """
        for name in ("takes", "timepoints", "seconds", "graphs", "triplets", "masks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.different |= other.different
        for name in ("predicates", "subjects", "together", "modalities", "pixels", "masks_with"):
            getattr(self, name).update(getattr(other, name))
        self.graphs_over_time = self.graphs_over_time + other.graphs_over_time
        for predicate, counts in other.over_time.items():
            self.over_time[predicate] = self.over_time.get(predicate, np.zeros(PARTS, np.int64)) + counts
        for camera, gaps in other.cameras.items():
            mine = self.cameras.setdefault(called.get(camera, camera), CameraGaps())
            of_both = max(1, mine.timepoints + gaps.timepoints)
            mine.recorded = [
                (a * mine.timepoints + b * gaps.timepoints) / of_both for a, b in zip(mine.recorded, gaps.recorded)
            ]
            mine.pictures += gaps.pictures
            mine.timepoints += gaps.timepoints
            mine.gaps += gaps.gaps
            mine.longest = max(mine.longest, gaps.longest)
        self.problems += other.problems

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        total = max(1, sum(self.pixels.values()))
        return {
            **{name: getattr(self, name) for name in ("name", "takes", "timepoints", "seconds", "graphs", "triplets")},
            "different_triplets": len(self.different),
            "predicates": dict(self.predicates.most_common()),
            "predicates_over_time": {name: counts.tolist() for name, counts in sorted(self.over_time.items())},
            "graphs_over_time": self.graphs_over_time.tolist(),
            "together": [[a, b, count] for (a, b), count in sorted(self.together.items()) if a != b],
            "entities": dict(self.subjects.most_common()),
            "modalities": {row.name: self.modalities[row.name] for row in TABLE if self.modalities[row.name]},
            "cameras": {
                name: {key: value for key, value in vars(gaps).items() if not key.startswith("_")}
                for name, gaps in self.cameras.items()
            },
            "masks": self.masks,
            "classes": {
                name: {"pixels": count, "share": count / total, "masks": self.masks_with[name]}
                for name, count in self.pixels.most_common()
            },
            "problems": list(self.problems),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str, float]]:
        """For a CSV file: dataset or take, kind of number, what it is of, its name, its value."""
        for name in ("takes", "timepoints", "seconds", "graphs", "triplets", "masks"):
            yield self.name, "total", "", name, getattr(self, name)
        yield self.name, "total", "", "different_triplets", len(self.different)
        for predicate, count in self.predicates.most_common():
            yield self.name, "predicate", predicate, "triplets", count
            for part, of_part in enumerate(self.over_time[predicate].tolist()):
                yield self.name, "predicate", predicate, f"triplets_in_part_{part + 1}_of_{PARTS}", of_part
        for (a, b), count in sorted(self.together.items()):
            yield self.name, "together", f"{a} {b}", "timepoints", count
        for entity, count in self.subjects.most_common():
            yield self.name, "entity", entity, "timepoints", count
        for modality, count in self.modalities.items():
            yield self.name, "modality", modality, "timepoints", count
        for camera, gaps in self.cameras.items():
            for key in ("pictures", "timepoints", "gaps", "longest"):
                yield self.name, "camera", camera, key, getattr(gaps, key)
        for name, count in self.pixels.most_common():
            yield self.name, "class", name, "pixels", count
            yield self.name, "class", name, "masks", self.masks_with[name]


@dataclass(frozen=True)
class DatasetStatistics:
    """Of a dataset or a choice of takes, and of each of them."""

    total: Statistics
    takes: tuple[Statistics, ...]

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"total": self.total.to_json(), "takes": [take.to_json() for take in self.takes]}

    def __str__(self) -> str:
        rows = [["take", "timepoints", "seconds", "graphs", "triplets", "different", "masks", "camera gaps"]]
        for each in (*self.takes, self.total):
            gaps = sum(camera.gaps for camera in each.cameras.values())
            numbers = (each.timepoints, round(each.seconds), each.graphs, each.triplets, len(each.different))
            rows.append([each.name, *map(str, (*numbers, each.masks, gaps))])
        total = self.total
        lines = _columns(rows)
        if total.predicates:
            shares = [["predicate", "triplets", "timepoints with it"]]
            shares += [[name, str(n), str(total.together[name, name])] for name, n in total.predicates.most_common()]
            lines += ["", *_columns(shares)]
        if total.cameras:
            cameras = [["camera", "pictures", "of", "gaps", "longest"]]
            for name, gaps in total.cameras.items():
                cameras.append([name, *map(str, (gaps.pictures, gaps.timepoints, gaps.gaps, gaps.longest))])
            lines += ["", *_columns(cameras)]
        if total.pixels:
            every = sum(total.pixels.values())
            classes = [["class", "share of pixels", "masks with it"]]
            classes += [[n, f"{c / every:.3%}", str(total.masks_with[n])] for n, c in total.pixels.most_common()]
            lines += ["", *_columns(classes)]
        return "\n".join([*lines, *(f"left out: {one_line(problem)}" for problem in total.problems)])


def statistics(dataset: Dataset, takes: Sequence[Take]) -> DatasetStatistics:
    """The numbers of these takes.

    A file that cannot be read is left out and told; so is a take whose index cannot be.
    """
    total, found = Statistics("all"), []
    collections = [dataset.domain.collection(name) for name in dict.fromkeys(take.dataset for take in takes)]
    cameras = Counter(name for collection in collections for name in collection.camera)
    indexes = {}
    for take in takes:
        try:
            indexes[take] = len(dataset.unkept(take).index)
        except UserError as error:
            total.problems.append(str(error))
    with Steps("counting", sum(indexes.values())) as steps:
        for take in indexes:
            try:
                of_take = _count(dataset.unkept(take), steps)
            except UserError as error:
                total.problems.append(str(error))
                continue
            found.append(of_take)
            title = dataset.domain.collection(take).title
            total.add(of_take, {name: f"{title} {name}" for name, count in cameras.items() if count > 1})
    return DatasetStatistics(total, tuple(found))


def _count(recorded: RecordedTake, steps: Steps) -> Statistics:
    recorded, problems = recorded.readable()
    timepoints = recorded.timepoints
    times = [recorded.at(timepoint.time) for timepoint in timepoints]
    # What stands between two timepoints belongs to the first; the last is as long as most are.
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    found = Statistics(recorded.take.name, 1, len(timepoints), times[-1] - times[0] + step)
    found.problems += problems
    names = {category.label: category.name for category in recorded.domain.labels.categories}
    used = [name for name in recorded.collection.camera if any(name in timepoint.views for timepoint in timepoints)]
    found.cameras = {name: CameraGaps() for name in used}
    sizes = np.zeros(PARTS, np.int64)
    counted: set[Path] = set()  # an index may name a picture at two timepoints, where a camera was slow
    for place, timepoint in enumerate(timepoints):
        part = place * PARTS // len(timepoints)
        sizes[part] += 1
        for name, gaps in found.cameras.items():
            gaps.add(name in timepoint.views)
            gaps.recorded[part] += name in timepoint.views
        found.modalities.update(row.name for row in TABLE if timepoint.has(row.name))
        _count_graph(found, timepoint, part)
        masks = timepoint.several("label_masks").values()
        _count_masks(found, [path for path in masks if path not in counted], names)
        counted.update(masks)
        steps.advance()
    for gaps in found.cameras.values():
        gaps.recorded = (np.array(gaps.recorded) / np.maximum(sizes, 1)).tolist()
    return found


def _count_graph(found: Statistics, timepoint: Timepoint, part: int) -> None:
    path = timepoint.one("annotation")
    if path is None:
        return
    try:
        triplets = read_labels(path, timepoint.take, timepoint.domain).triplets
    except UserError as error:
        found.problems.append(str(error))
        return
    found.graphs += 1
    found.graphs_over_time[part] += 1
    found.triplets += len(triplets)
    found.different.update((t.subject, t.object, t.predicate) for t in triplets)
    found.subjects.update({name for t in triplets for name in (t.subject, t.object)})
    for triplet in triplets:
        found.predicates[triplet.predicate] += 1
        found.over_time.setdefault(triplet.predicate, np.zeros(PARTS, np.int64))[part] += 1
    found.together.update(combinations_with_replacement(sorted({t.predicate for t in triplets}), 2))


def _count_masks(found: Statistics, masks: Sequence[Path], names: dict[int, str]) -> None:
    for path in masks:
        try:
            counts = np.bincount(read_label_mask(path).ravel(), minlength=256)
        except UserError as error:
            found.problems.append(str(error))
            continue
        found.masks += 1
        for label in np.flatnonzero(counts).tolist():
            name = names.get(label, f"label {label}")
            found.pixels[name] += int(counts[label])
            found.masks_with[name] += 1


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
