"""Training samples as the published training files hold them: one JSON record per timepoint and relation order.

Data specification, sections 4 (scene graphs), 5 (memory) and 10 (downstream tasks); stage-2 specification, section 6
(what is left out at random during training).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from operating_room.dataset import Dataset, Timepoint
from operating_room.downstream import CLASSES, load_labels
from operating_room.errors import UserError
from operating_room.memory import (
    DOWNSTREAM_STYLES,
    DROP_PROBABILITY,
    SCENE_GRAPH_STYLES,
    Change,
    Memory,
    changes_before,
    draw_style,
    memory_text,
    unswapped,
)
from operating_room.prompts import downstream_prompt, drop_blocks, timepoint_prompt, training_pictures
from operating_room.scene_graph import Sample, Triplet, parse, target_text
from operating_room.similarity import SimilarSamples
from operating_room.takes import MMOR, find_take

Record = dict[str, Any]

TASKS = tuple(CLASSES)
MAX_VIEWS = 7
BREACHLESS_PROBABILITY = 0.01  # of asking for a sterility breach where there is none
MIXED = ("audio_embedding", "robot_screen", "tracker", "transcript")  # modalities of a timepoint that may be swapped
_NO_ACTION, _NO_BREACH = "none", "No"
_MODALITIES = "AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_PREDSEGMASKS"


@dataclass(frozen=True)
class SampleOptions:
    """How training samples are made; the defaults are the published settings of the first (not temporal) training."""

    permutations: int = 20  # records per timepoint, each with its own random order of relations
    temporal: bool = False  # with memory
    augment_memory: bool = True  # style of the memory drawn at random and entries dropped, else all of it
    drop_history: float = DROP_PROBABILITY  # of a memory entry, if augmented
    mixed: bool = False  # modalities swapped with those of similar samples
    masks: bool = True  # the published dataset class has them switched off (section 11, fix 2)

    def file_name(self, split: str) -> str:
        """The name of the training file, as published."""
        memory = f"{self.temporal}temp_{self.augment_memory}tempaug"
        endings = _drop_ending(self.drop_history) + ("_MIXED" if self.mixed else "")
        return f"{split}_{self.permutations}perm_{memory}_{_MODALITIES}{endings}.json"


def training_records(
    dataset: Dataset, samples: Sequence[Sample], options: SampleOptions, generator: Random
) -> Iterator[Record]:
    """The records of all samples that have any modality, in the order of the samples (training files are shuffled).

    Args:
        dataset: where the samples' timepoints are; paths in the records are relative to its root.
        samples: of whole takes: memory knows those timepoints that are among the samples.
        options: see there.
        generator: source of all draws.

    Raises:
        UserError: a take or timepoint is not on disk, or one of its files is damaged.
    """
    logs = _change_logs(samples, lambda triplets: parse(target_text(triplets))) if options.temporal else {}
    similar = SimilarSamples(samples) if options.mixed else None
    drawing = generator if options.augment_memory else None
    for index, sample in enumerate(samples):
        timepoint = _timepoint(dataset, sample)
        others = [_timepoint(dataset, samples[other]) for other in similar.draw(index, generator)] if similar else []
        if not _has_evidence(timepoint, options.masks):
            continue
        history = changes_before(logs[sample.take_name], _second(sample)) if options.temporal else []
        for _ in range(options.permutations):
            triplets = list(sample.triplets)
            generator.shuffle(triplets)
            memory = None
            if options.temporal:
                memory = _draw_memory(history, SCENE_GRAPH_STYLES, options.drop_history, drawing)
            evidence = mix_modalities(timepoint, others, generator) if others else timepoint
            yield training_record(sample.sample_id, evidence, triplets, memory, dataset.root, options.masks)


def training_record(
    sample_id: str,
    timepoint: Timepoint,
    triplets: Iterable[Triplet],
    memory: str | None,
    root: Path,
    masks: bool = True,
) -> Record:
    """One record: question and answer, and the paths of the modalities that exist, relative to `root`."""
    files: dict[str, Path | list[Path] | None] = {
        "image": training_pictures(timepoint),
        "segmasks": [timepoint.masks[number] for number in sorted(timepoint.masks)] if masks else [],
        "pc": timepoint.point_cloud,
        "audio": timepoint.audio_embedding,
        "raw_audio": timepoint.audio,
    }
    return {
        "id": sample_id,
        "timepoint": int(timepoint.frame_id),
        "vis_knowledge_paths": None,
        "conversations": _turns(timepoint_prompt(timepoint, memory), target_text(triplets)),
        **{key: _relative(value, root) for key, value in files.items() if value},
    }


def mix_modalities(timepoint: Timepoint, similar: Sequence[Timepoint], generator: Random) -> Timepoint:
    """The timepoint with audio, robot screen, tracker and speech of similar timepoints (section 4.4).

    One similar timepoint is drawn for each of these that the timepoint has; if that one lacks it, the own one stays.
    """
    for name in MIXED:
        if getattr(timepoint, name) is not None:
            other = getattr(generator.choice(similar), name)
            timepoint = timepoint if other is None else replace(timepoint, **{name: other})
    return timepoint


def augment_record(record: Record, generator: Random, drop_probability: float = 0.5) -> Record:
    """A record as one access of the training sees it: few pictures in random order, modalities left out at random.

    The first picture of the result provides the visual tokens. Memory is never left out here.
    """
    augmented = dict(record)
    if pictures := list(record.get("image", ())):
        generator.shuffle(pictures)
        augmented["image"] = pictures[: generator.randint(1, min(MAX_VIEWS, len(pictures)))]
    question, answer = (turn["value"] for turn in record["conversations"])
    augmented["conversations"] = _turns(drop_blocks(question, drop_probability, generator), answer)
    for key in ("pc", "audio", "segmasks"):
        if key in record and generator.random() <= drop_probability:
            del augmented[key]
    return augmented


def downstream_file_name(split: str, augment_memory: bool = True, drop_history: float = DROP_PROBABILITY) -> str:
    """The name of the downstream training file, as published."""
    return f"downstream_task_{split}_{augment_memory}tempaug{_drop_ending(drop_history)}.json"


def downstream_records(
    dataset: Dataset,
    samples: Sequence[Sample],
    generator: Random,
    per_timepoint: int = 10,
    augment_memory: bool = True,
    drop_history: float = DROP_PROBABILITY,
) -> Iterator[Record]:
    """Questions for next action, robot phase and sterility breach, `per_timepoint` for each MM-OR sample (section 10).

    The memory is the published one, with object and predicate in each other's place (section 11, mirror 4).

    Raises:
        UserError: a take is not on disk, or a label file is missing, damaged, or lacks a timepoint.
    """
    samples = [sample for sample in samples if find_take(sample.take_name).dataset == MMOR]
    logs = _change_logs(samples, unswapped)
    labels = {take_name: _read_labels(dataset, take_name) for take_name in logs}
    for sample in samples:
        answers = _answers(labels[sample.take_name], sample)
        history = changes_before(logs[sample.take_name], _second(sample))
        for _ in range(per_timepoint):
            task = _draw_task(answers[TASKS[-1]] != _NO_BREACH, generator)
            memory = _draw_memory(history, DOWNSTREAM_STYLES, drop_history, generator if augment_memory else None)
            yield {
                "id": sample.sample_id,
                "timepoint": _second(sample),
                "conversations": _turns(downstream_prompt(memory, sample.triplets, task), answers[task]),
            }


def graph_records(samples: Iterable[Sample]) -> list[Record]:
    """The list form of scene graphs that the downstream evaluation reads (`all_scene_graphs_{split}_GT.json`)."""
    return [
        {
            "take_name": sample.take_name,
            "frame_id": sample.frame_id,
            "sample_id": sample.sample_id,
            "timepoint_idx": _second(sample),
            "scene_graph": [list(triplet) for triplet in sample.triplets],
        }
        for sample in samples
    ]


def _read_labels(dataset: Dataset, take_name: str) -> dict[str, dict[str, Any]]:
    """Task -> frame_id -> label of a take."""
    recorded = dataset.take(find_take(take_name))
    return {task: load_labels(recorded.root, [recorded.take], task)[recorded.take.name] for task in TASKS}


def _answers(labels: Mapping[str, Mapping[str, Any]], sample: Sample) -> dict[str, str]:
    """Task -> the text that stands for the label of this sample.

    Raises:
        UserError: a label is missing or of another form.
    """
    try:
        action, phase, breaches = (labels[task][sample.frame_id] for task in TASKS)
        if not isinstance(phase, str):
            raise TypeError(f"robot phase {phase}")
        told = (
            _NO_ACTION if action is None else f"{action[0]}: {action[1]}",
            phase,
            f"Yes: {'; '.join(' '.join(breach) for breach in breaches)}" if breaches else _NO_BREACH,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{sample.sample_id}: downstream labels are missing or damaged for this timepoint ({error}); "
            "copy the three take_timestamp_to_* folders again"
        ) from error
    return dict(zip(TASKS, told))


def _draw_task(has_breach: bool, generator: Random) -> str:
    """Any of the tasks; a breach is seldom asked for where there is none."""
    *others, breach = TASKS
    task = generator.choice(TASKS)
    if task == breach and not has_breach and generator.random() >= BREACHLESS_PROBABILITY:
        task = generator.choice(others)
    return task


def _draw_memory(
    history: Sequence[Change], styles: Sequence[tuple[float, str | None]], drop_history: float, generator: Random | None
) -> str | None:
    """Memory of a style drawn from `styles`, with entries dropped; all of it without a generator."""
    if generator is None:
        return memory_text(history)
    style = draw_style(styles, generator)
    if style is None:
        return None
    return memory_text(history, style, drop_history, generator if drop_history else None)


def _change_logs(
    samples: Iterable[Sample], remembered: Callable[[tuple[Triplet, ...]], Iterable[Triplet]]
) -> dict[str, list[Change]]:
    """The change log of each take, its timepoints in order; `remembered` turns a graph into what memory holds of it."""
    memories: dict[str, Memory] = {}
    for sample in sorted(samples, key=_second):
        memories.setdefault(sample.take_name, Memory()).add(remembered(sample.triplets), _second(sample))
    return {take_name: memory.log for take_name, memory in memories.items()}


def _second(sample: Sample) -> int:
    if not (sample.frame_id.isascii() and sample.frame_id.isdigit()):
        raise UserError(f"{sample.sample_id}: frame_id must be a position in the take's index, like 000017")
    return int(sample.frame_id)


def _timepoint(dataset: Dataset, sample: Sample) -> Timepoint:
    return dataset.take(find_take(sample.take_name)).timepoint(sample.frame_id)


def _has_evidence(timepoint: Timepoint, masks: bool) -> bool:
    """Whether there is anything but the question to answer from."""
    present = (
        *(timepoint.room_views, timepoint.station_views, timepoint.tracker_view, timepoint.point_cloud),
        *(timepoint.audio_embedding, timepoint.audio, timepoint.transcript, timepoint.robot_screen),
        *(timepoint.tracker, masks and timepoint.masks),
    )
    return any(present)


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _relative(value: Path | list[Path], root: Path) -> str | list[str]:
    if isinstance(value, Path):
        return value.relative_to(root).as_posix()
    return [path.relative_to(root).as_posix() for path in value]


def _drop_ending(drop_history: float) -> str:
    return f"_drophistory{drop_history}" if drop_history else ""
