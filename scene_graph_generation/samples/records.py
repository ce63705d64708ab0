"""Training samples as the published training files hold them: one JSON record per timepoint and relation order.

Data specification, sections 4 (scene graphs) and 5 (memory); stage-2 specification, section 6 (what is left out at
random during training). Samples of the downstream tasks are in `downstream_samples.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol, runtime_checkable

from operating_room.domain.domain import Domain
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.memory import (
    DROP_PROBABILITY,
    SCENE_GRAPH_STYLES,
    Change,
    Memory,
    changes_before,
    draw_style,
    memory_text,
)
from operating_room.graphs.prompts import drop_blocks
from operating_room.graphs.scene_graph import Sample, Triplet, as_said, split_sample_id, target_text
from operating_room.graphs.similarity import SimilarSamples
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import BY_NAME, TABLE, modalities_of
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import true_graph
from operating_room.work.repeats import repeat_factors
from scene_graph_generation.inputs.evidence import EGO_KEY, ego_pictures
from scene_graph_generation.inputs.modalities import MODALITIES as MODEL_MODALITIES

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
# By their names in the names of training files, what they are in a `Timepoint`.
MODALITIES = {
    name: tuple(row.name for row in TABLE if row.training == name)
    for name in dict.fromkeys(row.training for row in TABLE if row.training)
}
PUBLISHED = tuple(name for name, rows in MODALITIES.items() if BY_NAME[rows[0]].published)
_MIXED = [name for _, name in sorted((row.mixed, row.name) for row in TABLE if row.mixed is not None)]
# With one file in a record; those that no model reads come last, as published.
_ONE_FILE = sorted(
    (row for row in TABLE if row.record and not row.several and row.input != "views"), key=lambda row: row.input is None
)
_OPTIONAL = [row for row in TABLE if row.of_take is not None and row.optional]  # read when they are asked for
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


@dataclass(frozen=True)
class OwnAnswers:
    """What a model answered for takes that it will be trained on, with the memory of its own answers."""

    graphs: Mapping[str, Sequence[Triplet]]  # by sample id, as `graph_files.load_predictions` reads them
    share: float  # of the records of these takes whose memory holds these answers

    def samples(self, truth: Sequence[Sample]) -> list[Sample]:
        """The answers of the takes that there are some of, as graphs in place of the true ones.

        Args:
            truth: all labelled timepoints that are trained on.

        Raises:
            UserError: some are of other takes, or a take has some and not all.
        """
        known = {sample.take_name for sample in truth}
        takes = {split_sample_id(key)[0] for key in self.graphs}
        if others := sorted(takes - known):
            raise UserError(
                f"the answers are of takes that are not trained on: {', '.join(others[:5])}"
                f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}; infer those of the split"
            )
        found = [sample for sample in truth if sample.take_name in takes]
        if missing := [sample for sample in found if sample.sample_id not in self.graphs]:
            raise UserError(
                f"the answers lack {len(missing)} of {len(found)} timepoints of their takes, the first is "
                f"{missing[0].sample_id}; infer whole takes, without --limit"
            )
        return [replace(sample, triplets=tuple(self.graphs[sample.sample_id])) for sample in found]


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
    samples = [sample for sample, _ in on_disk(dataset, samples, left_out)]
    language = dataset.domain.language
    logs = change_logs(samples, as_said, language) if options.temporal else {}
    answered = {} if own is None else change_logs(own.samples(samples), as_said, language)
    similar = SimilarSamples(samples, dataset.domain) if options.mixed else None
    collections = {name: dataset.domain.find_take(name).dataset for name in {sample.take_name for sample in samples}}
    told = [{(collections[sample.take_name], triplet) for triplet in sample.triplets} for sample in samples]
    repeats = repeat_factors(told, options.repeat_rare)
    drawing = generator if options.augment_memory else None
    known: dict[Path, Any] = {}

    def find(sample: Sample) -> Timepoint:
        return _select(dataset, _timepoint(dataset, sample), options.modalities)

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
            timepoint, others = find(sample), [find(samples[other]) for other in drawn]
            if not (there := _evidence(timepoint)):
                continue
            if shown is not None:
                shown |= there
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


def choose_modalities(names: str | None, domain: Domain) -> tuple[str, ...]:
    """The modalities of a list like `AZURE,PC`, in the order of file names.

    None means all that takes of the domain can have, without what most of them lack; of MM-OR the published ones.

    Raises:
        UserError: takes of the domain have no such modality.
    """
    rows = [row for c in domain.collections for row in modalities_of(domain, c)]
    possible = [name for name in MODALITIES if name in {row.training for row in rows}]
    usual = [name for name in possible if name in {row.training for row in rows if not row.optional}]
    wanted = usual if names is None else [name.strip().upper() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in possible]:
        told = f"modality {unknown[0]!r} does not exist in domain {domain.name}"
        raise UserError(f"{told}; choose from {','.join(possible)}")
    return tuple(name for name in MODALITIES if name in wanted)


def describe(left_out: LeftOut, samples: Sequence[Sample]) -> list[str]:
    """One line for each take with timepoints that cannot be used."""
    total = Counter(sample.take_name for sample in samples)
    return [
        f"{take_name}: {len(lines)} of {total[take_name]} labelled timepoints are left out; the first: {lines[0]}"
        for take_name, lines in left_out.items()
    ]


def never_shown(
    dataset: Dataset, samples: Iterable[Sample], modalities: Sequence[str], shown: Collection[str]
) -> list[str]:
    """A line for each of these modalities that no record has, of those that a step makes or that were asked for.

    Optional ones are among `modalities` only if somebody has named them.
    """
    domain = dataset.domain
    datasets = {domain.find_take(name).dataset for name in {sample.take_name for sample in samples}}
    rows = {row.name: (row, c) for c in domain.collections if c.name in datasets for row in modalities_of(domain, c)}
    return [
        f"no record has {row.training}; {row.advice(dataset.root, collection)}"
        for row, collection in rows.values()
        if row.training in modalities and row.input is not None and row.name not in shown
        if row.made_by or row.optional
    ]


def mix_modalities(timepoint: Timepoint, similar: Sequence[Timepoint], generator: Random) -> Timepoint:
    """The timepoint with audio, robot screen, tracker and speech of similar timepoints (section 4.4).

    One similar timepoint is drawn for each of these that the timepoint has; if that one lacks it, the own one stays.
    """
    for name in _MIXED:
        if timepoint.has(name):
            timepoint = timepoint.taking(name, generator.choice(similar))
    return timepoint


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
    for row in MODEL_MODALITIES:
        if row.key in record and generator.random() <= drop_probability:
            del augmented[row.key]
    return augmented


def draw_memory(
    history: Sequence[Change], styles: Sequence[tuple[float, str | None]], drop_history: float, generator: Random | None
) -> str | None:
    """Memory of a style drawn from `styles`, with entries dropped; all of it without a generator."""
    if generator is None:
        return memory_text(history)
    style = draw_style(styles, generator)
    if style is None:
        return None
    return memory_text(history, style, drop_history, generator if drop_history else None)


def change_logs(
    samples: Iterable[Sample],
    remembered: Callable[[tuple[Triplet, ...]], Iterable[Triplet]],
    language: Language,
) -> dict[str, list[Change]]:
    """The change log of each take, its timepoints in order.

    Args:
        samples: graphs.
        remembered: turns a graph into what memory holds of it.
        language: that they are in; it says what memory leaves out.
    """
    memories: dict[str, Memory] = {}
    for sample in sorted(samples, key=lambda sample: sample.position):
        memories.setdefault(sample.take_name, Memory.of(language)).add(remembered(sample.triplets), sample.position)
    return {take_name: memory.log for take_name, memory in memories.items()}


def _timepoint(dataset: Dataset, sample: Sample) -> Timepoint:
    return dataset.take(dataset.domain.find_take(sample.take_name)).timepoint(sample.frame_id)


def on_disk(
    dataset: Dataset, samples: Iterable[Sample], left_out: LeftOut | None
) -> Iterator[tuple[Sample, Timepoint]]:
    """The samples whose timepoints are on disk, with these; names that nobody could score are learnt from no more."""
    for sample in samples:
        try:
            _ = sample.position, true_graph(sample, dataset.domain.language)
            timepoint = _timepoint(dataset, sample)
        except UserError as error:
            _leave_out(sample, error, left_out)
        else:
            yield sample, timepoint


def _leave_out(sample: Sample, error: UserError, left_out: LeftOut | None) -> None:
    if left_out is None:
        raise error
    left_out.setdefault(sample.take_name, []).append(str(error))


def _select(dataset: Dataset, timepoint: Timepoint, modalities: Sequence[str]) -> Timepoint:
    """The timepoint with these modalities only."""
    for row in _OPTIONAL:
        if row.training in modalities:
            timepoint = dataset.take(timepoint.take).with_element(timepoint, row.name)
    return timepoint.without(
        [name for modality, names in MODALITIES.items() if modality not in modalities for name in names]
    )


def _evidence(timepoint: Timepoint) -> set[str]:
    """What there is to answer from but the question."""
    return {name for names in MODALITIES.values() for name in names if timepoint.has(name)}


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """A conversation as training files hold it."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _relative(value: Path | list[Path], root: Path) -> str | list[str]:
    start = f"{root.as_posix().rstrip('/')}/"
    if isinstance(value, Path):
        return value.as_posix().removeprefix(start)
    return [path.as_posix().removeprefix(start) for path in value]


def drop_ending(drop_history: float) -> str:
    """What file names say about dropped memory entries."""
    return f"_drophistory{drop_history}" if drop_history else ""
