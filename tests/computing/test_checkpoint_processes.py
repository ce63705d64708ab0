"""Only as many processes go on from a checkpoint as have written it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from computing.training_checkpoints import find_checkpoint, last_checkpoint
from operating_room.errors import UserError


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
    assert last_checkpoint(tmp_path, processes=written) == folder
    for others in {1, 2, 4} - {written}:
        with pytest.raises(UserError, match=f"another number of processes than {others}; use as many"):
            last_checkpoint(tmp_path, processes=others)
    assert find_checkpoint(tmp_path, same_processes=False).path == folder  # of stage 1, which any number goes on from


def test_what_macos_leaves_beside_copied_files_is_no_damage(tmp_path: Path) -> None:
    folder = checkpoint_of(tmp_path, 1)
    (folder / "._model.safetensors").write_bytes(b"\x00\x05\x16\x07")
    assert find_checkpoint(tmp_path).path == folder
