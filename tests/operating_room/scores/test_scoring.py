"""The scene-graph metric and its reports, with scikit-learn as the oracle."""

from __future__ import annotations

import json
import warnings
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.domain.language import NONE
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, parse, target_text
from operating_room.scores.reports import Report
from operating_room.scores.scoring import SceneGraphScores, score
from tests.operating_room.graphs import graphs, random_samples

NAMES = ("saw", "drill", "a rather long name", "c")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=60))
def test_report_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truths, predictions = (list(column) for column in zip(*pairs))
    report = Report.from_labels(NAMES, truths, predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.metrics import classification_report

        options = {"labels": range(4), "target_names": NAMES, "zero_division": 0}
        expected = classification_report(truths, predictions, output_dict=True, **options)
        text = classification_report(truths, predictions, digits=4, **options)
    ours = report.to_json()
    assert list(ours) == list(expected)
    for name in expected:
        assert ours[name] == pytest.approx(expected[name], abs=1e-12)
    if not text.rstrip().endswith(".0"):  # scikit-learn prints supports as 5.0 when nothing was predicted right
        assert report.table() == text


def predict(samples: list[Sample], seed: int) -> dict[str, list[Triplet]]:
    """Half of the true triplets, some with another predicate, and some that are not true."""
    generator = Random(seed)
    predictions = {}
    for sample in samples:
        kept = [t for t in sample.triplets if generator.random() < 0.6]
        wrong = [
            t._replace(predicate=generator.choice(mmor().language.predicates)) for t in kept if generator.random() < 0.4
        ]
        extra = [generator.choice(generator.choice(samples).triplets or [Triplet("nurse", "saw", "x")])]
        predictions[sample.sample_id] = [*wrong, *kept, *extra]
        generator.shuffle(predictions[sample.sample_id])
    return predictions


def scores_of(samples: list[Sample], predictions: dict[str, list[Triplet]]) -> dict:
    return json.loads(json.dumps(score(samples, predictions, mmor()).to_json()))


def test_a_dataset_is_not_told_by_a_word_in_the_name_of_a_take() -> None:
    samples = [Sample("my_4DOR_room_MMOR", "000001", (Triplet("nurse", "saw", "holding"),))]
    assert list(scores_of(samples, {samples[0].sample_id: []})["datasets"]) == ["MMOR"]


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_all_scores_lie_between_0_and_1(seed: int) -> None:
    def check(value: object, key: str = "") -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                check(part, name)
        elif isinstance(value, float):
            assert 0 <= value <= 1, key

    samples = random_samples(12, seed)
    check(scores_of(samples, predict(samples, seed)))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_identity_scores_1_wherever_there_is_support(seed: int) -> None:
    samples = random_samples(12, seed)
    scores = score(samples, {s.sample_id: parse(target_text(s.triplets)) for s in samples}, mmor())
    for report in (scores.overall, *scores.takes.values(), *scores.datasets.values()):
        assert report.macro_f1 == float(report.predicates.total > 0)
        for part in (report.predicates, report.interaction, report.entities):
            assert part.macro["f1-score"] == float(part.total > 0)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_order_of_samples_and_names_of_frames_do_not_matter(seed: int) -> None:
    samples = random_samples(12, seed)
    predictions = predict(samples, seed)
    shuffled = Random(seed).sample(samples, len(samples))
    assert scores_of(samples, predictions)["overall"] == scores_of(shuffled, predictions)["overall"]
    assert scores_of(samples, predictions)["takes"].keys() == scores_of(shuffled, predictions)["takes"].keys()


@settings(max_examples=20)
@given(graphs, st.permutations(range(8)))
def test_order_of_triplets_of_different_pairs_does_not_matter(graph: tuple[Triplet, ...], order: list[int]) -> None:
    graph = tuple({(t.subject, t.object): t for t in graph}.values())
    shuffled = [graph[index] for index in order if index < len(graph)]
    samples = [Sample("001_4DOR", "000000", graph)]
    ours, theirs = (scores_of(samples, {"001_4DOR_000000": list(said)}) for said in (graph, shuffled))
    assert ours == theirs


def one(truth: list[tuple[str, str, str]], said: str) -> SceneGraphScores:
    sample = Sample("001_PKA_MMOR", "000000", tuple(Triplet(*t) for t in truth))
    return score([sample], {sample.sample_id: parse(said)}, mmor())


def test_pairs_are_those_of_the_true_entities() -> None:
    scores = one([("nurse", "saw", "holding"), ("nurse", "drill", "touching")], "nurse,saw,holding; mps,drill,holding")
    assert scores.overall.predicates.total == 6  # nurse, saw, drill
    assert scores.overall.predicates.supported == ["holding", "touching", NONE]
    assert scores.overall.predicates.macro["recall"] == pytest.approx(2 / 3)
    assert scores.overall.predicates.macro_all_names["recall"] == pytest.approx(2 / 17)
    assert scores.overall.entities.recall.sum() == 3  # drill counts, the invented mps does not
    assert scores.overall.interaction.to_json()["interaction"]["recall"] == 0.5


def test_first_triplet_of_a_pair_counts_and_an_entity_is_no_predicate() -> None:
    truth = [("nurse", "saw", "holding")]
    assert one(truth, "nurse,saw,holding; nurse,saw,touching").overall.macro_f1 == 1
    assert (
        one(truth, "nurse,saw,touching; nurse,saw,holding").overall.predicates.recall[
            mmor().language.predicates.index("holding")
        ]
        == 0
    )
    mistaken = one(truth, "nurse,saw,drill").overall.predicates.confusion
    assert mistaken[mmor().language.predicates.index("holding"), -2] == 1  # counts as none


def test_confusion_adds_up_to_the_pairs() -> None:
    scores = one(
        [("nurse", "saw", "holding"), ("nurse", "drill", "touching")], "nurse,saw,touching; nurse,drill,touching"
    )
    overall = scores.to_json()["overall"]
    assert overall["confusion"] == {"holding": {"touching": 1}, "touching": {"touching": 1}, NONE: {NONE: 4}}
    assert sum(sum(row.values()) for row in overall["confusion"].values()) == overall["pairs"]


def test_unknown_names_and_wrong_text_cost_only_what_they_miss() -> None:
    scores = one([("nurse", "saw", "holding")], "nurse,saw,grabbing; robot arm,saw,holding; nonsense")
    assert scores.overall.predicates.to_json()["accuracy"] == 0.5


def test_parts_add_up_and_are_printed() -> None:
    samples = random_samples(60, 4, ("001_4DOR", "002_4DOR", "002_PKA_MMOR"))
    scores = score(samples, predict(samples, 4), mmor())
    assert list(scores.takes) == ["001_4DOR", "002_4DOR", "002_PKA_MMOR"]
    assert list(scores.datasets) == ["4DOR", "MMOR"]
    pooled = sum(report.predicates.confusion for report in scores.takes.values())
    assert np.array_equal(pooled, scores.overall.predicates.confusion)
    assert scores.datasets["4DOR"].samples == 40
    text = str(scores)
    assert scores.overall.predicates.table() in text
    assert f"{scores.overall.macro_f1:.4f}" in text.splitlines()[-1]
    assert all(name in text for name in (*scores.takes, *scores.datasets))
    assert {"definitions", "overall", "datasets", "takes"} == scores.to_json().keys()


def test_graphs_without_relations_give_a_report_without_support() -> None:
    scores = one([], "nurse,saw,holding")
    assert scores.overall.macro_f1 == 0
    assert scores.to_json()["overall"]["pairs"] == 0
    assert "nothing to score" in str(scores)


def test_mistakes_of_the_user_are_named() -> None:
    samples = random_samples(4, 0)
    with pytest.raises(UserError, match="no samples"):
        score([], {}, mmor())
    with pytest.raises(UserError, match="4 of 4 samples have no prediction, the first is 001_4DOR_000000"):
        score(samples, {}, mmor())
    with pytest.raises(UserError, match=r"001_PKA_MMOR_000000: the true relation nurse,spoon,holding"):
        one([("nurse", "spoon", "holding")], "")
    with pytest.raises(UserError, match="nurse,saw,drill"):
        one([("nurse", "saw", "drill")], "")
