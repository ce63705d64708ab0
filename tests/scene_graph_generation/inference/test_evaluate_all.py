"""The table of a training's checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from scene_graph_generation.inference.evaluate_all import Row, Table, evaluate_all, results_path, weights_fingerprint


class Evaluator:
    """Writes results whose macro F1 is the step / 1000; cannot evaluate step 300."""

    def __init__(self, about: Callable[[Path], dict[str, str]] = lambda _: {}) -> None:
        self.done: list[str] = []
        self.about = about

    def __call__(self, model: Path, out: Path) -> None:
        self.done.append(model.name)
        step = int(model.name[11:]) if model.name.startswith("checkpoint-") else 500
        if step == 300:
            raise UserError("model.safetensors is missing")
        macro = {"precision": 0.5, "recall": 0.5, "f1-score": step / 1000}
        about = {"about": self.about(model)}
        write_json(out, {**about, "overall": {"macro": macro, "intervals": {"macro f1-score": [0, 1]}, "samples": 7}})


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
    table = evaluate_all(training, "mmor_test", second, log=logged.append)
    assert second.done == ["checkpoint-1100"]
    assert [row[:2] for row in table.rows] == [(100, 0.1), (200, 0.2), (1000, 1.0), (1100, 1.1)]
    assert logged == table.rows[-1:]
    assert not table.problems
    assert (training / "mmor_test.csv").read_text().splitlines()[1] == "100,0.1000,0,1,0.5000,0.5000,7"


def test_every_second_checkpoint(training: Path) -> None:
    (training / "checkpoint-2000").mkdir()
    evaluator = Evaluator()
    evaluate_all(training, "mmor_test", evaluator, every=2)
    assert evaluator.done == ["checkpoint-200", "checkpoint-2000"]


def test_a_bad_checkpoint_does_not_stop_the_others(training: Path) -> None:
    (training / "checkpoint-300").mkdir()
    cut_off = results_path(training / "checkpoint-100", "mmor_test")
    cut_off.parent.mkdir(parents=True)
    cut_off.write_text('{"overall": {"mac')
    table = evaluate_all(training, "mmor_test", Evaluator())
    assert [row[0] for row in table.rows] == [100, 200, 1000]  # what was cut off is evaluated again
    assert table.problems == ["checkpoint-300 is left out: model.safetensors is missing"]


def test_results_outlive_deleted_checkpoints(training: Path) -> None:
    evaluate_all(training, "mmor_test", Evaluator())
    (training / "checkpoint-100").rmdir()
    (training / "checkpoint-1100").mkdir()
    second = Evaluator()
    table = evaluate_all(training, "mmor_test", second)
    assert second.done == ["checkpoint-1100"]
    assert [row[0] for row in table.rows] == [100, 200, 1000, 1100]


def test_results_of_other_data_weights_or_code_are_not_used_again(training: Path) -> None:
    """Review: labels, split or the weights of a step change, and the old row came back."""

    def about(code: str = "1", annotations: str = "a") -> Callable[[Path], dict[str, str]]:
        return lambda model: {"weights": weights_fingerprint(model), "code": code, "annotations": annotations}

    def run(wanted: Callable[[Path], dict[str, str]]) -> tuple[list[str], Table]:
        evaluator = Evaluator(wanted)
        return evaluator.done, evaluate_all(training, "mmor_test", evaluator, wanted)

    done, _ = run(about())
    assert done == ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]
    assert run(about())[0] == []
    (training / "checkpoint-200" / "model.safetensors").write_bytes(b"other")
    assert run(about())[0] == ["checkpoint-200"]
    (training / "checkpoint-100").rmdir()
    done, table = run(about("2"))
    assert done == ["checkpoint-200", "checkpoint-1000"]
    assert [row[0] for row in table.rows] == [100, 200, 1000]  # nobody can evaluate 100 again; other code is no reason
    done, table = run(about("2", "b"))
    assert done == ["checkpoint-200", "checkpoint-1000"]
    assert [row[0] for row in table.rows] == [200, 1000]
    (note,) = table.notes
    assert "checkpoint-100/mmor_test.json: is left out, annotations differs" in note


def test_the_final_model_is_in_the_table(training: Path) -> None:
    for model in (training / "checkpoint-1000", training):
        (model / "model.safetensors").write_bytes(b"the last weights")
    first = Evaluator()
    table = evaluate_all(training, "mmor_test", first)
    assert first.done == ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]  # the last two are the same
    assert table.rows[-1] == ("final", *table.rows[-2][1:])
    (training / "model.safetensors").write_bytes(b"weights of another run")
    second = Evaluator(lambda model: {"weights": weights_fingerprint(model)})
    assert evaluate_all(training, "mmor_test", second, second.about).rows[-1][:2] == ("final", 0.5)
    assert second.done[-1] == training.name


def test_what_only_the_training_needs_makes_a_checkpoint_no_other_model(training: Path) -> None:
    for model in (training / "checkpoint-1000", training):
        (model / "model.safetensors").write_bytes(b"the last weights")
    (training / "checkpoint-1000" / "teacher.safetensors").write_bytes(b"of train.presence")
    evaluator = Evaluator()
    table = evaluate_all(training, "mmor_test", evaluator)
    assert evaluator.done == ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]
    assert table.rows[-1] == ("final", *table.rows[-2][1:])


def test_what_a_training_that_goes_on_has_learnt_to_see_is_no_final_model(training: Path) -> None:
    """It was left out for want of a config.json, with exit code 1, whenever checkpoints were evaluated meanwhile."""
    (training / "seen.safetensors").write_bytes(b"vision tower and pooler")
    evaluator = Evaluator()
    assert len(evaluate_all(training, "mmor_test", evaluator).rows) == 3
    assert evaluator.done == ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither checkpoint-"):
        evaluate_all(tmp_path, "mmor_test", Evaluator())
