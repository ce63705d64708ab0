"""Training samples as the published training files hold them: one JSON record per timepoint and relation order.

Data specification, sections 4 (scene graphs) and 5 (memory); stage-2 specification, section 6 (what is left out at
random during training). Samples of the downstream tasks are in `downstream_samples.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

from operating_room.errors import UserError
from operating_room.graphs.memory import (
    DROP_PROBABILITY,
    SCENE_GRAPH_STYLES,
    Change,
    changes_before,
)
from operating_room.graphs.prompts import drop_blocks
from operating_room.graphs.scene_graph import Sample, Triplet, as_said, target_text
from operating_room.graphs.similarity import SimilarSamples
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import TABLE
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import true_graph
from operating_room.work.repeats import repeat_factors
from scene_graph_generation.inputs.evidence import EGO_KEY, ego_pictures
from scene_graph_generation.inputs.modalities import MODALITIES
from scene_graph_generation.samples.sample_memory import OwnAnswers, change_logs, draw_memory, drop_ending
from scene_graph_generation.samples.sample_modalities import (
    PUBLISHED,
    mix_modalities,
    select_modalities,
    shown_modalities,
)

Record = dict[str, Any]


@runtime_checkable
class Records(Protocol):
    """Training records in their order: a list, or files that are read record by record when one is asked for.

    Not `Sequence[Record]`: who checks types at run time looks at an element of a sequence, and would read a file.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...

    def __iter__(self) -> Iterator[Record]: ...


MAX_VIEWS = 7
ROOM_VIEWS = 2, 5  # so many at least and at most with two branches
# With one file in a record; those that no model reads come last, as published.
_ONE_FILE = sorted(
    (row for row in TABLE if row.record and not row.several and row.input != "views"), key=lambda row: row.input is None
)
LeftOut = dict[str, list[str]]  # take name -> one line for each of its timepoints that cannot be used


@dataclass(frozen=True)
class SampleOptions:
    """How training samples are made; the defaults are the published settings of the first (not temporal) training."""

    permutations: int = 20  # records per timepoint, each with its own random order of relations
    temporal: bool = False  # with memory
    augment_memory: bool = True  # style of the memory drawn at random and entries dropped, else all of it
    drop_history: float = DROP_PROBABILITY  # of a memory entry, if augmented
    mixed: bool = False  # modalities swapped with those of similar samples
    # Masks too, which the published dataset class has switched off though it names them (section 11, fix 2).
    modalities: tuple[str, ...] = PUBLISHED
    own_answers: float = 0.0  # share of memories that hold a model's own answers, see `OwnAnswers`
    # Share of memories that end at an earlier moment, drawn from those before: a model that has not noticed what began
    # has such a memory, and one that was never shown any goes on saying what it remembers.
    stale_memory: float = 0.0
    # A timepoint with a triplet that is in less than this share of the timepoints has more records, the square root
    # of the ratio times as many on average (`repeat_factors`). Whole triplets count: a breach of sterility is a
    # frequent predicate between two that hardly ever meet.
    repeat_rare: float = 0.0

    def file_name(self, split: str) -> str:
        """The name of the training file, as published."""
        memory = f"{self.temporal}temp_{self.augment_memory}tempaug"
        endings = drop_ending(self.drop_history) + ("_MIXED" if self.mixed else "")
        ours = {"own": self.own_answers, "stale": self.stale_memory, "rare": self.repeat_rare}
        endings += "".join(f"_{name}{share}" for name, share in ours.items() if share)
        return f"{split}_{self.permutations}perm_{memory}_{'_'.join(self.modalities)}{endings}.json"


def training_records(
    dataset: Dataset,
    samples: Sequence[Sample],
    options: SampleOptions,
    generator: Random,
    left_out: LeftOut | None = None,
    own: OwnAnswers | None = None,
    shown: set[str] | None = None,
) -> Iterator[Record]:
    """The records of all samples that have any modality, in the order of the samples (training files are shuffled).

    Args:
        dataset: where the samples' timepoints are; paths in the records are relative to its root.
        samples: of whole takes: memory knows those timepoints that are among the samples.
        options: see there.
        generator: source of all draws.
        left_out: gets what is wrong with samples that cannot be used; None: the first such sample is an error.
        own: what a model answered for some of these takes: a share of their memories holds that instead of the truth.
        shown: gets the names of what there is of the timepoints, see `never_shown`.

    Raises:
        UserError: a take or timepoint is not on disk, one of its files is damaged, or answers are of other takes.
    """
    there = list(on_disk(dataset, samples, left_out))
    samples, timepoints = [sample for sample, _ in there], [timepoint for _, timepoint in there]
    language = dataset.domain.language
    logs = change_logs(samples, as_said, language) if options.temporal else {}
    answered = {} if own is None else change_logs(own.samples(samples), as_said, language)
    similar = SimilarSamples(samples, dataset.domain) if options.mixed else None
    collections = {name: dataset.domain.find_take(name).dataset for name in {sample.take_name for sample in samples}}
    told = [{(collections[sample.take_name], triplet) for triplet in sample.triplets} for sample in samples]
    repeats = repeat_factors(told, options.repeat_rare)
    drawing = generator if options.augment_memory else None
    known: dict[Path, Any] = {}

    def find(index: int) -> Timepoint:
        return select_modalities(dataset, timepoints[index], options.modalities)

    def make(timepoint: Timepoint, others: Sequence[Timepoint], sample: Sample, history: Sequence[Change]) -> Record:
        triplets = list(sample.triplets)
        generator.shuffle(triplets)
        memory = None
        if own is not None and sample.take_name in answered and generator.random() < own.share:
            history = changes_before(answered[sample.take_name], sample.position)
        if options.stale_memory and generator.random() < options.stale_memory:
            history = changes_before(history, generator.randint(0, sample.position))
        if options.temporal:
            memory = draw_memory(history, SCENE_GRAPH_STYLES, options.drop_history, drawing)
        evidence = mix_modalities(timepoint, others, generator) if others else timepoint
        return training_record(sample.sample_id, evidence, triplets, memory, dataset.root, known)

    for index, sample in enumerate(samples):
        drawn = similar.draw(index, generator) if similar else []
        history = changes_before(logs[sample.take_name], sample.position) if options.temporal else []
        try:
            timepoint, others = find(index), [find(other) for other in drawn]
            if not (has := shown_modalities(timepoint)):
                continue
            if shown is not None:
                shown |= has
            count = options.permutations
            if options.repeat_rare:
                count = int(count * repeats[index] + generator.random())
            records = [make(timepoint, others, sample, history) for _ in range(count)]
        except UserError as error:
            _leave_out(sample, error, left_out)
            continue
        yield from records
        if not options.mixed:
            known.clear()  # nobody else asks for the files of this timepoint


def training_record(
    sample_id: str,
    timepoint: Timepoint,
    triplets: Iterable[Triplet],
    memory: str | None,
    root: Path,
    known: dict[Path, Any] | None = None,
) -> Record:
    """One record: question and answer, and the paths of the modalities that exist, relative to `root`.

    `known` keeps what has been read, for those who make many records.
    """
    files: dict[str, Path | list[Path] | None] = {
        "image": timepoint.collection.training_pictures(timepoint.views),
        "segmasks": [path for _, path in sorted(timepoint.several("masks").items())],
        **{row.record: timepoint.one(row.name) for row in _ONE_FILE if row.record is not None},
    }
    ego = ego_pictures(timepoint)
    return {
        "id": sample_id,
        "timepoint": int(timepoint.frame_id),
        "vis_knowledge_paths": None,
        "conversations": turns(timepoint_prompt(timepoint, memory, known), target_text(triplets)),
        **{key: _relative(value, root) for key, value in files.items() if value},
        **({EGO_KEY: {str(n): _relative(path, root) for n, path in ego.items()}} if ego else {}),
    }


def describe(left_out: LeftOut, samples: Sequence[Sample]) -> list[str]:
    """One line for each take with timepoints that cannot be used."""
    total = Counter(sample.take_name for sample in samples)
    return [
        f"{take_name}: {len(lines)} of {total[take_name]} labelled timepoints are left out; the first: {lines[0]}"
        for take_name, lines in left_out.items()
    ]


def pictures_of(record: Record) -> list[str]:
    """The pictures that a record names; published files also write null, and one name alone."""
    value = record.get("image") or []
    return [value] if isinstance(value, str) else list(value)


def augment_record(
    record: Record,
    generator: Random,
    drop_probability: float = 0.5,
    two_branches: bool = False,
    most_views: int = MAX_VIEWS,
) -> Record:
    """A record as one access of the training sees it: few pictures in random order, modalities left out at random.

    The first picture of the result provides the visual tokens. Memory is never left out here. For a model of two
    branches all pictures of glasses stay, in their order, with a few of the room (EgoExOR, arXiv 2505.24287); one of
    one branch has places for `most_views`, each of which is to be learnt.
    """
    augmented = dict(record)
    ego = list((record.get(EGO_KEY) or {}).values()) if two_branches else []
    if pictures := [name for name in pictures_of(record) if name not in ego]:
        generator.shuffle(pictures)
        fewest, most = ROOM_VIEWS if two_branches else (1, most_views)
        pictures = pictures[: generator.randint(min(fewest, len(pictures)), min(most, len(pictures)))]
    if ego or pictures:
        augmented["image"] = [*ego, *pictures]
    question, answer = (turn["value"] for turn in record["conversations"])
    augmented["conversations"] = turns(drop_blocks(question, drop_probability, generator), answer)
    for row in MODALITIES:
        if row.key in record and generator.random() <= drop_probability:
            del augmented[row.key]
    return augmented


def on_disk(
    dataset: Dataset, samples: Iterable[Sample], left_out: LeftOut | None
) -> Iterator[tuple[Sample, Timepoint]]:
    """The samples whose timepoints are on disk, with these; names that nobody could score are learnt from no more."""
    for sample in samples:
        try:
            _ = sample.position, true_graph(sample, dataset.domain.language)
            timepoint = dataset.take(dataset.domain.find_take(sample.take_name)).timepoint(sample.frame_id)
        except UserError as error:
            _leave_out(sample, error, left_out)
        else:
            yield sample, timepoint


def _leave_out(sample: Sample, error: UserError, left_out: LeftOut | None) -> None:
    if left_out is None:
        raise error
    left_out.setdefault(sample.take_name, []).append(str(error))


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """A conversation as training files hold it."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _relative(value: Path | list[Path], root: Path) -> str | list[str]:
    start = f"{root.as_posix().rstrip('/')}/"
    if isinstance(value, Path):
        return value.as_posix().removeprefix(start)
    return [path.as_posix().removeprefix(start) for path in value]
