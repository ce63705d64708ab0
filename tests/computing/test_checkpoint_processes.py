"""Only as many processes go on from a checkpoint as have written it, and one training at a time is in a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from computing.training_checkpoints import (
    find_checkpoint,
    only_training_in,
    written_or_removed,
)
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.config.settings import Config
from panoptic_segmentation.training.train import begin_folder as begin_segmenter
from panoptic_segmentation.training.train import train as train_segmenter
from scene_graph_generation.config.settings import Experiment, FilesConfig
from scene_graph_generation.training.resuming import begin_folder as begin_scene_graphs
from scene_graph_generation.training.train import train as train_scene_graphs

_ELSEWHERE = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX)
print("begun", flush=True)
sys.stdin.read()
"""
_NO_DATA = Dataset.__new__(Dataset)  # it does not come to that


def checkpoint_of(out: Path, processes: int, step: int = 3) -> Path:
    """What so many processes leave, in the smallest form."""
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in (*states, "optimizer.pt", "scheduler.pt"):
        torch.save({}, folder / name)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    TrainerState(global_step=step, epoch=0.5).save_to_json(str(folder / "trainer_state.json"))
    return folder


@pytest.mark.parametrize("written", [1, 2, 4])
def test_another_number_of_processes_is_named_be_it_more_or_less(tmp_path: Path, written: int) -> None:
    """Two of four would both find a state of theirs, and go on at another place of the epoch."""
    folder = checkpoint_of(tmp_path, written)
    assert find_checkpoint(tmp_path, processes=written).path == folder
    for others in {1, 2, 4} - {written}:
        with pytest.raises(UserError, match=f"another number of processes than {others}; use as many"):
            find_checkpoint(tmp_path, processes=others)
    assert find_checkpoint(tmp_path, same_processes=False).path == folder  # of stage 1, which any number goes on from


def test_a_process_that_was_ended_before_it_had_written_its_part_is_told(tmp_path: Path) -> None:
    """It was told that the checkpoint is of another number of processes, and nothing else."""
    earlier, folder = checkpoint_of(tmp_path, 4), checkpoint_of(tmp_path, 4, step=6)
    (folder / "rng_state_2.pth").unlink()
    found = find_checkpoint(tmp_path, processes=4)
    assert found.path == earlier
    assert "(or one was ended before it had written rng_state_2.pth); left out" in found.left_out[0]
    for others in (1, 2):
        with pytest.raises(UserError, match="use as many; no other"):
            find_checkpoint(tmp_path, processes=others)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_a_damaged_schedule_beside_the_files_of_deepspeed_is_named(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """It was looked for without DeepSpeed alone: the training ended with a traceback."""
    for step in (3, 6):
        folder = checkpoint_of(tmp_path, 2, step)
        (folder / "optimizer.pt").unlink()
        (folder / "latest").write_text(f"global_step{step}")
        (folder / f"global_step{step}").mkdir()
        for name in ("mp_rank_00_model_states.pt", *(f"zero_pp_rank_{i}_mp_rank_00_optim_states.pt" for i in (0, 1))):
            torch.save({}, folder / f"global_step{step}" / name)
    assert find_checkpoint(tmp_path, deepspeed=True, processes=2).path == folder
    damage(folder / "scheduler.pt")
    found = find_checkpoint(tmp_path, deepspeed=True, processes=2)
    assert found.path == tmp_path / "checkpoint-3"
    assert f"{folder / 'scheduler.pt'}: " in found.left_out[0]


def test_what_macos_leaves_beside_copied_files_is_no_damage(tmp_path: Path) -> None:
    folder = checkpoint_of(tmp_path, 1)
    (folder / "._model.safetensors").write_bytes(b"\x00\x05\x16\x07")
    assert find_checkpoint(tmp_path).path == folder


@pytest.mark.parametrize(
    "train",
    [
        lambda out: train_segmenter(Config(), _NO_DATA, out, out / "ground_truth", resume=True),
        lambda out: train_scene_graphs(Experiment(), [], _NO_DATA, out),
    ],
)
def test_a_second_training_leaves_alone_what_the_first_one_is_writing(
    tmp_path: Path, train: Callable[[Path], object]
) -> None:
    checkpoint_of(tmp_path, 1)
    half = tmp_path / "checkpoint-6"
    half.mkdir()
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "begun\n"
        with pytest.raises(UserError, match=r"another training is running in this folder; .*choose another folder"):
            train(tmp_path)
        assert half.is_dir()
        assert (tmp_path / ".lock").exists()
        first.communicate("")
    with only_training_in(tmp_path):
        pass


def test_a_training_that_does_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    new, there = tmp_path / "new", tmp_path / "there"
    there.mkdir()
    for folder in (new, there):
        with pytest.raises(UserError, match="no data"), only_training_in(folder):
            raise UserError("no data")
    assert list(tmp_path.rglob("*")) == [there]
    with only_training_in(new):
        (new / "config.yaml").touch()
    assert list(new.iterdir()) == [new / "config.yaml"]


def test_a_machine_with_a_disk_of_its_own_has_the_states_of_its_own_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that the checkpoint is of another number of processes, and to remove it."""
    folder = checkpoint_of(tmp_path, 4)  # rng_state_0 to 3, of eight on two machines
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    for rank in (0, 3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert find_checkpoint(tmp_path).path == folder
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="another number of processes than 8"):  # of four, on a disk that all share
        find_checkpoint(tmp_path)
    for rank in range(4, 8):
        torch.save({}, folder / f"rng_state_{rank}.pth")
    assert find_checkpoint(tmp_path).path == folder  # where what is told was done: copied beside its own


def test_another_machine_leaves_it_to_the_first_one_to_say_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own disk it has its processes' states alone: it was told that no training has begun there."""
    torch.save({}, tmp_path / "rng_state_4.pth")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "rng_state_4.pth").rename(tmp_path / "checkpoint-3" / "rng_state_4.pth")
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    experiment = Experiment(files=FilesConfig(samples=(tmp_path / "s.json",)))
    for rank in ("4", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", "0")
        if rank == "4":
            assert begin_scene_graphs(experiment, [tmp_path / "s.json"], tmp_path) is None
            assert begin_segmenter(Config(), mmor(), tmp_path, resume=True) is None
        else:
            with pytest.raises(UserError, match="no training of this program has begun"):
                begin_scene_graphs(experiment, [tmp_path / "s.json"], tmp_path)
            with pytest.raises(UserError, match="no training of this program has begun"):
                begin_segmenter(Config(), mmor(), tmp_path, resume=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_first_process_is_writing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The second one took its unfinished file for weights that cannot be stored, and removed the checkpoint."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    unfinished = tmp_path / "checkpoint-3" / ".model.vm-1.safetensors"
    unfinished.mkdir(parents=True)
    with written_or_removed(unfinished.parent):
        (unfinished.parent / "model.safetensors").touch()
    assert unfinished.is_dir()
