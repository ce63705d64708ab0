"""What the trainings of both stages tell of themselves: how fast they are, and that they have diverged."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from computing.meeting import part
from computing.training_errors import diverged
from computing.training_progress import Throughput
from operating_room.errors import UserError


class WatchedTrainer(Trainer):
    """transformers' Trainer, which adds `samples_per_s` and `data_wait` to the numbers it logs.

    Args:
        samples_in: the entry of a batch that has an element for each sample.
        rate_setting: the name of the learning rate, for who has to lower it.
        options: what Trainer takes.
    """

    def __init__(self, samples_in: str, rate_setting: str, **options: Any) -> None:
        super().__init__(**options)
        self.add_callback(_AsAsked())
        self.throughput = Throughput(self.args.world_size)
        self._samples_in, self._rate_setting = samples_in, rate_setting
        self._steps: list[int] = []  # of the losses that were not looked at yet
        self._losses: list[Float[Tensor, ""]] = []

    def train(self, *arguments: Any, **options: Any) -> TrainOutput:
        """As Trainer does; the processes of a training on GPUs have nothing to say to each other afterwards."""
        told = super().train(*arguments, **options)
        part()
        return told

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Called by Trainer for the micro-batches of a step."""
        with self.throughput.waiting():
            batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.count(sum(len(batch[self._samples_in]) for batch in batches))
        return batches, items

    def watch(self, loss: Float[Tensor, ""]) -> None:
        """Remember the loss of a micro-batch for `check_losses`: to look now would be to wait for the device."""
        self._steps.append(self.state.global_step + 1)
        self._losses.append(loss.detach())

    def check_losses(self) -> None:
        """Look at the losses since the last time.

        Raises:
            UserError: one is no number; the first of them is told.
        """
        steps, values = self._steps, torch.stack(self._losses).tolist() if self._losses else []
        self._steps, self._losses = [], []
        for step, value in zip(steps, values):
            if not math.isfinite(value):
                raise self.diverged(f"its loss is {value:.3g}", step)

    def diverged(self, how: str, step: int | None = None) -> UserError:
        """What to tell; `step` is counted from 1, None is the one that is being done."""
        step = self.state.global_step + 1 if step is None else step
        return diverged(Path(str(self.args.output_dir)), step, how, self._rate_setting)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by Trainer. A checkpoint of another kind of device has no state of this one, which is no error."""
        logger = logging.getLogger("transformers.trainer_pt_utils")
        logger.addFilter(_is_worth_telling)
        try:
            super()._load_rng_state(checkpoint)
        finally:
            logger.removeFilter(_is_worth_telling)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by Trainer.

        Raises:
            UserError: a loss is no number.
        """
        self.check_losses()
        super().log({**logs, **self.throughput.report()}, start_time)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """All but two lines about a key that is not there, `'cuda'`, which say nothing that a user could do."""
    return (
        re.match(r"Didn't manage to set back the RNG states of the \w+ [a-z ]+:\s*'\w+'\n", record.getMessage()) is None
    )


class _AsAsked(TrainerCallback):
    """A training that goes on logs and saves as often as it is asked now; Trainer would as the checkpoint says."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a checkpoint was loaded."""
        state.compute_steps(args, state.max_steps)
