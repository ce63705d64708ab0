"""Scene graphs of takes, with the model's own memory or without (stage-2 specification, section 10)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from operating_room.domain.collection import Take
from operating_room.domain.stored import require_same
from operating_room.errors import UserError
from operating_room.files.atomic import require_replaceable
from operating_room.graphs.graph_files import load_predictions, save_predictions
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.prompts import ROBOT_LOG
from operating_room.graphs.scene_graph import Triplet, parse
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.fingerprints import fingerprint
from operating_room.work.processes import ALL, Share, is_first
from operating_room.work.progress import track
from scene_graph_generation.inference.answers import Answer, Answers, is_part, open_answers
from scene_graph_generation.inference.batches import batches
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.seen import Seen, count_seen
from scene_graph_generation.inputs.example import Example

READ_AHEAD = 3  # groups of timepoints, besides the one that is answered
Predictions = dict[str, list[Triplet]]  # sample id -> triplets as generated


def infer(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    out: Path,
    memory: bool = True,
    batch_size: int = 8,
) -> Predictions:
    """Predict takes and write the predictions file; what an interrupted run generated is not generated again.

    Args:
        generator: the model.
        dataset: where the takes are.
        frames: take -> frame ids to predict in the order of time; None is every timepoint of the take.
        out: predictions file, sample id -> list of [subject, predicate, object] as generated. The generated texts stay
            in `answers_path(out)` beside it. What earlier runs of the same model left there stays.
        memory: each prompt has the memory of what was predicted before in its take.
        batch_size: timepoints that are predicted at once; with memory these come from different takes.

    Returns:
        the graphs of `frames`.

    Raises:
        UserError: takes could not be finished (one line for each; the others are in the file), another run is writing
            `out`, or it is a file of something else.
    """
    texts_path = answers_path(out)
    there = load_predictions(out) if out.exists() and out.stat().st_size else {}
    with open_answers(texts_path, about_answers(generator, memory, batch_size)) as answers:
        texts, problems = answer_takes(generator, dataset, frames, answers, memory, batch_size)
        predictions = {sample_id: parse(text) for sample_id, text in texts.items()}
        save_predictions(out, {**_of_earlier_runs(there, out, answers, frames, dataset), **predictions})
    if problems:
        raise UserError("\n".join(problems))
    return predictions


def answer_share(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    out: Path,
    share: Share,
    memory: bool = True,
    batch_size: int = 8,
) -> list[str]:
    """Generate one process's share of the texts that `infer` or `evaluate_model` will find, beside those of `out`.

    With memory takes are dealt, without it runs of batches. Nothing is done by a process that has no others.

    Returns:
        one line for each take that could not be finished.

    Raises:
        UserError: see `infer`.
    """
    if share.is_whole:
        return []
    with open_answers(answers_path(out), about_answers(generator, memory, batch_size), share) as answers:
        _, problems = answer_takes(generator, dataset, frames, answers, memory, batch_size, share)
    return problems


def first_frames(dataset: Dataset, takes: Iterable[Take], limit: int | None = None) -> dict[Take, Sequence[str] | None]:
    """The first timepoints of each take, for `infer`; all of them (None) without limit or where there is no index."""
    return {take: None if limit is None else _frame_ids(dataset, take)[:limit] or None for take in takes}


def about_answers(generator: SceneGraphGenerator, memory: bool, batch_size: int) -> dict[str, Any]:
    """What decides all answers of a file; with published batching those of a batch depend on each other."""
    about = {"model": generator.fingerprint, "memory": memory}
    return {**about, "batch_size": batch_size} if _mixes(generator) else about


def answers_path(out: Path) -> Path:
    """Where the generated texts of a results or predictions file are: `x.jsonl` beside `x.json`, else `x.y.jsonl`.

    Raises:
        UserError: the file would be that of its own texts, or take the place of what is no file.
    """
    path = out.with_name(f"{out.name.removesuffix('.json')}.jsonl")
    if out.suffix == ".jsonl" or is_part(path):
        raise UserError(f"{out}: ends like the file of generated texts beside it; choose a name that ends in .json")
    require_replaceable(out)
    return path


def _of_earlier_runs(
    there: Predictions, out: Path, answers: Answers, frames: Mapping[Take, Sequence[str] | None], dataset: Dataset
) -> Predictions:
    """What is `there` in `out` of other timepoints, as far as it is of the texts beside it; the rest is replaced."""
    asked = {
        f"{take.sample_name}_{frame}"
        for take, wanted in frames.items()
        for frame in (wanted if wanted is not None else _frame_ids(dataset, take))
    }
    others = {key: graph for key, graph in there.items() if key not in asked}
    kept = {
        key: graph for key, graph in others.items() if (text := answers.text(key)) is not None and parse(text) == graph
    }
    if kept:
        print(f"{out}: {len(kept)} scene graphs of earlier runs of this model stay in it", file=sys.stderr)
    if lost := len(others) - len(kept):
        print(f"{out}: {lost} scene graphs that are not of this model are replaced", file=sys.stderr)
    return kept


def _frame_ids(dataset: Dataset, take: Take) -> list[str]:
    try:
        return [timepoint.frame_id for timepoint in dataset.take(take).timepoints]
    except UserError:  # told as the take's problem
        return []


def answer_takes(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    answers: Answers,
    memory: bool = True,
    batch_size: int = 8,
    share: Share = ALL,
) -> tuple[dict[str, str], list[str]]:
    """Generate the texts of all timepoints that `answers` lacks; for the arguments see `infer`, `answer_share`.

    A stored answer holds as long as its question is the same (`SceneGraphGenerator.question`).

    Returns:
        sample id -> text, and one line for each take that could not be finished; all others are. A bad timepoint
        costs itself, with memory also what comes after it in its take.

    Raises:
        UserError: the model is of another domain than the data.
    """
    require_same("the model", generator.domain, dataset.domain)
    lanes: dict[Take, Sequence[Timepoint]] = {}
    problems: dict[Take, list[str]] = {}
    for take, wanted in frames.items():
        try:
            lanes[take] = _timepoints(dataset, take, wanted, generator.model.settings.modalities)
        except UserError as error:
            problems[take] = [str(error)]
    memories = {take: Memory.of(dataset.domain.language) for take in lanes}
    groups = batches(lanes, memory, batch_size, _mixes(generator), share)
    texts: dict[str, str] = {}
    changed, before = 0, generator.cost
    with shortened_memories(generator, f"timepoints{whose(share)}") as shortened:
        for number, group in enumerate(track(groups, "scene graphs")):
            near = [point for of_group in groups[number : number + 1 + READ_AHEAD] for point in of_group]
            generator.read_ahead([point for point in near if answers.text(point.sample_id) is None])
            asked: dict[tuple[str, str], Example] = {}
            questions: dict[str, str] = {}  # and texts of this group, in its order
            said: dict[str, str] = {}
            group_asks = _questions(generator, group, memories if memory else None, problems)
            found = [answers.find(timepoint.sample_id, question) for timepoint, _, question in group_asks]
            # All of the group: what is left of it alone would say other things.
            again = _mixes(generator) and None in found
            for (timepoint, past, question), known in zip(group_asks, found):
                sample_id = timepoint.sample_id
                if known is not None and not again:
                    said[sample_id], questions[sample_id] = known, question
                    continue
                try:
                    asked[sample_id, question] = generator.read(timepoint, past)
                    questions[sample_id] = question
                except UserError as error:
                    problems.setdefault(timepoint.take, []).append(str(error))
                    continue
                changed += known is None and answers.text(sample_id) is not None
            if asked:
                shortened.extend(example.dropped_memory > 0 for example in asked.values())
                generated = generator.answer(list(asked.values()))
                said |= {sample_id: text for (sample_id, _), text in zip(asked, generated, strict=True)}
            texts |= {key: said[key] for key in questions}
            answers.add([Answer(key, question, texts[key]) for key, question in questions.items()])
            for timepoint in group if memory else ():
                if timepoint.take not in problems:
                    memories[timepoint.take].add(parse(texts[timepoint.sample_id]), int(timepoint.time))
    if (cost := generator.cost - before).passes and is_first():
        print(f"answers{whose(share)}: {cost}", file=sys.stderr)
    if changed:
        told = "their question has changed since (memory, files, settings or the code that reads them)"
        print(f"{changed} timepoints{whose(share)} were generated again: {told}", file=sys.stderr)
    return texts, [f"{take.sample_name} is not finished: {_told(of_take)}" for take, of_take in problems.items()]


def _questions(
    generator: SceneGraphGenerator,
    group: Sequence[Timepoint],
    memories: Mapping[Take, Memory] | None,
    problems: dict[Take, list[str]],
) -> list[tuple[Timepoint, str | None, str]]:
    """The timepoints of a group that can be asked, each with its memory and what identifies its question.

    Where answers depend on batch mates, the questions of these belong to it. What is wrong goes to `problems`; with
    memory nothing is asked behind that, as it would be with another memory.
    """
    found: list[tuple[Timepoint, str | None, str]] = []
    for timepoint in group:
        if memories is not None and timepoint.take in problems:
            continue
        past = None if memories is None else truncate(memories[timepoint.take].text())
        try:
            found.append((timepoint, past, generator.question(timepoint, past)))
        except UserError as error:
            problems.setdefault(timepoint.take, []).append(str(error))
    if not _mixes(generator):
        return found
    all_of_it = [question for *_, question in found]
    return [(timepoint, past, fingerprint([question, *all_of_it])) for timepoint, past, question in found]


def _told(problems: Sequence[str]) -> str:
    return problems[0] if len(problems) == 1 else f"{len(problems)} timepoints are left out, the first: {problems[0]}"


@contextmanager
def shortened_memories(generator: SceneGraphGenerator, questions: str) -> Generator[list[bool]]:
    """Yields a list for whether the memory of each question was shortened; says at the end how many were.

    Args:
        generator: whose model limits the memory.
        questions: what they are called.
    """
    shortened: list[bool] = []
    try:
        yield shortened
    finally:  # also of a run that is interrupted: the next one does not ask these again
        if any(shortened):
            print(
                f"{sum(shortened)} of {len(shortened)} {questions} lost the oldest part of their memory: with it they "
                f"need more than the model's {generator.model.settings.max_length} tokens (max_length)",
                file=sys.stderr,
            )


def seen_of(
    generator: SceneGraphGenerator, dataset: Dataset, sample_ids: Collection[str], takes: Iterable[Take], memory: bool
) -> Seen:
    """What was present at timepoints that have been answered."""
    found = (point for take in takes for point in dataset.take(take).timepoints if point.sample_id in sample_ids)
    return count_seen(found, generator.model.settings.modalities, memory)


def _timepoints(
    dataset: Dataset, take: Take, wanted: Sequence[str] | None, modalities: Sequence[str]
) -> Sequence[Timepoint]:
    recorded = dataset.take(take)
    points = recorded.timepoints if wanted is None else [recorded.timepoint(frame) for frame in wanted]
    if ROBOT_LOG not in modalities:  # which no published model reads
        return points
    return [recorded.with_element(point, ROBOT_LOG) for point in points]


def _mixes(generator: SceneGraphGenerator) -> bool:
    """Whether the answers of a batch depend on each other."""
    return generator.model.settings.batching == "published"


def whose(share: Share) -> str:
    """What to add to a number of questions that are not all there are."""
    return "" if share.is_whole else f" of process {share.rank + 1} of {share.processes}"
