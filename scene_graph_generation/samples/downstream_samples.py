"""Training samples of the downstream tasks (data specification, section 10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from operating_room.domain.domain import Domain, Task
from operating_room.domain.language import NONE
from operating_room.errors import UserError
from operating_room.graphs.memory import DOWNSTREAM_STYLES, DROP_PROBABILITY, changes_before, unswapped
from operating_room.graphs.prompts import downstream_prompt
from operating_room.graphs.scene_graph import Sample, Triplet, as_said, by_take
from operating_room.scores.scoring import true_graph
from scene_graph_generation.samples.records import Record, turns
from scene_graph_generation.samples.sample_memory import change_logs, draw_memory, drop_ending

BREACHLESS_PROBABILITY = 0.01  # of asking for a sterility breach where there is none


def downstream_file_name(
    split: str,
    augment_memory: bool = True,
    drop_history: float = DROP_PROBABILITY,
    published_memory: bool = False,
) -> str:
    """The name of the training file, as published; of ours, with the corrected memory, a name of its own."""
    ending = drop_ending(drop_history) + ("" if published_memory else "_correctedmemory")
    return f"downstream_task_{split}_{augment_memory}tempaug{ending}.json"


def remembered(triplets: Sequence[Triplet], published: bool) -> list[Triplet]:
    """What the memory of the downstream tasks holds of a graph.

    Corrected: as in the scene-graph stage, names spelled as in the current graph. Published: object and predicate in
    each other's place (section 11, mirror 4).
    """
    return unswapped(triplets) if published else as_said(triplets)


def downstream_records(
    samples: Sequence[Sample],
    labels: Mapping[str, Mapping[str, Any]],
    domain: Domain,
    generator: Random,
    per_timepoint: int = 10,
    augment_memory: bool = True,
    drop_history: float = DROP_PROBABILITY,
    published_memory: bool = False,
    left_out: list[str] | None = None,
) -> Iterator[Record]:
    """Questions for the downstream tasks in the published mixture (section 10).

    Args:
        samples: of whole takes; those without tasks or without labels are left out. A task that a take has no labels
            for (`Domain.tasks_of`) is not asked of it.
        labels: of `operating_room.scores.downstream.read_labels`.
        domain: whose takes and tasks these are.
        generator: source of all draws.
        per_timepoint: records for each sample.
        augment_memory: style of the memory drawn at random and entries dropped, else all of it.
        drop_history: of a memory entry, if augmented.
        published_memory: see `remembered`.
        left_out: gets a line for each take with a graph of names that the domain has not; None: that is an error.

    Raises:
        UserError: labels lack a timepoint or have another form, or a graph has names that the domain has not.
    """
    wrong: dict[str, str] = {}
    for sample in samples:
        try:
            true_graph(sample, domain.language)
        except UserError as error:
            if left_out is None:
                raise
            wrong.setdefault(sample.take_name, f"{sample.take_name} is left out: {error}")
    if left_out is not None:
        left_out += wrong.values()
    labelled = {
        name
        for name in by_take(samples)
        if name not in wrong
        and domain.tasks_of(take := domain.find_take(name))
        and take.name in labels[domain.tasks[0].name]
    }
    samples = [sample for sample in samples if sample.take_name in labelled]
    logs = change_logs(samples, lambda triplets: remembered(triplets, published_memory), domain.language)
    for sample in samples:
        answers = _answers(labels, sample, domain)
        history = changes_before(logs[sample.take_name], sample.position)
        for _ in range(per_timepoint):
            task = _draw_task(answers, generator)
            memory = draw_memory(history, DOWNSTREAM_STYLES, drop_history, generator if augment_memory else None)
            yield {
                "id": sample.sample_id,
                "timepoint": sample.position,
                "conversations": turns(downstream_prompt(memory, sample.triplets, task), answers[task]),
            }


def graph_records(samples: Iterable[Sample]) -> list[Record]:
    """The list form of scene graphs that the downstream evaluation reads (`all_scene_graphs_{split}_GT.json`)."""
    return [
        {
            "take_name": sample.take_name,
            "frame_id": sample.frame_id,
            "sample_id": sample.sample_id,
            "timepoint_idx": sample.position,
            "scene_graph": [list(triplet) for triplet in sample.triplets],
        }
        for sample in samples
    ]


def _answers(labels: Mapping[str, Mapping[str, Any]], sample: Sample, domain: Domain) -> dict[Task, str]:
    """Task -> the text that stands for the label of this sample.

    Raises:
        UserError: a label is missing or of another form.
    """
    take = domain.find_take(sample.take_name)
    try:
        return {task: _told(task, labels[task.name][take.name][sample.frame_id]) for task in domain.tasks_of(take)}
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{sample.sample_id}: downstream labels are missing or damaged for this timepoint ({error}); "
            "copy the folders of the labels again"
        ) from error


def _told(task: Task, label: Any) -> str:
    """A stored label as an answer."""
    if task.kind == "class_with_time":  # an empty list is met in the data and scored as none (section 11, fix 6)
        return f"{label[0]}: {label[1]}" if label else NONE
    if task.kind == "sterility":
        broken = "; ".join(" ".join(breach) for breach in label)
        return f"{task.classes[1].capitalize()}: {broken}" if label else task.classes[0].capitalize()
    if not isinstance(label, str):
        raise TypeError(f"{task.words} {label}")
    return label


def _draw_task(answers: Mapping[Task, str], generator: Random) -> Task:
    """Any of the tasks; a breach is seldom asked for where there is none."""
    tasks = {task.name: task for task in answers}
    task = tasks[generator.choice(list(tasks))]
    breachless = task.kind == "sterility" and answers[task] == task.classes[0].capitalize()
    others = [name for name, other in tasks.items() if other.kind != "sterility"]
    if breachless and generator.random() >= BREACHLESS_PROBABILITY and others:
        task = tasks[generator.choice(others)]
    return task
