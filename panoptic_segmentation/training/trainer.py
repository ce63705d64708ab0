"""transformers' Trainer with our order, losses and files (stage-1 specification, section 9)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from computing.machine import one_gpu, trainer_options
from computing.meeting import meet
from computing.tracking import check_wandb
from computing.training_checkpoints import keep_newest, written_or_removed
from computing.watched_trainer import WatchedTrainer
from operating_room.errors import UserError
from operating_room.files.tensors import is_finite
from operating_room.work.processes import own_threads, share
from panoptic_segmentation.config.config_keys import MULTI_STEP, POLYNOMIAL
from panoptic_segmentation.config.settings import Config, Solver
from panoptic_segmentation.data.clips import ClipDataset, batch_of, collate
from panoptic_segmentation.model.losses import Clip, Losses
from panoptic_segmentation.model.matching import Draws
from panoptic_segmentation.training.optimizer import parameter_groups
from panoptic_segmentation.weights.checkpoints import VideoModel, save_published

KEPT = 2  # checkpoints, the newest
_LOG_EVERY = 20  # steps
_FALL = 0.3  # share of the training in which the rate falls to 0 in the constant-linear schedule
_POWER = 0.9  # of the polynomial schedule


class TrainedModel(nn.Module):
    """A video model in training and, if configured, the running average of its weights."""

    def __init__(self, model: VideoModel, config: Config) -> None:
        super().__init__()
        self.model = model
        self.decay = config.solver.average_decay
        self.average = copy.deepcopy(model).requires_grad_(False).eval() if self.decay else None
        self.kind, self.steps = config.kind, config.solver.steps
        scale = config.clips.frames if config.kind == "offline" else 1  # its clips are one picture each
        self.settings = replace(config.losses, points=config.losses.points * scale)

    def forward(
        self, frames: Float[Tensor, "clips frames 3 h w"], clips: Sequence[Clip], draws: Sequence[Draws], step: int
    ) -> Losses:
        """The weighted loss terms of a training step."""
        arguments = frames, clips, self.settings, draws
        if self.kind == "ctvis":
            return self.model(*arguments)
        if self.kind == "encoder_only":
            return self.model(*arguments, step / self.steps)
        return self.model(*arguments, step < self.steps // 2)  # guided in the first half

    @torch.no_grad()
    def update_average(self, steps: int) -> None:
        """Take the weights after `steps` steps into the average; other state is copied."""
        if self.average is None:
            return
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for mean, new in zip(self.average.parameters(), self.model.parameters()):
            mean.lerp_(new, 1 - decay)
        for mean, new in zip(self.average.buffers(), self.model.buffers()):
            mean.copy_(new)

    @property
    def result(self) -> VideoModel:
        """The model to keep."""
        return self.average or self.model


def rate_factor(solver: Solver, of_encoder: bool = False) -> Callable[[int], float]:
    """Factor of the learning rate at each step.

    Args:
        of_encoder: of a vision transformer, whose warm-up may begin where that of what is new ends (EoMT).
    """
    waits = of_encoder and solver.encoder_warmup_steps > 0
    begin, length = (solver.warmup_steps, solver.encoder_warmup_steps) if waits else (0, solver.warmup_steps)

    def factor(step: int) -> float:
        if step < begin:
            return 0.0
        start = solver.warmup_factor
        warm = min(1.0, start + (1 - start) * (step - begin) / length) if length else 1.0
        if solver.schedule == MULTI_STEP:
            return warm * solver.gamma ** sum(step >= milestone for milestone in solver.milestones)
        if solver.schedule == POLYNOMIAL:
            return warm * (1 - min(step / solver.steps, 1.0)) ** _POWER
        return warm * min(1.0, (1 - step / solver.steps) / _FALL)

    return factor


class ClipTrainer(WatchedTrainer):
    """Clips in their order, our losses."""

    def __init__(self, config: Config, model: TrainedModel, clips: ClipDataset, arguments: TrainingArguments) -> None:
        optimizer = AdamW(parameter_groups(model.model, config.rates), fused=True)
        factors = [rate_factor(config.solver, bool(group["of_encoder"])) for group in optimizer.param_groups]
        schedule = LambdaLR(optimizer, factors)
        super().__init__(
            samples_in="clips",
            rate_setting="SOLVER.BASE_LR",
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=clips,
            callbacks=[_Saving(model, config)],
            optimizers=(optimizer, schedule),
        )
        self.clips = clips
        self.trained = model
        self.first_seed = config.seed
        self.terms: list[Losses] = []  # since they were logged last

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.clips)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        frames = batch_of(inputs["frames"])
        step, device = self.state.global_step, frames.device
        here = len(inputs["clips"])
        first = (step * self.args.world_size + self.args.process_index) * here  # place in the training's order
        seeds = [np.random.SeedSequence([self.first_seed, 2, first + i]).generate_state(1) for i in range(here)]
        draws = [Draws.seeded(int(seed[0]), device) for seed in seeds]
        clips = [clip.to(device) for clip in inputs["clips"]]
        try:
            losses = model(frames, clips, draws, step)
        except UserError:  # predictions that are no numbers cannot be matched: the loss before says when it began
            self.check_losses()
            raise
        self.terms.append({name: value.detach() for name, value in losses.items() if not name[-1].isdigit()})
        loss = torch.stack(list(losses.values())).sum()
        self.watch(loss)
        return loss

    def check_weights(self) -> None:
        """Before they are written.

        Raises:
            UserError: they or a loss are no numbers any more.
        """
        self.check_losses()
        if not all(map(is_finite, self.trained.state_dict().values())):
            raise self.diverged("its weights are no finite numbers any more")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Called by Trainer, in every process.

        Raises:
            UserError: the weights are no numbers any more, or the checkpoint cannot be written.
        """
        self.check_weights()
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with written_or_removed(checkpoint):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            with suppress(PermissionError):  # of disks without permissions
                # safetensors takes away what the user's umask lets others do.
                (checkpoint / SAFE_WEIGHTS_NAME).chmod((checkpoint / TRAINER_STATE_NAME).stat().st_mode)
        keep_newest(Path(str(self.args.output_dir)), KEPT, self.state.global_step)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Called by Trainer. A checkpoint in float16 has a scale of gradients, for which other formats have no use."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the last layer's loss terms, as this process has seen them."""
        if self.terms:
            logs |= {name: float(torch.stack([t[name] for t in self.terms]).mean()) for name in self.terms[0]}
            self.terms.clear()
        super().log(logs, *args, **options)


def readers(config: Config) -> int:
    """Processes that read clips for this one: all processes together have no more than processors."""
    return min(config.workers, own_threads())


def check_batch(solver: Solver, processes: int) -> None:
    """Every process gets as many clips.

    Raises:
        UserError: the clips of a step cannot be dealt out so.
    """
    if solver.batch_size % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH {solver.batch_size} must be a multiple of the {processes} processes")


def check_log(report_to: str) -> None:
    """Find out before hours of work where they are to be logged.

    Raises:
        UserError: there is no such place, or it cannot be used.
    """
    if report_to not in ("none", "wandb"):
        raise UserError(f"--report-to {report_to}: expected one of none, wandb")
    if report_to == "wandb":
        check_wandb("--report-to wandb")


def training_arguments(config: Config, output: Path, report_to: str) -> TrainingArguments:
    solver, processes = config.solver, share().processes
    check_batch(solver, processes)
    check_log(report_to)
    meet()
    arguments = TrainingArguments(
        output_dir=str(output),
        run_name=output.name,
        max_steps=solver.steps,
        per_device_train_batch_size=solver.batch_size // processes,
        max_grad_norm=solver.clip_norm if solver.clip else 0.0,
        **trainer_options(solver.amp_type if solver.mixed_precision else "no"),
        ddp_find_unused_parameters=False,
        seed=config.seed,
        dataloader_num_workers=readers(config),
        logging_nan_inf_filter=False,  # a loss that is no number ends the training
        save_steps=solver.checkpoint_every,
        logging_steps=min(_LOG_EVERY, solver.checkpoint_every),
        report_to=report_to,
        disable_tqdm=True,  # progress is shown in our way
        remove_unused_columns=False,
    )
    return one_gpu(arguments)


class _Saving(TrainerCallback):
    """Keeps the running average of the weights, and the model of each checkpoint under its published name."""

    def __init__(self, model: TrainedModel, config: Config) -> None:
        self.model, self.config = model, config

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After the optimiser's step."""
        self.model.update_average(state.global_step)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a checkpoint was loaded, whose training may have been stopped before the model was written."""
        if state.global_step and not self._path(args, state).exists():
            self.on_save(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a checkpoint was written."""
        if state.is_world_process_zero:
            save_published(self._path(args, state), self.model.result, state.global_step - 1, self.config.losses)

    def _path(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The model's file of this step; published files count from 0."""
        return Path(str(args.output_dir)) / f"model_{state.global_step - 1:07d}.pth"
