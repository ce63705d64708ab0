"""Checkpoints: damaged ones, kept ones, trainings that are over, that diverge, or that find the disk full."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from computing.training_checkpoints import find_checkpoint, remove_half_written
from operating_room.errors import UserError
from scene_graph_generation.training.resuming import BEGUN, whole_checkpoint
from tests.computing.test_checkpoint_processes import checkpoint_of
from tests.scene_graph_generation.training.conftest import command, run, with_train


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


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "domain.yaml"])
@pytest.mark.parametrize("damage", [cut, empty])
def test_small_files_that_are_damaged_cost_their_checkpoint_alone(
    out: Path, name: str, damage: Callable[[Path], object]
) -> None:
    if (name, damage) == ("domain.yaml", cut):
        (out / "checkpoint-6" / name).write_bytes(bytes(600))  # text that is cut may be whole
    else:
        damage(out / "checkpoint-6" / name)
    found = find_checkpoint(out)
    assert found.path == out / "checkpoint-3"
    assert f"checkpoint-6/{name}" in found.left_out[0]


def test_a_checkpoint_that_lacks_a_file_is_named_and_the_one_before_taken(
    out: Path, data: Path, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The training stopped there, where an empty file was passed over."""
    for name in ("config.json", "tokenizer.json"):
        lost = out / "checkpoint-6" / name
        content = lost.read_bytes()
        lost.unlink()
        found = whole_checkpoint(out, deepspeed=False)
        assert (found.path, found.left_out) == (out / "checkpoint-3", [f"{lost}: is missing; left out"])
        lost.write_bytes(content)
    (out / "checkpoint-6" / "config.json").unlink()
    run(with_train(max_steps=6), data, out)
    assert "checkpoint-6/config.json: is missing; left out" in capfd.readouterr().err
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        (("config.json", "adapter_config.json", "non_lora_trainables.bin", "adapter_model.bin"), 2),
        (("config.json", "adapter.json", "tokenizer.json", "trained.safetensors"), 1),
        (("config.json", "tokenizer.json", "model.safetensors", "teacher.safetensors"), 3),
    ],
)
def test_a_checkpoint_of_each_form_needs_its_files(tmp_path: Path, files: tuple[str, ...], lost: int) -> None:
    (tmp_path / BEGUN).write_text(json.dumps({"train.presence": 0.1 if "teacher.safetensors" in files else 0.0}))
    for step in (3, 6):
        folder = checkpoint_of(tmp_path, 1, step)
        (folder / "model.safetensors").unlink()
        for name in files:
            if name.endswith(".bin"):
                torch.save({}, folder / name)
            elif name.endswith(".safetensors"):
                save_file({"a": torch.zeros(1)}, folder / name)
            else:
                (folder / name).write_text("{}")
    newest = tmp_path / "checkpoint-6"
    assert whole_checkpoint(tmp_path, deepspeed=False).path == newest
    (newest / files[lost]).unlink()
    found = whole_checkpoint(tmp_path, deepspeed=False)
    assert (found.path, found.left_out) == (
        tmp_path / "checkpoint-3",
        [f"{newest / files[lost]}: is missing; left out"],
    )


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_half_written_checkpoint_is_passed_over(out: Path, damage: Callable[[Path], object]) -> None:
    damage(out / "checkpoint-6" / "trainer_state.json")
    assert find_checkpoint(out).path == out / "checkpoint-3"
    shutil.rmtree(out / "checkpoint-3")
    assert find_checkpoint(out).path is None


def test_a_gradient_that_overflowed_once_damages_no_checkpoint(out: Path) -> None:
    file = out / "checkpoint-6" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["log_history"][0]["grad_norm"] = float("inf")  # as in float16, where that step is left out
    state["log_history"][1]["grad_norm"] = float("nan")
    file.write_text(json.dumps(state))
    remove_half_written(out)
    assert find_checkpoint(out).path == out / "checkpoint-6"


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
        find_checkpoint(out)


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
    assert find_checkpoint(tmp_path).path == tmp_path / "checkpoint-3"


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


def test_processes_that_find_other_checkpoints_do_not_go_on(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("computing.training_checkpoints.gather", lambda own: [own, None])
    with pytest.raises(UserError, match="checkpoint-6: process 1 does not find it whole on its disk"):
        run(with_train(max_steps=8), data, out)
