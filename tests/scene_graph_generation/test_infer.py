"""Predictions of takes: order, memory, resuming, evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from operating_room.dataset import Dataset, Timepoint
from operating_room.errors import UserError
from operating_room.files import write_json
from operating_room.prompts import conversation, human_prompt
from operating_room.relations import load_predictions
from operating_room.scene_graph import Sample, Triplet
from operating_room.takes import FOURDOR, MMOR, Take
from scene_graph_generation.config import LanguageConfig, MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.evaluate import evaluate, score_constant_guess
from scene_graph_generation.infer import SceneGraphGenerator, infer
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.tokens import train_tokens
from tests.operating_room.tiny_dataset import write_dataset

MMOR_TAKE, FOURDOR_TAKE = Take(MMOR, "001_PKA"), Take(FOURDOR, "001_4DOR")


class Scripted(SceneGraphGenerator):
    """Answers with the frame number; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str, str | None]]] = []

    def __call__(self, timepoints: Sequence[Timepoint], memories: Sequence[str | None]) -> list[list[Triplet]]:
        self.asked.append([(t.take.name, t.frame_id, memory) for t, memory in zip(timepoints, memories)])
        return [[Triplet("nurse", f"saw {int(t.frame_id)}", "holding")] for t in timepoints]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_dataset(tmp_path_factory.mktemp("data")))


def test_memory_holds_what_was_predicted_before(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert [memory for ((_, _, memory),) in generator.asked] == [
        "Long: Short",
        "Long: Short: nurse,saw 0,holding",
        "Long: Short: nurse,saw 0,holding; nurse,saw 1,holding; nurse,saw 0,not holding",
    ]


def test_with_memory_takes_go_side_by_side(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    both = infer(generator, dataset, {MMOR_TAKE: None, FOURDOR_TAKE: ["000000", "000002"]}, tmp_path / "p.json")
    assert [[(name, frame) for name, frame, _ in group] for group in generator.asked] == [
        [("001_PKA", "000000"), ("001_4DOR", "000000")],
        [("001_PKA", "000001"), ("001_4DOR", "000002")],
        [("001_PKA", "000002")],
    ]
    alone = infer(Scripted(), dataset, {FOURDOR_TAKE: ["000000", "000002"]}, tmp_path / "q.json")
    assert alone.items() <= both.items()


def test_without_memory_timepoints_go_in_batches(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    infer(generator, dataset, {MMOR_TAKE: None, FOURDOR_TAKE: None}, tmp_path / "p.json", memory=False, batch_size=4)
    assert [len(group) for group in generator.asked] == [4, 2]
    assert {memory for group in generator.asked for _, _, memory in group} == {None}


def test_predictions_are_stored_as_published(dataset: Dataset, tmp_path: Path) -> None:
    predictions = infer(Scripted(), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["001_PKA_MMOR_000001"] == [["nurse", "holding", "saw 1"]]
    assert load_predictions(tmp_path / "p.json") == predictions


def test_known_predictions_are_not_made_again_but_remembered(dataset: Dataset, tmp_path: Path) -> None:
    stored = {"001_PKA_MMOR_000000": [["mps", "touching", "tracker"]], "other": []}
    write_json(tmp_path / "p.json", stored)
    generator = Scripted()
    predictions = infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert generator.asked[0] == [("001_PKA", "000001", "Long: Short: mps,tracker,touching")]
    assert predictions["001_PKA_MMOR_000000"] == [Triplet("mps", "tracker", "touching")]
    assert predictions["other"] == []
    again = Scripted()
    infer(again, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert again.asked == []


def make_generator(max_length: int) -> tuple[SceneGraphGenerator, MM2SG]:
    torch.manual_seed(0)
    tokens = train_tokens([conversation(human_prompt(None, None, None, None))], 1024)
    config = MM2SGConfig(
        vision=VisionConfig(image_size=28, width=16, layers=1, heads=2, mlp=32, feature_layer=-1),
        pooler=PoolerConfig(layers=1, heads=2, mlp=32, mask_channels=(8, 8, 8, 8, 16)),
        language=LanguageConfig(vocabulary=tokens.size, width=16, layers=1, heads=2, mlp=32, positions=2048),
        max_length=max_length,
        modalities=("views", "masks", "robot", "tracker", "speech"),
    )
    model = MM2SG(config)
    return SceneGraphGenerator(model, tokens), model


def test_memory_that_is_too_long_loses_its_oldest_part(dataset: Dataset) -> None:
    generator, _ = make_generator(max_length=500)
    timepoint = dataset.take(MMOR_TAKE).timepoints[0]
    memory = "Long: " + "nurse,saw,holding; " * 200 + "Short: mps,tracker,touching"
    example = generator._example(timepoint, memory)
    text = generator._tokens.decode([token for token in example.ids.tolist() if token >= 0])
    assert "mps,tracker,touching<memory_end>" in text
    assert text.endswith("ASSISTANT:")
    assert len(example.ids) + 4 + 5 + 300 <= 500


def test_a_prompt_that_cannot_fit_is_named(dataset: Dataset) -> None:
    generator, _ = make_generator(max_length=330)
    with pytest.raises(UserError, match="001_PKA_MMOR, timepoint 000000"):
        generator._example(dataset.take(MMOR_TAKE).timepoints[0], None)


SAMPLES = [
    Sample(
        "001_PKA_MMOR",
        f"{i:06d}",
        (Triplet("nurse", "saw", "holding"), Triplet("patient", "operating_table", "lyingOn")),
    )
    for i in range(3)
]


def test_evaluation_writes_scores(tmp_path: Path) -> None:
    right = {sample.sample_id: [[s, p, o] for s, o, p in sample.triplets] for sample in SAMPLES}
    write_json(tmp_path / "p.json", right)
    scores = evaluate(SAMPLES, tmp_path / "p.json", tmp_path / "scores.json")
    assert scores.overall.macro_f1 == 1.0
    assert json.loads((tmp_path / "scores.json").read_text())["overall"]["macro"]["f1-score"] == 1.0


def test_the_constant_guess_is_the_most_frequent_graph() -> None:
    training = [*SAMPLES, Sample("003_TKA_MMOR", "000000", (Triplet("mps", "tracker", "touching"),))]
    assert score_constant_guess(training, SAMPLES).overall.macro_f1 == 1.0
    assert score_constant_guess(training[3:], SAMPLES).overall.macro_f1 < 0.5
