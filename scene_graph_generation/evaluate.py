"""Scores of scene graphs as one results file that tells where they come from (data specification, section 6)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operating_room import bootstrap
from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.files import write_json
from operating_room.fingerprints import annotations_fingerprint, code_version, inputs_fingerprint
from operating_room.relations import load_predictions
from operating_room.scene_graph import Sample, parse
from operating_room.scoring import SceneGraphScores, score, score_sample, without_prediction
from operating_room.takes import find_take
from operating_room.vocabulary import SCORED_PREDICATES
from scene_graph_generation.answers import open_answers
from scene_graph_generation.infer import Predictions, SceneGraphGenerator, answer_takes, answers_path


@dataclass(frozen=True)
class Evaluation:
    """Scores and how certain they are."""

    scores: SceneGraphScores
    intervals: dict[str, bootstrap.Interval]  # of all samples: see `bootstrap.statistics`
    about: dict[str, Any]  # what was scored with what
    samples: dict[str, dict[str, Any]]  # by sample id: true and predicted graph, and the generated text
    problems: list[str]  # one line for each take that is left out

    def to_json(self) -> dict[str, Any]:
        """The results file."""
        results = self.scores.to_json()
        results["definitions"] = {**results["definitions"], "intervals": bootstrap.DEFINITION}
        results["overall"]["intervals"] = self.intervals
        return {
            "task": "scene_graph",
            "about": self.about,
            **results,
            "problems": self.problems,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        macro = self.scores.overall.macro_f1
        certainty = f"Macro F1 {macro:.4f} {bootstrap.describe(self.intervals, 'macro f1-score')}"
        return f"{self.scores}\n{certainty} ({bootstrap.LEVEL} % bootstrap over blocks of {bootstrap.BLOCK} timepoints)"


def evaluate(samples: Sequence[Sample], predictions: Path, out: Path | None = None) -> SceneGraphScores:
    """Score a predictions file against the truth and write the results file to `out`.

    Raises:
        UserError: the file is damaged, or a sample has no prediction.
    """
    evaluation = evaluate_file(samples, predictions, out)
    if evaluation.problems:
        raise UserError("\n".join(evaluation.problems))
    return evaluation.scores


def evaluate_file(samples: Sequence[Sample], predictions: Path, out: Path | None = None) -> Evaluation:
    """Score a predictions file; takes of which it lacks timepoints are left out and told.

    Raises:
        UserError: the file is damaged, or lacks timepoints of every take.
    """
    about = {"predictions": str(predictions)}
    return _evaluate(samples, load_predictions(predictions), {}, about, [], out)


def evaluate_model(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    samples: Sequence[Sample],
    out: Path,
    about: Mapping[str, Any],
    memory: bool,
    batch_size: int = 8,
) -> Evaluation:
    """Generate the graphs of annotated timepoints and score them; an interrupted run is continued.

    Args:
        generator: the model.
        dataset: where the takes are.
        samples: the truth; timepoints of a take are predicted in this order.
        out: the results file. The generated texts are kept beside it as JSON lines.
        about: what the results file says of the run besides what is known here.
        memory: each prompt has the memory of what was predicted before in its take.
        batch_size: timepoints at once; with memory these come from different takes.

    Raises:
        UserError: no take could be finished, another run is writing `out`, or it holds answers of another model.
    """
    frames: defaultdict[Any, list[str]] = defaultdict(list)
    for sample in samples:
        frames[find_take(sample.take_name)].append(sample.frame_id)
    with open_answers(answers_path(out), {"model": generator.fingerprint, "memory": memory}) as answers:
        texts, problems = answer_takes(generator, dataset, frames, answers, memory, batch_size)
        inputs = inputs_fingerprint(dataset, [sample for sample in samples if sample.sample_id in texts])
        about = {**about, "model": generator.fingerprint, "memory": memory, "batch_size": batch_size, "inputs": inputs}
        predictions = {sample_id: parse(text) for sample_id, text in texts.items()}
        return _evaluate(samples, predictions, texts, about, problems, out)


def score_constant_guess(training: Sequence[Sample], samples: Sequence[Sample]) -> SceneGraphScores:
    """What the most frequent graph of the training samples scores when it is said at every timepoint."""
    graphs = Counter(tuple(sorted(sample.triplets)) for sample in training if sample.triplets)
    guess = graphs.most_common(1)[0][0] if graphs else ()
    return score(samples, {sample.sample_id: guess for sample in samples})


def _evaluate(
    samples: Sequence[Sample],
    predictions: Predictions,
    texts: Mapping[str, str],
    about: Mapping[str, Any],
    problems: Sequence[str],
    out: Path | None,
) -> Evaluation:
    """Score the takes that have all their predictions; a take in `problems` lacks some."""
    by_take: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_take[sample.take_name].append(sample)
    incomplete = {name: problem for name in by_take if (problem := without_prediction(by_take[name], predictions))}
    told = [*problems] or [f"{name} is left out: {problem}" for name, problem in incomplete.items()]
    scored = [sample for sample in samples if sample.take_name not in incomplete]
    if not scored and incomplete:
        raise UserError(f"nothing can be scored; {told[0]}")
    scores = score(scored, predictions)
    confusions = [score_sample(sample, predictions[sample.sample_id]).predicates.confusion for sample in scored]
    blocks = bootstrap.block_sums([sample.take_name for sample in scored], np.stack(confusions))
    evaluation = Evaluation(
        scores,
        bootstrap.intervals(SCORED_PREDICATES, blocks),
        {**about, "code": code_version(), "annotations": annotations_fingerprint(scored)},
        {
            sample.sample_id: {
                "truth": [list(triplet) for triplet in sample.triplets],
                "predicted": [list(triplet) for triplet in predictions[sample.sample_id]],
                **({"text": texts[sample.sample_id]} if sample.sample_id in texts else {}),
            }
            for sample in scored
        },
        told,
    )
    if out is not None:
        write_json(out, evaluation.to_json())
    return evaluation
