"""scripts/ablation_eyes.py: its command line, the settings of its rows, and eyes that are taught once."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import replace
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
    assert {name for name, _ in map(script.row_of, script.asked(["work", "--again", "0"]).rows)} == set(script.ROWS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["work", "no_eyes"], "no such row: no_eyes"),
        (["work", "no_eyes_1"], "no such row: no_eyes"),
        (["work", "all_0"], "--again needs takes"),
    ],
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
    assert "mean of" not in told
    assert "F1, 4D-OR" in told
    assert "MM-OR" not in told


def test_of_several_seeds_mean_and_spread_are_told(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [Sample("004_4DOR", f"{i:06d}", (Triplet("head_surgeon", "patient", "cutting"),)) for i in range(4)]
    monkeypatch.setattr(script, "Dataset", lambda root: SimpleNamespace(domain=mmor()))
    save_samples(tmp_path / "test" / "relationships_test.json", samples)
    for name, right in (("no_speech", 4), ("no_speech_1", 0), ("all_0", 4)):
        said = {sample.sample_id: sample.triplets for sample in samples[:right]}
        save_predictions(tmp_path / "rows" / name / "predictions.json", {s.sample_id: () for s in samples} | said)
    script.table(SimpleNamespace(folder=tmp_path, split="test"), ["all_0", "no_speech", "no_speech_1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "macro F1" not in line]
    scores = {line.split(" | ")[0]: line.split(" | ")[1] for line in lines if line.startswith("| ")}
    low, high = scores["| no_speech_1"], scores["| no_speech"]
    mean = (float(low) + float(high)) / 2
    assert float(low) < float(high)
    told = scores["| no_speech, mean of 2 trainings (lowest to highest)"]
    assert told.endswith(f"({low} to {high})")
    assert float(told.split(" ")[0]) == pytest.approx(mean, abs=1e-3)
    assert not any(name.startswith("| all, mean") for name in scores)


def test_rows_differ_in_what_they_are_named_after_and_have_as_many_steps(script: ModuleType) -> None:
    of = script.asked(["work", "--answered", "401_SIM"])
    whole = read_experiment(ROOT / "configs/scene_graph/small_eyes.yaml")
    named = {name: script.row_of(name)[1] for name in (*script.USUAL, "no_speech_2")}
    rows = {name: script.row_experiment(whole, row, of) for name, row in named.items()}
    assert "speech" not in rows["no_speech"].model.modalities
    assert "cloud" not in rows["no_cloud"].model.modalities
    assert rows["views_only"].model.modalities == ("views",)
    assert [rows[f"all_{seed}"].train.seed for seed in range(3)] == [0, 1, 2]
    assert rows["no_speech_2"] == replace(rows["no_speech"], train=rows["all_2"].train)
    assert rows["no_memory"].train.memory_dropout == 1.0
    steps = {name: row.train.max_steps + of.again * named[name].memory for name, row in rows.items()}
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
        model, see = Eyes(), script.seen_once(tmp_path, script.row_of(name)[1], of)
        # As train.py calls it: a row ended in a TypeError once pretrain had another option.
        taught_patches = see(model, None, None, None, 0, None, 0, False, None, from_nothing=True)[1]
        assert taught_patches == (name != "no_views")
        found[name] = model.vision.weight[0, 0].item()
    assert found == {"all_0": 1, "no_speech": 1, "no_memory": 1, "no_cloud": 2, "no_views": 3, "all_1": 4}


@pytest.mark.parametrize(("names", "share"), [(["all_0", "no_speech"], 3), (["all_0", "all_1", "all_2"], 5)])
def test_views_leave_room_for_what_each_seed_takes_of_them(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], share: int
) -> None:
    """Half of the free memory was filled, and each seed copied it once more: a machine of 24 GB was full at two."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "own_1perm_x.json").touch()
    told: list[int] = []

    class Ended(Exception):
        """Read what was to be read."""

    def read(dataset: Any, places: Any, grid: Any, most: int, *rest: Any) -> None:
        told.append(most)
        raise Ended

    monkeypatch.setattr(script, "read_records", lambda path: [{"id": "001_PKA_MMOR_000000"}])
    monkeypatch.setattr(script, "split_sample_id", lambda text: ("001_PKA_MMOR", "000000"))
    monkeypatch.setattr(script, "Dataset", lambda root: None)
    monkeypatch.setattr(script.pretrain, "with_masks_of", lambda dataset, domain: dataset)
    monkeypatch.setattr(script, "free_memory", lambda device: 1500)
    monkeypatch.setattr(script, "read_patched", read)
    monkeypatch.setattr(sys, "argv", ["ablation_eyes.py", str(tmp_path), *names, "--again", "0"])
    with pytest.raises(Ended):
        script.main()
    assert told == [1500 // share]
