"""The downstream tasks answered by a model and by the sterility rule, and scored (data specification, section 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.domain import Domain, Task
from operating_room.domain.stored import require_same
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json, require
from operating_room.graphs.graph_files import load_predictions, refuse_live
from operating_room.graphs.memory import Memory
from operating_room.graphs.prompts import downstream_prompt
from operating_room.graphs.scene_graph import Sample, Triplet, are_relations, as_triplets, by_take
from operating_room.recordings.dataset import Dataset
from operating_room.scores import bootstrap
from operating_room.scores.breach_recall import BreachRecall, breach_recall
from operating_room.scores.downstream import (
    DEFINITIONS,
    DownstreamScores,
    breach_answers,
    judge,
    predicted_samples,
    read_labels,
    score_downstream,
    time_errors,
)
from operating_room.scores.fingerprints import annotations_fingerprint, code_version, fingerprint
from operating_room.scores.reports import Report
from operating_room.scores.scoring import notes_on_names, without_prediction
from operating_room.scores.sterility import SterilityRule
from operating_room.work.processes import Share, deal
from operating_room.work.progress import track
from scene_graph_generation.inference.answers import Answer, Answers, open_answers
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import answers_path, shortened_memories, whose
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.samples.downstream_samples import remembered

Labels = Mapping[str, Mapping[str, Any]]  # take name without suffix -> frame_id -> label


@dataclass(frozen=True)
class TaskScores:
    """How well one task was answered, and how certain that is."""

    scores: DownstreamScores
    intervals: dict[str, bootstrap.Interval]

    def to_json(self) -> dict[str, Any]:
        """As in the results file; definitions are told once for all."""
        scores = self.scores.to_json()
        del scores["definitions"]
        return {**scores, "intervals": self.intervals}


@dataclass(frozen=True)
class DownstreamEvaluation:
    """Scores of the tasks, each by who answered: `model` or `rule`."""

    tasks: dict[str, dict[str, TaskScores]]
    seconds: dict[str, float | int | None] | None  # of the model: `time_errors`
    about: dict[str, Any]  # what was scored with what
    samples: dict[str, dict[str, Any]]  # by sample id: label and answers of each task
    problems: list[str]  # one line for each take that is left out
    notes: list[str] = field(default_factory=list)  # one line for each thing to know before the numbers are believed
    breaches: BreachRecall | None = None  # of the graphs against the true ones, by the rule; None: no such task

    def to_json(self) -> dict[str, Any]:
        """The results file."""
        return {
            "task": "downstream",
            "about": self.about,
            "definitions": {**DEFINITIONS, "intervals": bootstrap.DEFINITION},
            "tasks": {task: {who: one.to_json() for who, one in by.items()} for task, by in self.tasks.items()},
            "seconds": self.seconds,
            **({} if self.breaches is None else {"breaches": self.breaches.to_json()}),
            "problems": self.problems,
            "notes": self.notes,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        blocks = []
        for by in self.tasks.values():
            for who, one in by.items():
                overall, certainty = one.scores.overall, bootstrap.describe(one.intervals, "macro f1-score")
                told = f"Macro F1 over the classes with support {overall.macro['f1-score']:.4f} {certainty}"
                paper = f"over all classes, the paper's number, {overall.macro_all_names['f1-score']:.4f}"
                blocks.append(f"{who}: {one.scores}\n{who}: {told}; {paper}\n")
        if self.seconds is not None:
            told = ", ".join(
                f"{name.replace('_', ' ')} {value:.1f} s" if "error" in name else f"{name.replace('_', ' ')} {value}"
                for name, value in self.seconds.items()
                if value is not None
            )
            blocks.append(f"model: seconds until the next action: {told}\n")
        if self.breaches is not None:
            blocks.append(f"rule: {self.breaches}\n")
        return "\n".join(blocks)


def evaluate_downstream(
    generator: SceneGraphGenerator | None,
    dataset: Dataset,
    graphs: Sequence[Sample],
    expected: Sequence[Sample],
    rule: SterilityRule,
    out: Path,
    about: Mapping[str, Any],
    labels: Path | None = None,
    published_memory: bool = False,
    batch_size: int = 16,
) -> DownstreamEvaluation:
    """Answer the tasks for all timepoints of takes that have some, and score the answers; a killed run is continued.

    Args:
        generator: the model; None scores the sterility rule alone.
        dataset: where the takes and their labels are.
        graphs: the graphs to answer from, true or predicted.
        expected: the timepoints to score, those of a take in order of time.
        rule: of sterility.
        out: the results file. The generated texts are kept beside it as JSON lines.
        about: what the results file says of the run besides what is known here.
        labels: folder with the label folders of the tasks; None is the dataset's own.
        published_memory: the model was trained with the published memory, see `downstream_samples.remembered`.
        batch_size: questions at once.

    Raises:
        UserError: no take can be scored, another run is writing `out`, or it holds answers of another run.
    """
    domain, tasks = dataset.domain, dataset.domain.tasks
    samples, known, problems = _answerable(dataset, graphs, expected, labels)
    asked = _about(published_memory, generator)
    said: dict[str, str] = {}
    if generator is not None:
        require_same("the model", generator.domain, domain)
        with open_answers(answers_path(out), asked) as stored:
            said, unanswered = _answer(generator, samples, stored, published_memory, batch_size)
        problems += [f"{take} is left out: {problem}" for take, problem in unanswered.items()]
        samples = [sample for sample in samples if sample.take_name not in unanswered]
        if not samples:
            raise UserError(f"nothing can be scored; {problems[0]}")
        about = {**about, "max_new_tokens": generator.max_new_tokens}
    # As in the published evaluation, the sterility task is answered by the rule, too.
    answers = {"rule": {t.name: breach_answers(t, samples, rule) for t in tasks if t.kind == "sterility"}}
    if generator is not None:
        answers["model"] = {t.name: {s.sample_id: said[_key(s, t)] for s in samples} for t in tasks}
    timed = next((task for task in tasks if task.kind == "class_with_time" and generator is not None), None)
    scores = {
        task.name: {
            who: _score(task, samples, said[task.name], known[task.name], domain)
            for who, said in answers.items()
            if task.name in said
        }
        for task in tasks
        if any(task.name in said for said in answers.values())
    }
    names = notes_on_names(samples, {sample.sample_id: sample.triplets for sample in samples}, domain.language)
    of_graphs = {"graphs": _graphs_fingerprint(graphs, _with_tasks(expected, domain))}
    evaluation = DownstreamEvaluation(
        scores,
        time_errors(timed, samples, answers["model"][timed.name], known[timed.name], domain) if timed else None,
        {**about, **of_graphs, **asked, "domain": domain.name, "labels": _fingerprint(known), "code": code_version()},
        _told(samples, answers, known, domain),
        problems,
        [*names, *_without_score(scores, samples, domain)],
        _breaches(samples, expected, rule) if any(task.kind == "sterility" for task in tasks) else None,
    )
    write_json(out, evaluation.to_json())
    return evaluation


def answer_downstream_share(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    graphs: Sequence[Sample],
    expected: Sequence[Sample],
    out: Path,
    share: Share,
    labels: Path | None = None,
    published_memory: bool = False,
    batch_size: int = 16,
) -> list[str]:
    """Answer one process's takes of those that `evaluate_downstream` will find answered beside `out`.

    For the arguments see there. Nothing is done by a process that has no others.

    Returns:
        one line for each take that could not be finished.

    Raises:
        UserError: see `evaluate_downstream`.
    """
    if share.is_whole:
        return []
    require_same("the model", generator.domain, dataset.domain)
    samples, _, _ = _answerable(dataset, graphs, expected, labels)
    about = _about(published_memory, generator)
    takes = list(by_take(samples).values())
    own = [sample for place in deal([len(take) for take in takes], share) for sample in takes[place]]
    with open_answers(answers_path(out), about, share) as stored:
        _, unanswered = _answer(generator, own, stored, published_memory, batch_size, whose(share))
    return [f"{take} is left out: {problem}" for take, problem in unanswered.items()]


def read_graphs(path: Path) -> list[Sample]:
    """Graphs from a predictions file, from the results file of a scene-graph evaluation, or from the published list.

    Raises:
        UserError: missing, damaged, or none of these.
    """
    require(path, "`mmor scene-graph infer`, or `evaluate`,")
    refuse_live(path)
    match read_json(path):
        case [{"scene_graph": _}, *_] as records:  # all_scene_graphs_*_GT.json, see `graph_records`
            listed: dict[str, tuple[Triplet, ...]] = {}
            for record in records:
                match record:
                    case {"sample_id": str(key), "scene_graph": graph} if are_relations(graph) and key not in listed:
                        listed[key] = as_triplets(graph)
                    case _:
                        told = "a list of graphs needs, each once, sample_id and scene_graph"
                        raise UserError(
                            f"{path}: {told} as [subject, object, predicate] triples; got {str(record)[:80]}"
                        )
            return predicted_samples(listed)
        case {"task": "scene_graph", "samples": dict(records)}:
            graphs = {}
            for key, record in records.items():
                match record:
                    case {"predicted": graph} if are_relations(graph):
                        graphs[key] = as_triplets(graph)
                    case _:
                        raise UserError(f"{path}: {key} has no graph under 'predicted'; evaluate again")
            return predicted_samples(graphs)
    return predicted_samples(load_predictions(path))


def _answerable(
    dataset: Dataset, graphs: Sequence[Sample], expected: Sequence[Sample], labels: Path | None
) -> tuple[list[Sample], Labels, list[str]]:
    """The graphs of takes that can be scored, the labels of all tasks, and a line for each take that is left out."""
    domain = dataset.domain
    expected = _with_tasks(expected, domain)
    known, problems = read_labels(dataset, expected, labels)
    by_id = {graph.sample_id: graph for graph in graphs}
    samples: list[Sample] = []
    for name, of_take in by_take(expected).items():
        if missing := without_prediction(of_take, by_id):
            problems.append(f"{name} is left out: {missing}")
        elif domain.find_take(name).name in known[domain.tasks[0].name]:
            samples += [by_id[sample.sample_id] for sample in of_take]
    if not samples:
        raise UserError(
            f"nothing can be scored; {problems[0] if problems else 'there is no take with downstream tasks'}"
        )
    return samples, known, problems


def _with_tasks(expected: Sequence[Sample], domain: Domain) -> list[Sample]:
    """The timepoints of takes that have tasks at all."""
    return [sample for sample in expected if domain.tasks_of(domain.find_take(sample.take_name))]


def _about(published_memory: bool, generator: SceneGraphGenerator | None) -> dict[str, str | bool]:
    """What decides all answers. Graphs do not: each question tells its own, of few timepoints or takes as of all."""
    asked: dict[str, str | bool] = {"published_memory": published_memory}
    return asked if generator is None else {**asked, "model": generator.fingerprint}


def _graphs_fingerprint(graphs: Sequence[Sample], expected: Sequence[Sample]) -> str:
    """Of the graphs of these timepoints, as far as they are there."""
    by_id = {graph.sample_id: graph for graph in graphs}
    return annotations_fingerprint(by_id[s.sample_id] for s in expected if s.sample_id in by_id)


def _answer(
    generator: SceneGraphGenerator,
    samples: Sequence[Sample],
    answers: Answers,
    published_memory: bool,
    size: int,
    whose: str = "",
) -> tuple[dict[str, str], dict[str, str]]:
    """The answers to all questions by their key (what has none yet is asked), and takes with what is wrong there."""
    questions = _questions(samples, generator.domain, published_memory)
    prompts = {_key(sample, task): (sample, prompt) for sample, task, prompt in questions}
    asking = {key: generator.text_question(prompt) for key, (_, prompt) in prompts.items()}
    known = {key: answers.find(key, question) for key, question in asking.items()}
    texts = {key: text for key, text in known.items() if text is not None}
    answers.add([Answer(key, asking[key], text) for key, text in texts.items()])  # also what other processes have found
    left = [key for key in prompts if key not in texts]
    problems: dict[str, str] = {}
    with shortened_memories(generator, f"downstream questions{whose}") as shortened:
        for start in track(range(0, len(left), size), "downstream questions"):
            asked: dict[str, Example] = {}
            for key in left[start : start + size]:
                sample, prompt = prompts[key]
                if sample.take_name in problems:
                    continue
                try:
                    asked[key] = generator.read_text(prompt)
                except UserError as error:
                    problems[sample.take_name] = f"timepoint {sample.frame_id}: {error}"
            if not asked:
                continue
            shortened.extend(example.dropped_memory > 0 for example in asked.values())
            new = dict(zip(asked, generator.answer(list(asked.values())), strict=True))
            answers.add([Answer(key, asking[key], text) for key, text in new.items()])
            texts |= new
    return texts, problems


def _questions(samples: Sequence[Sample], domain: Domain, published_memory: bool) -> Iterator[tuple[Sample, Task, str]]:
    """Timepoint, task and prompt of every question: the memory of the take so far, the current graph, the task."""
    for of_take in by_take(samples).values():
        memory = Memory.of(domain.language)
        for sample in of_take:
            for task in domain.tasks:
                yield sample, task, downstream_prompt(memory.text(), sample.triplets, task)
            memory.add(remembered(sample.triplets, published_memory), sample.position)


def _key(sample: Sample, task: Task) -> str:
    return f"{sample.sample_id} {task.name}"


def _score(
    task: Task, samples: Sequence[Sample], answers: Mapping[str, str], labels: Labels, domain: Domain
) -> TaskScores:
    judged, _ = judge(task, samples, answers, labels, domain)
    confusions = [Report.from_labels(task.classes, [label], [answer]).confusion for _, label, answer in judged]
    shape = (0, len(task.classes), len(task.classes) + 1)
    blocks = bootstrap.block_sums(
        [sample for sample, _, _ in judged],
        np.array(confusions, np.int64).reshape(shape if not judged else (-1, *shape[1:])),
    )
    scores = score_downstream(task, samples, answers, labels, domain)
    return TaskScores(scores, bootstrap.intervals(task.classes, blocks))


def _without_score(
    scores: Mapping[str, Mapping[str, TaskScores]], samples: Sequence[Sample], domain: Domain
) -> Iterator[str]:
    """A line for each task of which no timepoint counts: its 0 is none that a model has earned."""
    takes = {take.name: domain.tasks_of(take) for take in map(domain.find_take, by_take(samples))}
    for task in domain.tasks:
        if task.name in scores and not any(one.scores.takes for one in scores[task.name].values()):
            left_out = [name for name, tasks in takes.items() if task not in tasks]
            why = (
                f"the domain leaves it out of {', '.join(left_out)}"
                if len(left_out) == len(takes)
                else "no timepoint has a label of it"
            )
            yield f"{task.name}: nothing to score, since {why}; its 0 is no score"


def _breaches(samples: Sequence[Sample], expected: Sequence[Sample], rule: SterilityRule) -> BreachRecall:
    """Of the graphs that were scored, against the true ones of the same timepoints."""
    scored = {sample.sample_id for sample in samples}
    return breach_recall([sample for sample in expected if sample.sample_id in scored], samples, rule)


def _told(
    samples: Sequence[Sample],
    answers: Mapping[str, Mapping[str, Mapping[str, str]]],
    labels: Mapping[str, Labels],
    domain: Domain,
) -> dict[str, dict[str, Any]]:
    """What the results file holds of each timepoint."""
    return {
        sample.sample_id: {
            task: {
                "label": labels[task][domain.find_take(sample.take_name).name].get(sample.frame_id),
                **{who: said[task][sample.sample_id] for who, said in answers.items() if task in said},
            }
            for task in labels
        }
        for sample in samples
    }


def _fingerprint(labels: Mapping[str, Labels]) -> str:
    return fingerprint(f"{task} {take} {sorted(of.items())}" for task in labels for take, of in labels[task].items())
