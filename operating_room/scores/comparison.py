"""Two results files of the same task: what differs, and whether it is more than chance.

Both are scored again on the timepoints they have in common; a difference counts where the interval of a paired
bootstrap (the same blocks of timepoints drawn for both, see `bootstrap`) does not hold 0. Of a number that rests on a
single block, every draw is the same: nothing is said of chance then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from operating_room.domain.domain import Domain, Task
from operating_room.domain.language import Language
from operating_room.errors import UserError, one_line
from operating_room.files.readers import read_json, require
from operating_room.graphs.graph_files import refuse_live
from operating_room.graphs.scene_graph import Sample, are_relations, as_triplets
from operating_room.scores import bootstrap
from operating_room.scores.downstream import judge
from operating_room.scores.reports import Report
from operating_room.scores.scoring import score_sample
from operating_room.scores.triplets.timelines import clock_of

_WHO = ("model", "rule")  # answers a downstream task
Records = Mapping[str, Mapping[str, Any]]  # sample id -> what a results file holds of it
Confusions = Int64[np.ndarray, "each names predicted"]
Judged = tuple[list[Sample], Confusions]  # the confusion of each timepoint


@dataclass(frozen=True)
class Difference:
    """One number in both files, over the timepoints they have in common."""

    name: str
    first: float
    second: float
    interval: bootstrap.Interval  # of second minus first
    blocks: int  # that it rests on

    @property
    def is_real(self) -> bool:
        """More than chance: the interval, of more than one block, does not hold 0."""
        low, high = self.interval
        return self.blocks > 1 and (low > 0 or high < 0)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; print it."""

    settings: dict[str, tuple[Any, Any]]  # what both runs say of themselves, where they differ
    untold: tuple[list[str], list[str]]  # what only the first, only the second says of itself
    common: int
    alone: tuple[int, int]  # timepoints that only one file has
    changed: int  # timepoints with another answer
    scores: dict[str, list[Difference]]  # by part: `predicates`, or task and who answered

    def __str__(self) -> str:
        # Of a file of somebody else, which may hold commands to a terminal.
        lines = [one_line(f"{name}: {first} -> {second}") for name, (first, second) in self.settings.items()]
        for which, names in zip(("first", "second"), self.untold):
            if names:
                lines.append(one_line(f"only the {which} file tells: {', '.join(names)}"))
        lines.append(
            f"{self.common} timepoints in both files ({self.alone[0]} only in the first, {self.alone[1]} only in the "
            f"second), {self.changed} of them answered differently"
        )
        if not self.changed:
            return "\n".join([*lines, "all answers are the same, so there is nothing to compare"])
        for part, differences in self.scores.items():
            lines += ["", f"{part:<40}{'first':>8}{'second':>8}{'change':>9}   {bootstrap.LEVEL} % interval"]
            for one in differences:
                low, high = one.interval
                change = (
                    f"{one.first:>8.4f}{one.second:>8.4f}{one.second - one.first:>+9.4f}   [{low:+.4f}, {high:+.4f}]"
                )
                told = "  of one block: chance unknown" if one.blocks < 2 else "  more than chance" * one.is_real
                lines.append(f"{one.name:<40}{change}{told}")
        return "\n".join([*lines, "", f"intervals: {bootstrap.OF_WHAT}"])


def compare(first: Path, second: Path, domain: Domain) -> Comparison:
    """Compare two results files.

    Args:
        first: a results file.
        second: another one.
        domain: whose takes they are about.

    Raises:
        UserError: both are the same file, one is damaged or no results file, they are of different tasks or of another
            domain, have no timepoint in common, or were scored against different annotations.
    """
    if os.path.realpath(first) == os.path.realpath(second):
        raise UserError(f"{first} and {second} are the same file; give two results files")
    results = [_read(path) for path in (first, second)]
    tasks = [one["task"] for one in results]
    if tasks[0] != tasks[1]:
        raise UserError(f"{first} is about {tasks[0]}, {second} about {tasks[1]}; compare results of the same task")
    records: list[Records] = [one["samples"] for one in results]
    common = [sample_id for sample_id in records[0] if sample_id in records[1]]
    if not common:
        raise UserError(f"{first} and {second} have no timepoint in common; are they of the same split?")
    abouts = [one["about"] for one in results]
    for path, about in zip((first, second), abouts):
        if (scored := about.get("domain", domain.name)) != domain.name:
            raise UserError(f"{path}: is about the domain {scored}, not {domain.name}; give it as --domain")
    told = [(name, a, abouts[1][name]) for name, a in abouts[0].items() if None not in (a, abouts[1].get(name))]
    shared: list[Records] = [{sample_id: of_file[sample_id] for sample_id in common} for of_file in records]
    try:
        scores = (_graph_scores if tasks[0] == "scene_graph" else _downstream_scores)(*shared, domain)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{first} or {second}: a timepoint lacks {error}; evaluate again") from error
    return Comparison(
        {name: (a, b) for name, a, b in told if a != b},
        _untold(abouts),
        len(common),
        (len(records[0]) - len(common), len(records[1]) - len(common)),
        sum(_is_changed(shared[0][sample_id], shared[1][sample_id], domain) for sample_id in common),
        scores,
    )


def _is_changed(first: Mapping[str, Any], second: Mapping[str, Any], domain: Domain) -> bool:
    """Whether what is scored differs: a time, a text or an answer that only one file holds is no other answer."""
    if "predicted" in first:
        return first["predicted"] != second["predicted"]
    pairs = [(first[task.name], second[task.name]) for task in domain.tasks]
    return any(who in a and who in b and a[who] != b[who] for a, b in pairs for who in _WHO)


def _untold(abouts: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    first, second = ({name for name, value in about.items() if value is not None} for about in abouts)
    return sorted(first - second), sorted(second - first)


def _read(path: Path) -> dict[str, Any]:
    require(path, "`evaluate`")
    refuse_live(path)
    match read_json(path):
        case {"task": "scene_graph" | "downstream", "about": dict(), "samples": dict()} as results:
            return results
        case {"windows": dict(), "vpq": _}:
            told = "holds scores of masks; `mmor report FIRST SECOND --out PAGE.html` compares two of these"
            raise UserError(f"{path}: {told}")
    raise UserError(f"{path}: is no results file; give two that `evaluate` wrote")


def _graph_scores(first: Records, second: Records, domain: Domain) -> dict[str, list[Difference]]:
    _require_same(first, second, lambda record: record["truth"])
    for sample_id, record in (*first.items(), *second.items()):
        for key in ("truth", "predicted"):
            if not are_relations(record[key]):
                raise TypeError(f"a list of relations, {key}, at {sample_id}")
    samples = [Sample.of_id(sample_id, as_triplets(record["truth"])) for sample_id, record in first.items()]
    both = (*second.items(), *first.items())  # an older file tells no times
    times = {key: at for key, record in both if isinstance(at := record.get("at_s"), int | float)}
    blocks = bootstrap.blocks_of(samples, clock_of(samples, domain, times))
    sums = [_graph_sums(blocks, records, domain.language) for records in (first, second)]
    return {"predicates": _differences(domain.language.scored_predicates, *sums)}


def _graph_sums(blocks: Sequence[Sequence[Sample]], records: Records, language: Language) -> Confusions:
    """Of each block; those of all its timepoints would take gigabytes for a million of these."""
    sums = []
    for block in blocks:
        graphs = (as_triplets(records[sample.sample_id]["predicted"]) for sample in block)
        reports = (score_sample(sample, graph, language) for sample, graph in zip(block, graphs))
        sums.append(reduce(add, (report.predicates.confusion for report in reports)))
    return np.stack(sums)


def _downstream_scores(first: Records, second: Records, domain: Domain) -> dict[str, list[Difference]]:
    found = {}
    for task in domain.tasks:
        _require_same(first, second, lambda record, name=task.name: record[name]["label"])
        for who in _WHO:
            if all(who in record[task.name] for records in (first, second) for record in records.values()):
                judged = [judged_answers(records, task, who, domain) for records in (first, second)]
                if judged[0][0]:
                    sums = [bootstrap.block_sums(*of_file) for of_file in judged]
                    found[f"{task.name}, {who}"] = _differences(task.classes, *sums)
    return found


def judged_answers(records: Records, task: Task, who: str, domain: Domain) -> Judged:
    """The timepoints of a downstream results file that count, and the confusion of each.

    Raises:
        UserError: a label has another form.
    """
    samples = [Sample.of_id(sample_id) for sample_id in records]
    labels: dict[str, dict[str, Any]] = {}
    for sample in samples:
        of_take = labels.setdefault(domain.find_take(sample.take_name).name, {})
        of_take[sample.frame_id] = records[sample.sample_id][task.name]["label"]
    answers = {key: record[task.name][who] for key, record in records.items()}
    judged, _ = judge(task, samples, answers, labels, domain)
    confusions = [Report.from_labels(task.classes, [label], [answer]).confusion for _, label, answer in judged]
    size = len(task.classes)
    return [sample for sample, _, _ in judged], np.array(confusions, np.int64).reshape(-1, size, size + 1)


def _require_same(first: Records, second: Records, truth: Callable[[Mapping[str, Any]], Any]) -> None:
    for sample_id in first:
        if truth(first[sample_id]) != truth(second[sample_id]):
            raise UserError(f"the files were scored against different labels, first of {sample_id}; evaluate one again")


def _differences(names: Sequence[str], *sums: Confusions) -> list[Difference]:
    """Of the first and the second file."""
    values = [bootstrap.statistics(Report(tuple(names), blocks.sum(axis=0))) for blocks in sums]
    intervals = bootstrap.difference_intervals(names, *sums)
    has = sums[0].sum(axis=2) > 0  # block, class
    blocks = dict(zip(names, has.sum(axis=0).tolist()))
    return [
        Difference(
            name, values[0][name], values[1][name], intervals[name], blocks.get(name, int(has.any(axis=1).sum()))
        )
        for name in values[0]
        if name in intervals and not np.isnan(values[0][name])
    ]
