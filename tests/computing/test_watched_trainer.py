"""What a training tells of itself: its rate, its wait for data, and the step at which it diverged."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from computing.training_progress import Throughput
from computing.watched_trainer import WatchedTrainer
from operating_room.errors import UserError


class Clock:
    """Time that passes when somebody says so."""

    now = 0.0  # s

    def __call__(self) -> float:
        return self.now


class SlowNumbers(Dataset):
    """Numbers that take a while to read."""

    def __init__(self, clock: Clock, seconds: float, count: int = 12) -> None:
        self.clock, self.seconds, self.count = clock, seconds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.clock.now += self.seconds
        return torch.tensor([float(index)])


class SlowTrainer(WatchedTrainer):
    """A micro-batch takes a second; from the step `bad` on the loss is no number."""

    clock: Clock
    bad = 10**9

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        self.clock.now += 1.0
        loss = model(torch.stack(inputs["numbers"])).mean()
        loss = loss * torch.nan if self.state.global_step + 1 >= self.bad else loss
        self.watch(loss)
        return loss


def trainer(out: Path, clock: Clock, reading: float, log_steps: int = 2, **options: Any) -> SlowTrainer:
    """Six micro-batches of two numbers, two to a step."""
    arguments = TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=log_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        **options,
    )
    made = SlowTrainer(
        samples_in="numbers",
        rate_setting="RATE",
        model=nn.Linear(1, 1),
        args=arguments,
        train_dataset=SlowNumbers(clock, reading),
        data_collator=lambda numbers: {"numbers": numbers},
    )
    made.clock = clock
    made.throughput = Throughput(1, clock)
    return made


def logged(made: WatchedTrainer) -> list[dict[str, float]]:
    return [entry for entry in made.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("reading", "share"), [(0.0, 0.0), (0.5, 0.5), (4.5, 0.9)])
def test_the_share_of_waiting_is_that_of_the_reading(tmp_path: Path, reading: float, share: float) -> None:
    made = trainer(tmp_path, Clock(), reading, log_steps=3)
    made.train()
    (entry,) = logged(made)
    assert entry["data_wait"] == pytest.approx(share)
    assert entry["samples_per_s"] == pytest.approx(12 / (6 + 12 * reading))


def test_each_report_is_of_what_came_since_the_last(tmp_path: Path) -> None:
    clock = Clock()
    made = trainer(tmp_path, clock, 0.5, log_steps=1)
    made.train()
    entries = logged(made)
    assert len(entries) == 3
    # One batch is read ahead: the first step waits for three, the last for one.
    assert [entry["data_wait"] for entry in entries] == pytest.approx([3 / 5, 2 / 4, 1 / 3])
    assert [entry["samples_per_s"] for entry in entries] == pytest.approx([4 / 5, 4 / 4, 4 / 3])
    assert "data_wait" not in made.state.log_history[-1]  # the summary, after which nothing was trained


def test_reading_in_another_process_costs_no_time_here(tmp_path: Path) -> None:
    """There the clock of this process stands still, as it does while a reader is ahead."""
    made = trainer(tmp_path, Clock(), 4.5, log_steps=3, dataloader_num_workers=1)
    made.train()
    (entry,) = logged(made)
    assert entry["data_wait"] == 0.0
    assert entry["samples_per_s"] == 2.0


def test_samples_of_all_processes_count() -> None:
    clock = Clock()
    throughput = Throughput(3, clock)
    assert throughput.report() == {}
    with throughput.waiting():
        clock.now += 1.0
    throughput.count(8)
    assert throughput.report() == {"samples_per_s": 24.0, "data_wait": 1.0}
    throughput.count(8)
    assert throughput.report() == {}  # no time has passed
    clock.now += 2.0
    assert throughput.report() == {}  # no sample has come


@pytest.mark.parametrize("log_steps", [1, 2, 3, 100])
def test_the_step_that_diverged_is_told_whenever_it_is_noticed(tmp_path: Path, log_steps: int) -> None:
    made = trainer(tmp_path, Clock(), 0.0, log_steps)
    made.bad = 2
    with pytest.raises(UserError, match=r"diverged at step 2: its loss is nan; lower the learning rate \(RATE\)"):
        made.train()
    assert all(entry["loss"] == entry["loss"] for entry in logged(made))


def test_a_training_that_does_not_diverge_says_nothing(tmp_path: Path) -> None:
    made = trainer(tmp_path, Clock(), 0.0, 100)
    made.train()
    made.check_losses()
    assert made.state.global_step == 3


def test_a_checkpoint_of_a_cpu_goes_on_on_a_gpu_without_a_word_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers wrote two lines about the key 'cuda', as an error; what else it finds is still told."""
    made, said = trainer(tmp_path, Clock(), 0.0), list[str]()
    made._save_rng_state(str(tmp_path))
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    logger = logging.getLogger("transformers.trainer_pt_utils")
    logger.addHandler(handler)
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET)  # as the command line may have left it in this process
    try:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        made._load_rng_state(str(tmp_path))
        assert said == []
        torch.save(
            {**torch.load(tmp_path / "rng_state.pth", weights_only=False), "cuda": 3}, tmp_path / "rng_state.pth"
        )
        made._load_rng_state(str(tmp_path))
    finally:
        logger.removeHandler(handler)
        logging.disable(before)
    assert ["Didn't manage to set back the RNG states" in line for line in said] == [True]


@pytest.mark.parametrize(("backend", "bad", "stays"), [("gloo", 9, True), ("nccl", 9, False), ("nccl", 1, True)])
def test_a_group_of_gpus_is_ended_with_the_training_but_not_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, bad: int, stays: bool
) -> None:
    """transformers leaves it: "destroy_process_group() was not called before program exit", by every process."""
    made = trainer(tmp_path, Clock(), 0.0)
    made.bad = bad
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(distributed, "get_backend", lambda *_: backend)
    try:
        with nullcontext() if bad > 1 else pytest.raises(UserError, match="diverged"):
            made.train()
        assert distributed.is_initialized() == stays
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
