"""Trainings that are begun again: over, stopped at their end, or with other settings and samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import Experiment, PretrainConfig
from scene_graph_generation.training.resuming import BEGUN, already_done
from scene_graph_generation.training.train import train
from tests.scene_graph_generation.tiny_training import SHORT, losses
from tests.scene_graph_generation.training.conftest import command, run, with_train


def test_a_training_that_is_over_says_so_and_goes_on_for_more_steps(trained: Path, data: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    before = (out / "model.safetensors").read_bytes()
    again = command(with_train(max_steps=6), data, out)
    assert again.returncode == 0
    assert "is trained already, 6 steps" in again.stdout
    assert (out / "model.safetensors").read_bytes() == before
    more = command(with_train(max_steps=8), data, out)
    assert more.returncode == 0, more.stderr
    assert f"{out}: its model is of an earlier end, until this training ends" in more.stderr
    assert sorted(losses(out)) == list(range(1, 9))
    assert (out / "model.safetensors").read_bytes() != before
    shutil.rmtree(out / "checkpoint-8")
    shutil.rmtree(out / "checkpoint-6", ignore_errors=True)
    shutil.rmtree(out / "checkpoint-3", ignore_errors=True)
    with pytest.raises(UserError, match="holds a trained model already"):
        run(with_train(max_steps=9), data, out)


def test_a_training_killed_before_its_last_file_is_finished_by_the_next_run(
    out: Path, data: Path, trained: Path
) -> None:
    run(with_train(max_steps=6), data, out)
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 1.0}, "train.learning_rate was 0.01 and is now 1.0"),
        ({"seed": 5}, "train.seed was 0"),
        ({"matrix_learning_rate": 0.1}, "train.matrix_learning_rate was None and is now 0.1"),
    ],
)
def test_other_settings_do_not_go_on_silently(out: Path, data: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(with_train(max_steps=8, **settings), data, out)


def test_other_pretraining_does_not_go_on_silently(out: Path, data: Path) -> None:
    """A checkpoint has it behind it: what is asked for now would never be done."""
    again = replace(with_train(max_steps=7), pretrain=PretrainConfig(steps=5))
    with pytest.raises(UserError, match="pretrain was False and is now True"):
        run(again, data, out)
    settings = json.loads((out / BEGUN).read_text())
    (out / BEGUN).write_text(json.dumps({**settings, "pretrain": True, "pretrain.steps": 2}))
    with pytest.raises(UserError, match=r"pretrain\.steps was 2 and is now 5"):
        run(again, data, out)
    del settings["pretrain"]  # as of trainings that began before it was noted
    (out / BEGUN).write_text(json.dumps(settings))
    run(again, data, out)


def test_a_setting_that_came_later_was_at_its_default(out: Path, data: Path) -> None:
    settings = json.loads((out / BEGUN).read_text())
    del settings["train.matrix_learning_rate"], settings["train.vision_rests"]
    (out / BEGUN).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"train\.matrix_learning_rate was None and is now 0\.1"):
        run(with_train(max_steps=8, matrix_learning_rate=0.1), data, out)
    run(with_train(max_steps=8), data, out)


@pytest.mark.parametrize(("setting", "other"), [("max_depth", 3.0), ("body_width", 8), ("branches", "ego_exo")])
def test_settings_without_a_shape_do_not_change_silently(out: Path, data: Path, setting: str, other: object) -> None:
    """Model folders do not say them where they are at their default, as files of trainings did once."""
    began = json.loads((out / BEGUN).read_text())
    usual = began.pop(f"model.pooler.{setting}")
    (out / BEGUN).write_text(json.dumps(began))
    changed = replace(SHORT.model, pooler=replace(SHORT.model.pooler, **{setting: other}))
    with pytest.raises(UserError, match=rf"model\.pooler\.{setting} was {usual} and is now {other}"):
        run(replace(with_train(max_steps=8), model=changed), data, out)
    (out / BEGUN).write_text(json.dumps({**began, f"model.pooler.{setting}": other}))
    with pytest.raises(UserError, match=rf"model\.pooler\.{setting} was {other} and is now {usual}"):
        run(with_train(max_steps=8), data, out)


def test_other_samples_do_not_go_on_silently(out: Path, data: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "samples.json"
    fewer.write_text(json.dumps(json.loads((data / "samples.json").read_text())[:4]))
    with pytest.raises(UserError, match="samples was 6 and is now 4"):
        train(with_train(max_steps=8), [fewer], Dataset(data), out)
    records = json.loads((data / "samples.json").read_text())
    for changed in (records[::-1], [{**records[0], "image": records[0]["image"][:2]}, *records[1:]]):
        fewer.write_text(json.dumps(changed))
        with pytest.raises(UserError, match="content of samples was"):
            train(with_train(max_steps=8), [fewer], Dataset(data), out)


def test_a_training_goes_on_with_its_tokenizer(out: Path, data: Path, tmp_path: Path) -> None:
    """Also one that does not know its samples, as those that began before they were compared, and with other ones."""
    settings = json.loads((out / BEGUN).read_text())
    del settings["content of samples"]
    (out / BEGUN).write_text(json.dumps(settings))
    records = json.loads((data / "samples.json").read_text())
    for record in records:
        record["conversations"][0]["value"] += "words that none of the samples had before"
    (tmp_path / "samples.json").write_text(json.dumps(records))
    train(with_train(max_steps=7), [tmp_path / "samples.json"], Dataset(data), out)
    assert (out / "tokenizer.json").read_bytes() == (out / "checkpoint-6" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("experiment", "samples", "said"),
    [
        (with_train(max_steps=2, learning_rate=5.0), "samples", r"train\.learning_rate was 0\.01 and is now 5\.0"),
        (replace(SHORT, model=replace(SHORT.model, modalities=())), "samples", r"model\.modalities was \['views'"),
        (with_train(max_steps=6), "other", r"sample_files was \['samples'\] and is now \['other'\]"),
    ],
)
def test_a_training_that_is_over_is_not_taken_for_another(
    trained: Path, experiment: Experiment, samples: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        already_done(experiment, [Path(f"{samples}.json")], trained)
    assert already_done(with_train(max_steps=6), [Path("elsewhere/samples.json")], trained) is not None


def test_a_folder_of_the_segmenter_is_refused_and_left_as_it_was(out: Path, data: Path) -> None:
    """Its checkpoints have the same names, and weights in files of the same names."""
    (out / BEGUN).unlink()
    for other in out.glob("checkpoint-*/*.json"):
        if other.name != "trainer_state.json":
            other.unlink()
    with pytest.raises(UserError, match="checkpoint-6: is no checkpoint of a scene-graph model"):
        run(with_train(max_steps=8), data, out)
    shutil.copy(out / "checkpoint-6" / "model.safetensors", out)
    for steps in (6, 8):
        with pytest.raises(UserError, match="holds a trained model already"):
            run(with_train(max_steps=steps), data, out)
    assert not (out / BEGUN).exists()


def test_a_model_without_its_state_is_not_cleared_where_nothing_has_begun(data: Path, tmp_path: Path) -> None:
    """As LLaVA's, of which somebody has copied the adapter alone: it was removed as half written."""
    kept = tmp_path / "out" / "checkpoint-500" / "adapter_model.bin"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"all that there is")
    with pytest.raises(UserError, match=r"checkpoint-500: is no whole checkpoint, and no training .* has begun"):
        run(SHORT, data, tmp_path / "out")
    assert kept.is_file()


def test_a_training_stopped_while_it_wrote_the_model_writes_it_and_does_no_further_step(
    out: Path, data: Path, trained: Path
) -> None:
    run(with_train(max_steps=6), data, out)
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert sorted(losses(out)) == [1, 2, 3, 4, 5, 6]


def test_other_token_frequencies_are_another_training(out: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(out / "checkpoint-6")
    names = list(json.loads((out / "tokenizer.json").read_text())["model"]["vocab"])[:300]
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({name: 10 ** (place % 7) for place, name in enumerate(names)}))
    asked = with_train(max_steps=6)
    with pytest.raises(UserError, match="token frequencies was counted in the samples and is now"):
        run(replace(asked, files=replace(asked.files, token_frequencies=counts)), data, out)


def test_more_steps_stopped_before_the_model_was_written_write_it_in_the_next_run(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the earlier end was there, so that the training counted as finished, with the old model."""
    out = shutil.copytree(trained, tmp_path / "out")

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scene_graph_generation.training.train.finish_wandb", killed)
        with pytest.raises(KeyboardInterrupt):
            run(with_train(max_steps=8), data, out)
    assert already_done(with_train(max_steps=8), [data / "samples.json"], out) is None
    run(with_train(max_steps=8), data, out)
    assert (out / "model.safetensors").read_bytes() == (out / "checkpoint-8" / "model.safetensors").read_bytes()
    assert "is trained already, 8 steps" in str(already_done(with_train(max_steps=8), [data / "samples.json"], out))
