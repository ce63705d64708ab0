"""Scores of predicted scene graphs, and of the constant guess beside them (data specification, section 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from operating_room.files import write_json
from operating_room.relations import load_predictions
from operating_room.scene_graph import Sample
from operating_room.scoring import SceneGraphScores, score


def evaluate(samples: Sequence[Sample], predictions: Path, out: Path | None = None) -> SceneGraphScores:
    """Score a predictions file against the truth and write the scores as JSON to `out`.

    Raises:
        UserError: the file is damaged, or a sample has no prediction.
    """
    scores = score(samples, load_predictions(predictions))
    if out is not None:
        write_json(out, scores.to_json(), indent=1)
    return scores


def score_constant_guess(training: Sequence[Sample], samples: Sequence[Sample]) -> SceneGraphScores:
    """What the most frequent graph of the training samples scores when it is said at every timepoint."""
    graphs = Counter(tuple(sorted(sample.triplets)) for sample in training if sample.triplets)
    guess = graphs.most_common(1)[0][0] if graphs else ()
    return score(samples, {sample.sample_id: guess for sample in samples})
