"""The scene-graph model that comes with the package looks: what it says depends on masks and cameras."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmor.demo import BUNDLED, GRAPHS, prepare
from operating_room.domain.domain import mmor
from operating_room.graphs.scene_graph import Sample, parse
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import score
from operating_room_simulator.story.story import script_surgery
from operating_room_simulator.writer import write_take
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.weights.checkpoints import load_model, save_model

TAKE = mmor().find_take("002_4DOR")  # cameras and masks are all there is to go by
SECONDS = (14, 20, 26, 32)  # of a surgery of 40 s; these are drawn


@pytest.fixture(scope="module")
def surgery(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], list[Timepoint]]:
    """Graphs and timepoints of a simulated surgery that nothing was trained on."""
    root = tmp_path_factory.mktemp("data")
    whole = script_surgery(TAKE, 7, 40)
    moments = [replace(whole.moments[second], second=place) for place, second in enumerate(SECONDS)]
    write_take(root, replace(whole, moments=tuple(moments)), size=(96, 72))
    prepare(root, [TAKE], None)
    timepoints = Dataset(root).take(TAKE).timepoints
    return [Sample(TAKE.sample_name, f"{m.second:06d}", m.triplets) for m in moments], list(timepoints)


def test_written_again_the_folder_is_byte_for_byte_the_same(tmp_path: Path) -> None:
    """Names, settings and form of a model folder are what they were when this one was made."""
    save_model(tmp_path, *load_model(BUNDLED / GRAPHS), torch.float16)
    bundled = {path.name: path.read_bytes() for path in (BUNDLED / GRAPHS).iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == bundled


def test_other_masks_other_answers(surgery: tuple[list[Sample], list[Timepoint]]) -> None:
    torch.set_num_threads(1)
    truth, seen = surgery
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))

    def answers(timepoints: list[Timepoint]) -> list[str]:
        return generator.answer([generator.read(timepoint, None) for timepoint in timepoints])

    usual = answers(seen)
    swapped = answers([a.taking("masks", b) for a, b in zip(seen, reversed(seen))])
    blind = answers([timepoint.without(["masks", "room_views"]) for timepoint in seen])
    assert sum(a != b for a, b in zip(usual, swapped)) >= 3
    assert sum(a != b for a, b in zip(usual, blind)) >= 3

    def macro_f1(texts: list[str]) -> float:
        predictions = {sample.sample_id: parse(text) for sample, text in zip(truth, texts)}
        return score(truth, predictions, mmor()).overall.macro_f1

    assert macro_f1(usual) > max(macro_f1(swapped), macro_f1(blind))
