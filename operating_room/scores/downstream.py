"""The downstream tasks: next action, robot phase, breaches of sterility. Labels, answers, scores.

Data specification, section 10. Label spaces and evaluation are the published ones; the rules by which the published
labels were made are lost.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain, Task
from operating_room.domain.language import NONE
from operating_room.errors import UserError
from operating_room.files.readers import again, read_json, require
from operating_room.graphs.scene_graph import Sample, Triplet, are_relations, by_take
from operating_room.recordings.dataset import Dataset
from operating_room.scores.reports import Report
from operating_room.scores.sterility import SterilityRule, find_breaches

DEFINITIONS = {
    "macro": "unweighted mean over the classes with support",
    "macro avg": "mean over all classes of the task, 0 for those without support; the paper's number",
    "answers": "an answer outside the classes is wrong",
    "labels": "timepoints without label, or with a label outside the classes, are left out",
    "time": "seconds until the next action, as answered behind the colon, against the label's; more than a day is none;"
    " `constant` says the median of these very labels always",
    "division": "0/0 is 0",
}

_END = "</s>"
_LONGEST_S = 86_400  # until the next action: no take is longer than a day
_TIME = re.compile(r"\d+(?:\.\d+)?")  # in an answer, behind the colon
_HALF_LETTER = re.compile("[\ud800-\udfff]")  # of JSON escapes; no file can be written with one, no tokenizer takes it


@dataclass(frozen=True)
class DownstreamScores:
    """The result of `score_downstream`: print it or store `to_json()`."""

    task: str
    takes: dict[str, Report]  # by take name without suffix, where a timepoint was scored
    overall: Report
    unknown_labels: list[str]  # of the timepoints that were left out because of their label

    def to_json(self) -> dict[str, Any]:
        """All scores with their definitions and support as JSON values."""
        return {
            "task": self.task,
            "definitions": DEFINITIONS,
            "overall": self.overall.to_json(),
            "macro": self.overall.macro,
            "takes": {name: report.to_json() for name, report in self.takes.items()},
            "unknown_labels": self.unknown_labels,
        }

    def __str__(self) -> str:
        reports = {**self.takes, "all takes": self.overall}
        blocks = [f"{self.task}, {name}\n\n{report.table()}" for name, report in reports.items()]
        if self.unknown_labels:
            names = ", ".join(sorted({repr(label) for label in self.unknown_labels}))
            blocks.append(f"{len(self.unknown_labels)} timepoints left out because of unknown labels: {names}\n")
        return "\n".join(blocks)


def score_downstream(
    task: Task,
    samples: Iterable[Sample],
    answers: Mapping[str, str],
    labels: Mapping[str, Mapping[str, Any]],
    domain: Domain,
    keep_end_token: bool = False,
) -> DownstreamScores:
    """Compare answers with labels.

    Args:
        task: which.
        samples: the timepoints to score; their graphs are not looked at.
        answers: sample id -> generated text; for breaches of sterility `breach_answers` is what the paper scores.
        labels: take name without suffix -> frame_id -> stored label, from `load_labels`.
        domain: whose takes these are.
        keep_end_token: a trailing `</s>` stays and makes the answer wrong, as published (section 11, fix 7).

    Raises:
        UserError: a sample has no answer or no label entry, or a label has another form.
    """
    judged, unknown_labels = judge(task, samples, answers, labels, domain, keep_end_token)
    classes = task.classes
    pairs: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))  # labels and answers of a take
    for sample, label, answer in judged:
        of_take = pairs[_short_name(sample, domain)]
        of_take[0].append(label)
        of_take[1].append(answer)
    takes = {take: Report.from_labels(classes, *of_take) for take, of_take in pairs.items()}
    return DownstreamScores(task.name, takes, sum(takes.values(), Report.from_labels(classes, [], [])), unknown_labels)


def judge(
    task: Task,
    samples: Iterable[Sample],
    answers: Mapping[str, str],
    labels: Mapping[str, Mapping[str, Any]],
    domain: Domain,
    keep_end_token: bool = False,
) -> tuple[list[tuple[Sample, int, int]], list[str]]:
    """The timepoints that count, each with label and answer as indices of classes (-1: an answer that is none of them).

    Also the unknown labels of timepoints that are left out. For the arguments and errors see `score_downstream`.
    """
    classes = task.classes
    judged, unknown_labels = [], []
    for sample in samples:
        take = domain.find_take(sample.take_name)
        if task not in domain.tasks_of(take):
            continue
        label = _read_label(task, sample, labels.get(take.name, {}))
        if label is None:
            continue
        if label not in classes:
            unknown_labels.append(label)
            continue
        if sample.sample_id not in answers:
            raise UserError(f"sample {sample.sample_id} has no answer; answer all samples or score fewer takes")
        answer = _read_answer(task, answers[sample.sample_id], keep_end_token)
        judged.append((sample, classes.index(label), classes.index(answer) if answer in classes else -1))
    return judged, unknown_labels


def time_errors(
    task: Task,
    samples: Iterable[Sample],
    answers: Mapping[str, str],
    labels: Mapping[str, Mapping[str, Any]],
    domain: Domain,
) -> dict[str, float | int | None]:
    """How many seconds answers to a task with time are off, which the published evaluation does not ask.

    Returns:
        mean and median absolute error in s over the answers with a time (of a day at most), the mean where the action
        is right, and what saying the median label always would give; with the number of timepoints behind each. None
        where there is none.
    """
    judged, _ = judge(task, samples, answers, labels, domain)
    times, errors, right = [], [], []
    for sample, label, answer in judged:
        stored = labels[_short_name(sample, domain)][sample.frame_id]
        if len(stored) < 2 or not isinstance(stored[1], (int, float)):
            continue
        times.append(float(stored[1]))
        said = _TIME.search(answers[sample.sample_id].partition(":")[2])
        if said is not None and float(said[0]) <= _LONGEST_S:  # else a row of digits, which no mean survives
            errors.append(abs(float(said[0]) - times[-1]))
            right += errors[-1:] if label == answer else []
    constant = float(np.median(times)) if times else 0.0
    return {
        "timepoints": len(times),
        "with_time": len(errors),
        "mean_error": _mean(errors),
        "median_error": float(np.median(errors)) if errors else None,
        "with_time_and_right_action": len(right),
        "mean_error_of_right_action": _mean(right),
        "mean_error_of_constant": _mean([abs(time - constant) for time in times]),
    }


def read_labels(
    dataset: Dataset, samples: Sequence[Sample], root: Path | None = None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The labels of the samples' takes, for `score_downstream`; one with bad labels, or without tasks, is left out.

    Args:
        dataset: where the takes are.
        samples: the timepoints that need labels.
        root: the folder with the label folders of the tasks; None is the dataset's own.

    Returns:
        task -> take name without suffix -> frame_id -> label, and one line for each take that is left out.
    """
    domain, problems = dataset.domain, []
    labels: dict[str, dict[str, Any]] = {task.name: {} for task in domain.tasks}
    for name, of_take in by_take(samples).items():
        take = domain.find_take(name)
        if not domain.tasks_of(take):
            continue
        try:
            found = {task: _labels_of_take(dataset, take, of_take, task, root) for task in domain.tasks}
        except UserError as error:
            problems.append(f"{name} is left out: {error}")
        else:
            for task in domain.tasks:
                labels[task.name][take.name] = found[task]
    return labels, problems


def label_class(task: Task, stored: Any) -> str | None:
    """The class of a stored label in lower case, None if it has none.

    Raises:
        UserError: it has another form.
    """
    match task.kind, stored:
        case "class_with_time", None:
            return None
        case "class_with_time", []:
            return NONE  # crashed the published evaluation (section 11, fix 6)
        case "class_with_time", [str(action), int() | float() as seconds, *_] if (
            not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST_S and not _HALF_LETTER.search(action)
        ):
            return action
        case "class", str(name):
            return name.lower().strip()
        case "sterility", breaches if are_relations(breaches):
            return task.classes[bool(breaches)]
    raise UserError(f"needs a {task.name} label as in MM-OR; found {str(stored)[:60]!r}")


def check_label_file(path: Path, task: Task) -> dict[str, Any]:
    """Frame id -> label of a file, each of the task's form.

    Raises:
        UserError: the file is damaged, or one of them is not.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must map frame ids to labels; {again(path)}")
    for frame_id, label in content.items():
        try:
            label_class(task, label)
        except UserError as error:
            raise UserError(f"{path}: frame {frame_id} has the label {str(label)[:60]!r}; {again(path)}") from error
    return content


def breach_answers(task: Task, samples: Sequence[Sample], rule: SterilityRule) -> dict[str, str]:
    """The answers to the sterility task by sample id, from the graphs of whole takes in order of time."""
    answers = {}
    for of_take in by_take(samples).values():
        breaches = find_breaches((sample.triplets for sample in of_take), rule)
        answers |= {sample.sample_id: task.classes[bool(broken)] for sample, broken in zip(of_take, breaches)}
    return answers


def predicted_samples(predictions: Mapping[str, Iterable[Triplet]]) -> list[Sample]:
    """Predicted graphs (sample id -> triplets as generated) as the downstream tasks take them, sorted by sample id.

    Blanks in entity names become underscores; nothing else is normalised.
    """
    samples = []
    for sample_id in sorted(predictions):
        triplets = (Triplet(s.replace(" ", "_"), o.replace(" ", "_"), p) for s, o, p in predictions[sample_id])
        samples.append(Sample.of_id(sample_id, triplets))
    return samples


def label_file(root: Path, take: Take, task: Task, domain: Domain) -> Path:
    """Where the labels of a take are below a folder that holds the label folders of the tasks."""
    return root / domain.collection(take).path(task.name, take)


def load_labels(root: Path, takes: Iterable[Take], task: Task, domain: Domain) -> dict[str, dict[str, Any]]:
    """Stored labels of a task: take name without suffix -> frame_id -> label.

    Raises:
        UserError: a label file is missing or damaged, or holds something else than labels of the task.
    """
    labels = {}
    for take in takes:
        path = label_file(root, take, task, domain)
        require(path, "`mmor downstream labels --out DIR`, for `--labels DIR`,")
        labels[take.name] = check_label_file(path, task)
    return labels


def _labels_of_take(
    dataset: Dataset, take: Take, samples: Sequence[Sample], task: Task, root: Path | None
) -> dict[str, Any]:
    if task not in dataset.domain.tasks_of(take):
        return {}
    recorded = dataset.take(take)
    folder = root or recorded.root
    labels = load_labels(folder, [take], task, dataset.domain)[take.name]
    known = {timepoint.frame_id for timepoint in recorded.timepoints}
    if unknown := sorted(set(labels) - known):
        path = label_file(folder, take, task, dataset.domain)
        raise UserError(
            f"{path}: has a label for {unknown[0]}, which is no timepoint of the take ({len(unknown)} in all)"
        )
    for sample in samples:
        _read_label(task, sample, labels)
    return labels


def _short_name(sample: Sample, domain: Domain) -> str:
    """The take name as label files have it."""
    return domain.find_take(sample.take_name).name


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _read_label(task: Task, sample: Sample, labels: Mapping[str, Any]) -> str | None:
    """The class of a timepoint, see `label_class`."""
    if sample.frame_id not in labels:
        raise UserError(f"sample {sample.sample_id} needs a {task.name} label as in MM-OR; found none")
    try:
        return label_class(task, labels[sample.frame_id])
    except UserError as error:
        raise UserError(f"sample {sample.sample_id} {error}") from error


def _read_answer(task: Task, text: str, keep_end_token: bool) -> str:
    """The class that a generated text names."""
    if not keep_end_token:
        text = text.strip().removesuffix(_END)
    if task.kind != "class":
        text = text.partition(":")[0]  # what follows is the time until the action, or the relations that are breaches
    answer = text.lower().strip()
    return task.synonyms.get(answer, answer)
