"""Checkpoints: damaged ones, kept ones, trainings that are over, that diverge, or that find the disk full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from computing.training_checkpoints import find_checkpoint, last_checkpoint, remove_half_written
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import Experiment, PretrainConfig, to_mapping
from scene_graph_generation.training.resuming import BEGUN, already_done
from scene_graph_generation.training.train import train
from tests.scene_graph_generation.tiny_training import SHORT, losses, write_samples

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After six steps, with checkpoints at 3 and 6."""
    out = tmp_path_factory.mktemp("trained")
    run(with_train(max_steps=6), data, out)
    return out


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """The same, stopped before its end."""
    folder = shutil.copytree(trained, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    return folder


def with_train(**settings: object) -> Experiment:
    return replace(SHORT, train=replace(SHORT.train, **settings))


def run(experiment: Experiment, data: Path, out: Path) -> None:
    train(experiment, [data / "samples.json"], Dataset(data), out)


def command(experiment: Experiment, data: Path, out: Path, **limits: int) -> subprocess.CompletedProcess[str]:
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(experiment), default=str))))
    words = ("--config", file, "--samples", data / "samples.json", "--data", data, "--out", out)

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    return subprocess.run(
        [sys.executable, "-m", "mmor.cli", "scene-graph", "train", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=300,
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("damage", [cut, empty, Path.unlink, flip])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    out: Path, name: str, damage: Callable[[Path], object]
) -> None:
    if name in ("model.safetensors", "scheduler.pt") and damage is flip:
        pytest.skip("the first has no checksums, and the middle of the second is padding")
    damage(out / "checkpoint-6" / name)
    found = find_checkpoint(out)
    assert found.path == out / "checkpoint-3"
    assert len(found.left_out) == 1
    assert "checkpoint-6" in found.left_out[0]
    shutil.rmtree(out / "checkpoint-3")
    with pytest.raises(UserError, match=r"checkpoint-6.*remove them to begin anew") as error:
        find_checkpoint(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_half_written_checkpoint_is_passed_over(out: Path, damage: Callable[[Path], object]) -> None:
    damage(out / "checkpoint-6" / "trainer_state.json")
    assert last_checkpoint(out) == out / "checkpoint-3"
    shutil.rmtree(out / "checkpoint-3")
    assert last_checkpoint(out) is None


def test_a_gradient_that_overflowed_once_damages_no_checkpoint(out: Path) -> None:
    file = out / "checkpoint-6" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["log_history"][0]["grad_norm"] = float("inf")  # as in float16, where that step is left out
    state["log_history"][1]["grad_norm"] = float("nan")
    file.write_text(json.dumps(state))
    remove_half_written(out)
    assert last_checkpoint(out) == out / "checkpoint-6"


@pytest.mark.parametrize("content", [b"\0" * 12, b"", b"../checkpoint-3", b"\xff"])
def test_a_damaged_name_of_deepspeeds_folder_is_told(out: Path, content: bytes) -> None:
    for step in (3, 6):
        (out / f"checkpoint-{step}" / "latest").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint-6/latest: is (damaged|empty)"):
        find_checkpoint(out, deepspeed=True)


def test_another_number_of_processes_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="another number of processes than 2"):
        last_checkpoint(out)


def test_training_goes_on_from_the_one_before(
    out: Path, data: Path, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut(out / "checkpoint-6" / "optimizer.pt")
    half = out / "checkpoint-5"
    half.mkdir()
    run(with_train(max_steps=6), data, out)
    said = capfd.readouterr().err
    assert "checkpoint-6/optimizer.pt: damaged" in said
    assert "going on from" in said
    assert not half.exists()
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_what_is_written_now_stays_beside_a_damaged_checkpoint_of_a_higher_number(out: Path, data: Path) -> None:
    cut(out / "checkpoint-6" / "optimizer.pt")
    run(with_train(max_steps=4, save_steps=2, save_total_limit=1), data, out)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_folders_of_the_user_are_not_touched_and_the_newest_are_kept(data: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-2x"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-notes").write_text("mine")
    run(with_train(max_steps=8, save_steps=2, save_total_limit=3), data, tmp_path)
    left = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert left == sorted(
        ["checkpoint-", "checkpoint-2x", "checkpoint-best", "checkpoint-notes", *(f"checkpoint-{n}" for n in (4, 6, 8))]
    )


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


def test_a_training_that_diverges_is_an_error(data: Path, tmp_path: Path) -> None:
    ended = command(with_train(max_steps=40, learning_rate=1e30, warmup=0.0, save_steps=1), data, tmp_path / "out")
    assert ended.returncode == 2
    assert "training diverged at step" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()
    for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_weights_that_are_no_numbers_are_not_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of all spoils them, so that no loss tells."""
    step = torch.optim.AdamW.step
    calls = iter(range(1, 100))

    def spoil(self: torch.optim.AdamW, *arguments: object) -> object:
        done = step(self, *arguments)
        if next(calls) == 4:
            self.param_groups[0]["params"][0].data.fill_(float("inf"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(UserError, match=r"weights are no finite numbers.*checkpoint-3 is from before"):
        run(with_train(max_steps=4), data, tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 1.0])  # of the optimizer's file: torch complains in several ways
def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(
    trained: Path, data: Path, tmp_path: Path, share: float
) -> None:
    model, optimizer = (
        (trained / "checkpoint-6" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")
    )
    assert model < optimizer
    ended = command(with_train(max_steps=6), data, tmp_path / "out", FSIZE=model + int((optimizer - model) * share) - 1)
    assert ended.returncode == 2
    assert "cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(("found", "told"), [((6, 6), None), ((6, 3), "process 1"), ((None, 6), "process 0")])
def test_processes_with_disks_of_their_own_go_on_from_the_same_step(
    tmp_path: Path, found: tuple[int | None, int | None], told: str | None
) -> None:
    code = (
        "import sys, pathlib, computing.training_checkpoints as c\n"
        "c.require_same_checkpoint(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *([] if step is None else [f"disk{rank}/checkpoint-{step}"])],
            env=os.environ | place | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, step in enumerate(found)
    ]
    for process in running:  # each of them says it
        error = process.communicate()[1]
        assert (process.returncode == 0) == (told is None)
        if told is not None:
            assert f"checkpoint-6: {told} does not find it whole on its disk; copy it" in error


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


def test_processes_that_find_other_checkpoints_do_not_go_on(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("computing.training_checkpoints.gather", lambda own: [own, None])
    with pytest.raises(UserError, match="checkpoint-6: process 1 does not find it whole on its disk"):
        run(with_train(max_steps=8), data, out)


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
