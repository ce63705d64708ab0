"""Training samples of the downstream tasks (data specification, section 10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from operating_room.domain.takes import MMOR, find_take
from operating_room.errors import UserError
from operating_room.graphs.memory import DOWNSTREAM_STYLES, DROP_PROBABILITY, changes_before, unswapped
from operating_room.graphs.prompts import downstream_prompt
from operating_room.graphs.scene_graph import Sample, Triplet, parse, target_text
from operating_room.scores.downstream import CLASSES, tasks_of
from scene_graph_generation.samples.records import Record, change_logs, draw_memory, drop_ending, turns

TASKS = tuple(CLASSES)
BREACHLESS_PROBABILITY = 0.01  # of asking for a sterility breach where there is none
_BREACH = "sterility_breach"
_NO_ACTION, _NO_BREACH = "none", "No"


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
    return unswapped(triplets) if published else parse(target_text(triplets))


def downstream_records(
    samples: Sequence[Sample],
    labels: Mapping[str, Mapping[str, Any]],
    generator: Random,
    per_timepoint: int = 10,
    augment_memory: bool = True,
    drop_history: float = DROP_PROBABILITY,
    published_memory: bool = False,
) -> Iterator[Record]:
    """Questions for next action, robot phase and sterility breach in the published mixture (section 10).

    Args:
        samples: of whole takes of MM-OR; the others are left out, and those of takes without labels. A task that a take
            has no labels for (`tasks_of`) is not asked of it.
        labels: of `operating_room.scores.downstream.read_labels`.
        generator: source of all draws.
        per_timepoint: records for each sample.
        augment_memory: style of the memory drawn at random and entries dropped, else all of it.
        drop_history: of a memory entry, if augmented.
        published_memory: see `remembered`.

    Raises:
        UserError: labels lack a timepoint or have another form.
    """
    samples = [
        s for s in samples if find_take(s.take_name).dataset == MMOR and find_take(s.take_name).name in labels[TASKS[0]]
    ]
    logs = change_logs(samples, lambda triplets: remembered(triplets, published_memory))
    for sample in samples:
        answers = _answers(labels, sample)
        history = changes_before(logs[sample.take_name], sample.position)
        for _ in range(per_timepoint):
            task = _draw_task(tuple(answers), answers[_BREACH] != _NO_BREACH, generator)
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


def _answers(labels: Mapping[str, Mapping[str, Any]], sample: Sample) -> dict[str, str]:
    """Task -> the text that stands for the label of this sample.

    Raises:
        UserError: a label is missing or of another form.
    """
    take = find_take(sample.take_name)
    try:
        return {task: _told(task, labels[task][take.name][sample.frame_id]) for task in tasks_of(take)}
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{sample.sample_id}: downstream labels are missing or damaged for this timepoint ({error}); "
            "copy the three take_timestamp_to_* folders again"
        ) from error


def _told(task: str, label: Any) -> str:
    """A stored label as an answer."""
    if task == "next_action":  # an empty list is met in the data and scored as none (section 11, fix 6)
        return f"{label[0]}: {label[1]}" if label else _NO_ACTION
    if task == _BREACH:
        return f"Yes: {'; '.join(' '.join(breach) for breach in label)}" if label else _NO_BREACH
    if not isinstance(label, str):
        raise TypeError(f"robot phase {label}")
    return label


def _draw_task(tasks: Sequence[str], has_breach: bool, generator: Random) -> str:
    """Any of the tasks; a breach is seldom asked for where there is none."""
    task = generator.choice(tasks)
    if task == _BREACH and not has_breach and generator.random() >= BREACHLESS_PROBABILITY:
        task = generator.choice([other for other in tasks if other != _BREACH])
    return task
