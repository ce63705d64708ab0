"""Scores of scene graphs as one results file that tells where they come from (data specification, section 6)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.files.atomic import require_folder, require_replaceable, write_json
from operating_room.files.readers import read_json
from operating_room.graphs.graph_files import load_predictions
from operating_room.graphs.scene_graph import Sample, by_take, parse
from operating_room.recordings.dataset import Dataset
from operating_room.scores import bootstrap
from operating_room.scores.egoexor import EgoExORScores, score_both
from operating_room.scores.fingerprints import annotations_fingerprint, code_version, inputs_fingerprint
from operating_room.scores.scoring import (
    SceneGraphScores,
    notes_on_names,
    score,
    score_sample,
    summarise,
    without_prediction,
)
from operating_room.scores.triplets import details
from operating_room.scores.triplets.timelines import clock_of, times_of
from scene_graph_generation.inference.answers import open_answers
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import Predictions, about_answers, answer_takes, answers_path, seen_of
from scene_graph_generation.inference.seen import Seen


@dataclass(frozen=True)
class Evaluation:
    """Scores and how certain they are."""

    scores: SceneGraphScores
    details: details.Details  # whole triplets, segments, delays, hallucinations
    intervals: dict[str, bootstrap.Interval]  # of all samples: see `bootstrap.statistics`
    about: dict[str, Any]  # what was scored with what
    samples: dict[str, dict[str, Any]]  # by sample id: true and predicted graph, and the generated text
    problems: list[str]  # one line for each take that is left out
    notes: list[str]  # one line for each thing to know before the numbers are believed
    seen: Seen | None = None  # what the scored timepoints had; None where predictions came as a file
    egoexor: EgoExORScores | None = None  # of its takes: the published score beside ours

    def to_json(self) -> dict[str, Any]:
        """The results file."""
        results = self.scores.to_json()
        results["definitions"] = {
            **results["definitions"],
            "intervals": bootstrap.DEFINITION,
            **details.DEFINITIONS,
        }
        results["overall"]["intervals"] = self.intervals
        return {
            "task": "scene_graph",
            "about": self.about,
            **results,
            "triplets": self.details.to_json(),
            **({} if self.egoexor is None else {"egoexor": self.egoexor.to_json()}),
            "modalities": None if self.seen is None else self.seen.to_json(),
            "problems": self.problems,
            "notes": self.notes,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        macro = self.scores.overall.macro_f1
        seen = "" if self.seen is None else f"{self.seen}\n"
        certainty = bootstrap.describe(self.intervals, "macro f1-score")
        both = "" if self.egoexor is None else f"{self.egoexor}\n"
        return f"{self.scores}\n{self.details}\n{both}{seen}Macro F1 {macro:.4f} {certainty}"


def evaluate(samples: Sequence[Sample], predictions: Path, domain: Domain, out: Path | None = None) -> SceneGraphScores:
    """Score a predictions file against the truth and write the results file to `out`.

    Raises:
        UserError: the file is damaged, or a sample has no prediction.
    """
    evaluation = evaluate_file(samples, predictions, domain, out)
    if evaluation.problems:
        raise UserError("\n".join(evaluation.problems))
    return evaluation.scores


def evaluate_file(
    samples: Sequence[Sample],
    predictions: Path,
    domain: Domain,
    out: Path | None = None,
    truth: Path | None = None,
    times: Mapping[str, float] | None = None,
) -> Evaluation:
    """Score a predictions file; takes of which it lacks timepoints are left out and told.

    Args:
        samples: the truth.
        predictions: sample id -> [subject, predicate, object] lists.
        domain: whose language they are in.
        out: the results file, if one is wanted.
        truth: the file that `samples` are from, to be named where one of them is wrong.
        times: sample id -> s since the take began (`times_of`).

    Raises:
        UserError: the file is damaged, or lacks timepoints of every take, or `out` would replace it.
    """
    if out is not None and os.path.realpath(out) == os.path.realpath(predictions):
        raise UserError(f"{out}: holds the predictions, which the results would replace; choose another output")
    loaded, about = load_predictions(predictions), {"predictions": str(predictions)}
    usable, problems = _with_usable_truth(samples, domain.language, truth)
    for name, of_take in by_take(usable).items():
        if missing := without_prediction(of_take, loaded):
            problems.append(f"{name} is left out: {missing}")
    return _evaluate(usable, loaded, {}, about, problems, domain, out, times=times)


def require_results(out: Path, task: str) -> None:
    """Results take the place of older results of the same task, never that of something else; asked before scoring.

    Raises:
        UserError: `out` is a file of something else, or cannot be written.
    """
    require_replaceable(out)
    require_folder(out.parent)
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        there = read_json(out)
    except UserError:
        there = None
    if not isinstance(there, dict) or not {"task", "about"} <= there.keys():
        raise UserError(f"{out}: is there already and holds no results; choose another output")
    if there["task"] != task:
        raise UserError(f"{out}: is there already and holds results of {there['task']}; choose another output")


def evaluate_model(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    samples: Sequence[Sample],
    out: Path,
    about: Mapping[str, Any],
    memory: bool,
    batch_size: int = 8,
    truth: Path | None = None,
) -> Evaluation:
    """Generate the graphs of annotated timepoints and score them; an interrupted run is continued.

    Args:
        generator: the model.
        dataset: where the takes are.
        samples: the truth; the timepoints of a take are predicted in the order of time.
        out: the results file. The generated texts are kept beside it as JSON lines.
        about: what the results file says of the run besides what is known here.
        memory: each prompt has the memory of what was predicted before in its take.
        batch_size: timepoints at once; with memory these come from different takes.
        truth: the file that `samples` are from, to be named where one of them is wrong.

    Raises:
        UserError: no take could be finished, another run is writing `out`, or it holds answers of another model.
    """
    domain = dataset.domain
    usable, wrong = _with_usable_truth(samples, domain.language, truth)
    frames = evaluated_frames(dataset, usable)
    with open_answers(answers_path(out), about_answers(generator, memory, batch_size)) as answers:
        texts, problems = answer_takes(generator, dataset, frames, answers, memory, batch_size)
        whole = [sample for sample in usable if sample.sample_id in texts]
        about = {
            **about,
            "model": generator.fingerprint,
            "memory": memory,
            "batch_size": batch_size,
            "max_new_tokens": generator.max_new_tokens,
            "inputs": inputs_fingerprint(dataset, whole),
        }
        seen = seen_of(generator, dataset, texts, [domain.find_take(name) for name in by_take(whole)], memory)
        predictions = {sample_id: parse(text) for sample_id, text in texts.items()}
        problems = [*wrong, *problems]
        return _evaluate(usable, predictions, texts, about, problems, domain, out, seen, times_of(dataset, whole))


def evaluated_frames(dataset: Dataset, samples: Sequence[Sample]) -> dict[Take, list[str]]:
    """The timepoints of each take that `evaluate_model` asks: of those whose truth can be scored."""
    usable, _ = _with_usable_truth(samples, dataset.domain.language, None)
    return {
        dataset.domain.find_take(name): [sample.frame_id for sample in of_take]
        for name, of_take in by_take(usable).items()
    }


def score_constant_guess(training: Sequence[Sample], samples: Sequence[Sample], domain: Domain) -> SceneGraphScores:
    """What the most frequent graph of the training samples scores when it is said at every timepoint."""
    graphs = Counter(tuple(sorted(sample.triplets)) for sample in training if sample.triplets)
    guess = graphs.most_common(1)[0][0] if graphs else ()
    return score(samples, {sample.sample_id: guess for sample in samples}, domain)


def _evaluate(
    samples: Sequence[Sample],
    predictions: Predictions,
    texts: Mapping[str, str],
    about: Mapping[str, Any],
    problems: Sequence[str],
    domain: Domain,
    out: Path | None,
    seen: Seen | None = None,
    times: Mapping[str, float] | None = None,
) -> Evaluation:
    """Score the takes that have all their predictions; `problems` tells of the others."""
    incomplete = {sample.take_name for sample in samples if sample.sample_id not in predictions}
    scored = [sample for sample in samples if sample.take_name not in incomplete]
    if not scored and problems:
        raise UserError(f"nothing can be scored; {'; '.join(problems)}")
    if not scored:
        raise UserError("there are no samples to score; check the split and the takes on disk")
    stretches = bootstrap.blocks_of(scored, clock_of(scored, domain, times))
    reports = [  # of each stretch: those of all timepoints at once are gigabytes where there are 100 000
        reduce(add, (score_sample(sample, predictions[sample.sample_id], domain.language) for sample in stretch))
        for stretch in stretches
    ]
    blocks = np.stack([report.predicates.confusion for report in reports])
    scores = summarise([stretch[0] for stretch in stretches], reports, domain)
    evaluation = Evaluation(
        scores,
        details.measure(scored, predictions, scores, domain, times),
        bootstrap.intervals(domain.language.scored_predicates, blocks),
        {**about, "domain": domain.name, "code": code_version(), "annotations": annotations_fingerprint(scored)},
        {
            sample.sample_id: {
                "truth": [list(triplet) for triplet in sample.triplets],
                "predicted": [list(triplet) for triplet in predictions[sample.sample_id]],
                **({"text": texts[sample.sample_id]} if sample.sample_id in texts else {}),
                **({} if (at := (times or {}).get(sample.sample_id)) is None else {"at_s": at}),
            }
            for sample in scored
        },
        list(problems),
        [*notes_on_names(scored, predictions, domain.language), *(seen.warnings() if seen is not None else ())],
        seen,
        score_both(scored, predictions, scores, domain),
    )
    if out is not None:
        write_json(out, evaluation.to_json())
    return evaluation


def _with_usable_truth(
    samples: Sequence[Sample], language: Language, truth: Path | None
) -> tuple[list[Sample], list[str]]:
    """The samples of takes whose truth can be scored, and a line for each other take, before anything is asked."""
    problems = {}
    for name, of_take in by_take(samples).items():
        try:
            for sample in of_take:
                score_sample(sample, (), language)
        except UserError as error:
            problems[name] = f"{'' if truth is None else f'{truth}: '}{name} is left out: {error}"
    return [sample for sample in samples if sample.take_name not in problems], list(problems.values())
