"""The downstream tasks: next action, robot phase, breaches of sterility. Labels, answers, scores.

Data specification, section 10. Label spaces and evaluation are the published ones; the rules by which the published
labels were made are lost.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.takes import MMOR, Take, find_take
from operating_room.domain.vocabulary import NONE, ROBOT_PHASE_LABELS
from operating_room.errors import UserError
from operating_room.files.readers import again, read_json, require
from operating_room.graphs.scene_graph import Sample, Triplet, by_take, is_relation
from operating_room.recordings import layout
from operating_room.recordings.dataset import Dataset
from operating_room.scores.reports import Report
from operating_room.scores.sterility import SterilityRule, find_breaches

NEXT_ACTIONS = (
    *("bring in", "prepare", "clean", "cut", "drill", "saw", "hammer", "cement", "suture", "scan", "bring out"),
    NONE,
)
ROBOT_PHASES = tuple(label.lower() for label in ROBOT_PHASE_LABELS)
BREACH_ANSWERS = ("no", "yes")
CLASSES = {"next_action": NEXT_ACTIONS, "robot_phase": ROBOT_PHASES, "sterility_breach": BREACH_ANSWERS}
DEFINITIONS = {
    "macro": "unweighted mean over the classes with support",
    "macro avg": "mean over all classes of the task, 0 for those without support; the paper's number",
    "answers": "an answer outside the classes is wrong",
    "labels": "timepoints without label, or with a label outside the classes, are left out",
    "time": "seconds until the next action, as answered behind the colon, against the label's",
    "division": "0/0 is 0",
}

_WITHOUT_PHASES = "004_PKA"  # its robot phases are not evaluated
_END = "</s>"
_TIME = re.compile(r"\d+(?:\.\d+)?")  # in an answer, behind the colon
_LABEL_FILES: dict[str, Callable[[Path, Take], Path]] = {
    "next_action": layout.next_action,
    "robot_phase": layout.robot_phase,
    "sterility_breach": layout.sterility_breach,
}


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
    task: str,
    samples: Iterable[Sample],
    answers: Mapping[str, str],
    labels: Mapping[str, Mapping[str, Any]],
    keep_end_token: bool = False,
) -> DownstreamScores:
    """Compare answers with labels.

    Args:
        task: a key of `CLASSES`.
        samples: the timepoints to score; their graphs are not looked at.
        answers: sample id -> generated text; for breaches of sterility `breach_answers` is what the paper scores.
        labels: take name without suffix -> frame_id -> stored label, from `load_labels`.
        keep_end_token: a trailing `</s>` stays and makes the answer wrong, as published (section 11, fix 7).

    Raises:
        UserError: there is no such task, a sample has no answer or no label entry, or a label has another form.
    """
    judged, unknown_labels = judge(task, samples, answers, labels, keep_end_token)
    classes = _classes(task)
    pairs: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))  # labels and answers of a take
    for sample, label, answer in judged:
        of_take = pairs[_short_name(sample)]
        of_take[0].append(label)
        of_take[1].append(answer)
    takes = {take: Report.from_labels(classes, *of_take) for take, of_take in pairs.items()}
    return DownstreamScores(task, takes, sum(takes.values(), Report.from_labels(classes, [], [])), unknown_labels)


def judge(
    task: str,
    samples: Iterable[Sample],
    answers: Mapping[str, str],
    labels: Mapping[str, Mapping[str, Any]],
    keep_end_token: bool = False,
) -> tuple[list[tuple[Sample, int, int]], list[str]]:
    """The timepoints that count, each with label and answer as indices of classes (-1: an answer that is none of them).

    Also the unknown labels of timepoints that are left out. For the arguments and errors see `score_downstream`.
    """
    classes = _classes(task)
    judged, unknown_labels = [], []
    for sample in samples:
        if task not in tasks_of(find_take(sample.take_name)):
            continue
        label = _read_label(task, sample, labels.get(_short_name(sample), {}))
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
    samples: Iterable[Sample], answers: Mapping[str, str], labels: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | int | None]:
    """How many seconds answers about the next action are off, which the published evaluation does not ask.

    Returns:
        mean and median absolute error in s over the answers with a time, the mean where the action is right, and what
        saying the median label always would give; with the number of timepoints behind each. None where there is none.
    """
    judged, _ = judge("next_action", samples, answers, labels)
    times, errors, right = [], [], []
    for sample, label, answer in judged:
        stored = labels[_short_name(sample)][sample.frame_id]
        if len(stored) < 2 or not isinstance(stored[1], (int, float)):
            continue
        times.append(float(stored[1]))
        said = _TIME.search(answers[sample.sample_id].partition(":")[2])
        if said is not None:
            errors.append(abs(float(said[0]) - times[-1]))
            right += errors[-1:] if label == answer else []
    return {
        "timepoints": len(times),
        "with_time": len(errors),
        "mean_error": _mean(errors),
        "median_error": float(np.median(errors)) if errors else None,
        "with_time_and_right_action": len(right),
        "mean_error_of_right_action": _mean(right),
        "mean_error_of_constant": _mean([abs(time - float(np.median(times))) for time in times]),
    }


def read_labels(
    dataset: Dataset, samples: Sequence[Sample], tasks: Sequence[str], root: Path | None = None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The labels of the MM-OR takes among the samples, for `score_downstream`; a take with bad labels is left out.

    Args:
        dataset: where the takes are.
        samples: the timepoints that need labels.
        tasks: keys of `CLASSES`.
        root: the folder with the three label folders; None is the dataset's own.

    Returns:
        task -> take name without suffix -> frame_id -> label, and one line for each take that is left out.
    """
    labels: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    problems = []
    for name, of_take in by_take(samples).items():
        take = find_take(name)
        if take.dataset != MMOR:
            continue
        try:
            found = {task: _labels_of_take(dataset, take, of_take, task, root) for task in tasks}
        except UserError as error:
            problems.append(f"{name} is left out: {error}")
        else:
            for task in tasks:
                labels[task][take.name] = found[task]
    return labels, problems


def tasks_of(take: Take) -> tuple[str, ...]:
    """The tasks that a take has labels for."""
    return tuple(task for task in CLASSES if not (task == "robot_phase" and take.name == _WITHOUT_PHASES))


def label_class(task: str, stored: Any) -> str | None:
    """The class of a stored label in lower case, None if it has none.

    Raises:
        UserError: it has another form.
    """
    match task, stored:
        case "next_action", None:
            return None
        case "next_action", []:
            return NONE  # crashed the published evaluation (section 11, fix 6)
        case "next_action", [str(action), int() | float() as seconds, *_] if not isinstance(seconds, bool):
            return action
        case "robot_phase", str(phase):
            return phase.lower().strip()
        case "sterility_breach", list(breaches) if all(map(is_relation, breaches)):
            return BREACH_ANSWERS[bool(breaches)]
    raise UserError(f"needs a {task} label as in MM-OR; found {str(stored)[:60]!r}")


def breach_answers(samples: Sequence[Sample], rule: SterilityRule) -> dict[str, str]:
    """`yes` or `no` by sample id, from the graphs of whole takes in order of time."""
    answers = {}
    for of_take in by_take(samples).values():
        breaches = find_breaches((sample.triplets for sample in of_take), rule)
        answers |= {sample.sample_id: BREACH_ANSWERS[bool(broken)] for sample, broken in zip(of_take, breaches)}
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


def label_file(root: Path, take: Take, task: str) -> Path:
    """Where the labels of a take are below a folder that holds the three label folders."""
    return _LABEL_FILES[task](root, take)


def load_labels(root: Path, takes: Iterable[Take], task: str) -> dict[str, dict[str, Any]]:
    """Stored labels of a task: take name without suffix -> frame_id -> label.

    Raises:
        UserError: there is no such task, or a label file is missing, unreadable or no mapping.
    """
    _classes(task)
    labels = {}
    for take in takes:
        path = _LABEL_FILES[task](root, take)
        require(path, "`mmor downstream labels --out DIR`, for `--labels DIR`,")
        labels[take.name] = read_json(path)
        if not isinstance(labels[take.name], dict):
            raise UserError(f"{path}: must map frame ids to labels; {again(path)}")
    return labels


def _labels_of_take(
    dataset: Dataset, take: Take, samples: Sequence[Sample], task: str, root: Path | None
) -> dict[str, Any]:
    if task not in tasks_of(take):
        return {}
    recorded = dataset.take(take)
    folder = root or recorded.root
    labels = load_labels(folder, [take], task)[take.name]
    known = {timepoint.frame_id for timepoint in recorded.timepoints}
    if unknown := sorted(set(labels) - known):
        path = _LABEL_FILES[task](folder, take)
        raise UserError(
            f"{path}: has a label for {unknown[0]}, which is no timepoint of the take ({len(unknown)} in all)"
        )
    for sample in samples:
        _read_label(task, sample, labels)
    return labels


def _short_name(sample: Sample) -> str:
    """The take name as label files have it."""
    return find_take(sample.take_name).name


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _classes(task: str) -> tuple[str, ...]:
    if task not in CLASSES:
        raise UserError(f"downstream task {task!r} does not exist; choose one of {', '.join(CLASSES)}")
    return CLASSES[task]


def _read_label(task: str, sample: Sample, labels: Mapping[str, Any]) -> str | None:
    """The class of a timepoint, see `label_class`."""
    if sample.frame_id not in labels:
        raise UserError(f"sample {sample.sample_id} needs a {task} label as in MM-OR; found none")
    try:
        return label_class(task, labels[sample.frame_id])
    except UserError as error:
        raise UserError(f"sample {sample.sample_id} {error}") from error


def _read_answer(task: str, text: str, keep_end_token: bool) -> str:
    """The class that a generated text names."""
    if not keep_end_token:
        text = text.strip().removesuffix(_END)
    if task != "robot_phase":
        text = text.partition(":")[0]  # what follows is the time until the action, or the relations that are breaches
    answer = text.lower().strip()
    return "scan" if answer == "scan patient" else answer
