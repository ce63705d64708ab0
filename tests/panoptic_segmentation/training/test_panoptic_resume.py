"""Trainings that go on, also from what is damaged, and those that must not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from computing.training_checkpoints import find_checkpoint
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.tensors import write_safetensors
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.training import trainer
from panoptic_segmentation.training.train import begin_folder, train
from panoptic_segmentation.training.trainer import TrainedModel
from panoptic_segmentation.weights.checkpoints import build_model, load_checkpoint, load_model, published_state
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    path = train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    resumed, whole = (published_state(load_model(p)[0]) for p in (path, trained / "run" / "model.safetensors"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_guided_half_does_not_start_again_after_resuming(trained: Path, tmp_path: Path) -> None:
    """The published switch counts from the start of the process: a resumed run would be guided once more."""
    solver = replace(TINY.solver, batch_size=1, average_decay=0.0, checkpoint_every=3)
    weights = str(trained / "run" / "model.safetensors")
    config = replace(TINY, architecture="DVIS_Plus_online", weights=weights, solver=solver)
    whole = train(config, Dataset(trained / "data"), tmp_path / "whole", trained / "prepared")
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    config = replace(config, weights="not read again.pth")
    resumed = train(config, Dataset(trained / "data"), tmp_path / "resumed", trained / "prepared", resume=True)
    states = [published_state(load_model(path)[0]) for path in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model = TrainedModel(load_model(whole)[0].train(), config)
    calls: list[bool] = []
    model.model.forward = lambda *arguments: calls.append(arguments[-1]) or {}  # ty: ignore[invalid-assignment]
    for step in range(4):
        model(torch.zeros(1, 2, 3, 32, 32), [], [], step)
    assert calls == [True, True, False, False]


def begun(trained: Path, folder: Path) -> Path:
    """A training that was stopped after its last checkpoint."""
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(trained / "run" / name, folder / name)
    shutil.copy(trained / "run" / "config.yaml", folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("optimizer.pt", damage) for damage in (Path.unlink, cut)),
        *(("model.safetensors", damage) for damage in (Path.unlink, cut)),
        *(("scheduler.pt", damage) for damage in (Path.unlink, cut)),
        *(("trainer_state.json", damage) for damage in (Path.unlink, cut)),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    folder = begun(trained, tmp_path / "run")
    damage(folder / "checkpoint-4" / name)
    path = train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    shown = capsys.readouterr()
    assert "checkpoint-4" in shown.err
    assert "left out" in shown.err
    assert f"resuming from {folder / 'checkpoint-2'}" in shown.out
    resumed, whole = (published_state(load_model(p)[0]) for p in (path, trained / "run" / "model.safetensors"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_damaged_scale_of_float16_is_named_and_the_checkpoint_before_taken(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    scale = folder / "checkpoint-4" / "scaler.pt"
    torch.save({"scale": 65536.0}, scale)
    assert find_checkpoint(folder).path == scale.parent
    cut(scale)
    found = find_checkpoint(folder)
    assert found.path == folder / "checkpoint-2"
    assert f"{scale}: damaged" in found.left_out[0]


def test_a_training_that_began_in_float16_goes_on_where_that_is_not_used(trained: Path, tmp_path: Path) -> None:
    """SOLVER.AMP.DTYPE auto takes it on an older GPU, and bfloat16 on a newer one."""
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    scale = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    torch.save({**scale, "_growth_tracker": 2}, tmp_path / "checkpoint-2" / "scaler.pt")
    path = train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    resumed, whole = (published_state(load_model(p)[0]) for p in (path, trained / "run" / "model.safetensors"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_how_often_a_resumed_training_is_saved_is_as_asked_now(trained: Path, tmp_path: Path) -> None:
    """Trainer would go on as often as the checkpoint says."""
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    often = replace(TINY, solver=replace(TINY.solver, checkpoint_every=1))
    train(often, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    assert (tmp_path / "model_0000002.pth").is_file()


def test_without_any_whole_checkpoint_nothing_begins_anew(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    for checkpoint in folder.glob("checkpoint-*"):
        cut(checkpoint / "optimizer.pt")
    with pytest.raises(UserError, match=r"checkpoint-4/optimizer\.pt: damaged.*choose another folder"):
        train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)


def test_a_trained_model_is_never_overwritten(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "run" / "model_final.pth", tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"model_final\.pth: is a trained model"):
            train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=resume)


def test_another_training_is_not_resumed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"checkpoint-4: is of an earlier training; go on with --resume"):
        train(TINY, Dataset(trained / "data"), folder, trained / "prepared")
    others = {
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES was 6 and is now 9": replace(
            TINY, segmenter=replace(TINY.segmenter, queries=9)
        ),
        "SOLVER.BASE_LR was 0.0001 and is now 0.1": replace(TINY, rates=replace(TINY.rates, base=0.1)),
        "SOLVER.IMS_PER_BATCH was 2 and is now 1": replace(TINY, solver=replace(TINY.solver, batch_size=1)),
        "SEED was 42 and is now 7": replace(TINY, seed=7),
    }
    for told, other in others.items():
        with pytest.raises(UserError, match=f"checkpoint-4: {told}"):
            train(other, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    before = (folder / "config.yaml").read_bytes()
    shorter = replace(TINY, solver=replace(TINY.solver, steps=3))
    with pytest.raises(UserError, match=r"checkpoint-4: has more steps than SOLVER\.MAX_ITER 3; give a larger one"):
        train(shorter, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    assert (folder / "config.yaml").read_bytes() == before
    assert not (folder / "model_final.pth").exists()
    (folder / "config.yaml").write_text("[")
    longer = replace(TINY, solver=replace(TINY.solver, steps=5))
    (folder / "model.safetensors").touch()
    train(longer, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    said = capsys.readouterr().err
    assert "whether this is the same training is not checked" in said
    assert f"{folder / 'model.safetensors'}: is of an earlier end, until this training ends" in said
    assert (folder / "checkpoint-5").exists()


@pytest.mark.parametrize("other", ["of another program", "with other shapes"])
def test_a_checkpoint_of_another_model_is_refused_without_its_configuration(
    trained: Path, tmp_path: Path, other: str
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    config = replace(TINY, segmenter=replace(TINY.segmenter, queries=9))
    if other == "of another program":
        config = TINY
        weights = {"language.lm_head.weight": torch.zeros(2, 3)}
        write_safetensors(tmp_path / "run" / "checkpoint-2" / "model.safetensors", weights)
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(UserError, match=r"checkpoint-2/model\.safetensors: is of another model.*choose another folder"):
        train(config, Dataset(trained / "data"), tmp_path / "run", tmp_path / "prepared", resume=True)
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("changed", [{"base": 0.1}, {"decay_of_normalisation": 0.05}, {"decay": 0.01}])
def test_other_rates_than_those_of_a_checkpoint_are_refused_without_its_configuration(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, float]
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    other = replace(TINY, rates=replace(TINY.rates, **changed))
    with pytest.raises(UserError, match=r"checkpoint-2/optimizer\.pt: has other rates .*choose another folder"):
        train(other, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    assert "config.yaml: is missing; whether this is the same training is not checked" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "checkpoint-2"]


def test_what_killed_trainings_leave_is_cleared(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    half = folder / "checkpoint-3"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (folder / "checkpoint-best").mkdir()
    train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    assert not half.exists()
    assert (folder / "checkpoint-best").exists()


def test_a_configuration_of_somebody_s_own_is_not_written_over(trained: Path, tmp_path: Path) -> None:
    """Such as the experiment file itself, beside which its model is to lie: its notes and `_BASE_` would be gone."""
    ours = (trained / "run" / "config.yaml").read_text()
    for text in ("# tried on Monday\n" + ours, "SEED: 42", "no: [", "_BASE_: small.yaml"):
        (tmp_path / "config.yaml").write_text(text)
        for resume in (False, True):
            with pytest.raises(UserError, match=r"config\.yaml: is not as a training writes it.*--out"):
                begin_folder(TINY, mmor(), tmp_path, resume)
        assert (tmp_path / "config.yaml").read_text() == text
    (tmp_path / "config.yaml").write_text(ours)  # of a training that was stopped before its first checkpoint
    assert begin_folder(replace(TINY, seed=7), mmor(), tmp_path, resume=False) is None


def test_models_whose_checkpoints_are_gone_are_not_written_over(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "run" / "model_0000001.pth", tmp_path)
    with pytest.raises(UserError, match=r"model_0000001\.pth: is a trained model without checkpoint"):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)


@pytest.mark.parametrize("lost", ["model_0000001.pth", "model_0000003.pth"])
def test_a_model_that_was_not_written_after_its_checkpoint_is_when_the_training_goes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    write = trainer.save_published

    def fill(path: Path, *rest: Any) -> None:
        if path.name == lost:
            raise UserError(f"{path}: cannot be written")
        write(path, *rest)

    monkeypatch.setattr(trainer, "save_published", fill)
    with pytest.raises(UserError, match=lost):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared")
    monkeypatch.undo()
    train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    assert (tmp_path / lost).exists()
    states = []
    for folder in (tmp_path, trained / "run"):
        model = build_model("ctvis", TINY.segmenter, TINY.video)
        load_checkpoint(folder / lost, model)
        states.append(published_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_processes_that_find_other_checkpoints_do_not_begin(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    monkeypatch.setattr("computing.training_checkpoints.gather", lambda own: [own, None])
    with pytest.raises(UserError, match="checkpoint-2: process 1 does not find it whole on its disk"):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
