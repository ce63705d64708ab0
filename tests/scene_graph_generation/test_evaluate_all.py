"""The table of a training's checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from operating_room.errors import UserError
from operating_room.files import write_json
from scene_graph_generation.evaluate_all import Row, evaluate_all, results_path


class Evaluator:
    """Writes results whose macro F1 is the step / 1000; cannot evaluate step 300."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, model: Path, out: Path) -> None:
        self.done.append(model.name)
        step = int(model.name[11:])
        if step == 300:
            raise UserError("model.safetensors is missing")
        macro = {"precision": 0.5, "recall": 0.5, "f1-score": step / 1000}
        write_json(out, {"overall": {"macro": macro, "intervals": {"macro f1-score": [0, 1]}, "samples": 7}})


@pytest.fixture
def training(tmp_path: Path) -> Path:
    for step in (100, 200, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
    return tmp_path


def test_new_checkpoints_are_evaluated_in_order(training: Path) -> None:
    first, logged = Evaluator(), list[Row]()
    evaluate_all(training, "mmor_test", first)
    assert first.done == ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]
    (training / "checkpoint-1100").mkdir()
    second = Evaluator()
    rows, problems = evaluate_all(training, "mmor_test", second, log=logged.append)
    assert second.done == ["checkpoint-1100"]
    assert [row[:2] for row in rows] == [(100, 0.1), (200, 0.2), (1000, 1.0), (1100, 1.1)]
    assert logged == rows[-1:]
    assert not problems
    assert (training / "mmor_test.csv").read_text().splitlines()[1] == "100,0.1000,0,1,0.5000,0.5000,7"


def test_every_second_checkpoint(training: Path) -> None:
    (training / "checkpoint-2000").mkdir()
    evaluator = Evaluator()
    evaluate_all(training, "mmor_test", evaluator, every=2)
    assert evaluator.done == ["checkpoint-200", "checkpoint-2000"]


def test_a_bad_checkpoint_does_not_stop_the_others(training: Path) -> None:
    (training / "checkpoint-300").mkdir()
    results_path(training / "checkpoint-100", "mmor_test").parent.mkdir()
    results_path(training / "checkpoint-100", "mmor_test").write_text('{"overall": {"mac')
    rows, (cut_off, missing) = evaluate_all(training, "mmor_test", Evaluator())
    assert [row[0] for row in rows] == [200, 1000]
    assert cut_off.startswith("checkpoint-100 is left out: ")
    assert "mmor_test.json" in cut_off
    assert missing == "checkpoint-300 is left out: model.safetensors is missing"


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint-"):
        evaluate_all(tmp_path, "mmor_test", Evaluator())
