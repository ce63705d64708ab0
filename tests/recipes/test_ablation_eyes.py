"""scripts/ablation_eyes.py: its command line, the settings of its rows, and eyes that are taught once."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import save_predictions, save_samples
from operating_room.graphs.scene_graph import Sample, Triplet
from scene_graph_generation.config.settings import read_experiment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation_eyes", ROOT / "scripts/ablation_eyes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablation_eyes", module)  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_rows_and_options_come_in_any_order(script: ModuleType) -> None:
    """On a rented GPU `FOLDER --config FILE all_0 no_memory --again 0` was refused, and its minutes were lost."""
    of = script.asked(["work", "--config", "eyes.yaml", "all_0", "no_memory", "--again", "0"])
    assert of.folder == Path("work")
    assert of.config == Path("eyes.yaml")
    assert of.rows == ["all_0", "no_memory"]
    assert script.asked(["work", "--again", "0"]).rows == list(script.ROWS)


@pytest.mark.parametrize(
    ("words", "said"), [(["work", "no_eyes"], "no such row: no_eyes"), (["work", "all_0"], "--again needs takes")]
)
def test_what_would_fail_late_is_refused_at_once(
    script: ModuleType, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.asked(words)
    assert said in capsys.readouterr().err


def test_scores_of_one_dataset_stand_under_its_name(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out takes of 4D-OR alone stood under MM-OR, and then the table ended in an IndexError."""
    sample = Sample("004_4DOR", "000000", (Triplet("head_surgeon", "patient", "cutting"),))
    monkeypatch.setattr(script, "Dataset", lambda root: SimpleNamespace(domain=mmor()))
    save_samples(tmp_path / "test" / "relationships_test.json", [sample])
    save_predictions(tmp_path / "rows" / "all_0" / "predictions.json", {sample.sample_id: sample.triplets})
    script.table(SimpleNamespace(folder=tmp_path, split="test"), ["all_0"])
    told = capsys.readouterr().out
    assert "| row | macro F1 | 4D-OR |" in told
    assert "F1, 4D-OR" in told
    assert "MM-OR" not in told


def test_rows_differ_in_what_they_are_named_after_and_have_as_many_steps(script: ModuleType) -> None:
    of = script.asked(["work", "--answered", "401_SIM"])
    whole = read_experiment(ROOT / "configs/scene_graph/small_eyes.yaml")
    rows = {name: script.row_experiment(whole, row, of) for name, row in script.ROWS.items()}
    assert "speech" not in rows["no_speech"].model.modalities
    assert "cloud" not in rows["no_cloud"].model.modalities
    assert rows["views_only"].model.modalities == ("views",)
    assert [rows[f"all_{seed}"].train.seed for seed in range(3)] == [0, 1, 2]
    assert rows["no_memory"].train.memory_dropout == 1.0
    steps = {name: row.train.max_steps + of.again * script.ROWS[name].memory for name, row in rows.items()}
    assert set(steps.values()) == {of.language + of.again}


class Eyes(nn.Module):
    """Something that sees, and something that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.language = nn.Linear(2, 2), nn.Linear(2, 2)


def test_eyes_are_taught_once_and_again_if_their_teacher_fails(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    taught: list[Any] = []

    def learn(model: Eyes) -> None:
        taught.append(model)
        if len(taught) == 1:
            raise RuntimeError("the first one fails")
        nn.init.constant_(model.vision.weight, 7.0)

    monkeypatch.setattr(script.pretrain, "_look", learn)
    look = script.taught_once(tmp_path, 0, True)
    models = [Eyes(), Eyes(), Eyes()]
    with pytest.raises(RuntimeError):
        look(models[0])
    look(models[1])
    before = models[2].language.weight.clone()
    assert look(models[2]), "it knows its patches"
    assert taught == models[:2]
    assert torch.equal(models[2].vision.weight, models[1].vision.weight)
    assert torch.equal(models[2].language.weight, before)


def test_rows_that_differ_in_text_alone_share_what_they_learn_of_triplets(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    of = script.asked(["work", "--answered", "401_SIM"])
    taught: list[Any] = []

    def learn(model: Eyes, *rest: Any, **options: Any) -> None:
        as_it_is.bind(model, *rest, **options)
        taught.append(model)
        nn.init.constant_(model.vision.weight, float(len(taught)))

    as_it_is = inspect.signature(script.train.pretrain)
    monkeypatch.setattr(script.train, "pretrain", learn)
    found = {}
    for name in ("all_0", "no_speech", "no_memory", "no_cloud", "no_views", "all_1"):
        model, see = Eyes(), script.seen_once(tmp_path, script.ROWS[name], of)
        # As train.py calls it: a row ended in a TypeError once pretrain had another option.
        taught_patches = see(model, None, None, None, 0, None, 0, False, None, from_nothing=True)[1]
        assert taught_patches == (name != "no_views")
        found[name] = model.vision.weight[0, 0].item()
    assert found == {"all_0": 1, "no_speech": 1, "no_memory": 1, "no_cloud": 2, "no_views": 3, "all_1": 4}
