"""Training of the three video models through transformers' Trainer (stage-1 specification, section 9).

Which clips a step sees and all that is random in it follow from the seed and the step's number, so that a run that is
stopped and resumed goes the same way as one that is not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.machine import meet, one_gpu, share, trainer_options
from operating_room.readers import read_json
from operating_room.tracking import check_wandb
from operating_room.training_progress import shown_progress
from panoptic_segmentation.checkpoints import (
    ModelCard,
    VideoModel,
    build_model,
    load_checkpoint,
    save_model,
    save_published,
)
from panoptic_segmentation.clips import ClipDataset, collate, repeat_factors
from panoptic_segmentation.config import (
    MULTI_STEP,
    Config,
    Solver,
    field_value,
    read_config,
    save_config,
    unused_summary,
)
from panoptic_segmentation.config_keys import MODEL_KEYS
from panoptic_segmentation.ground_truth import Video, find_videos, prepare
from panoptic_segmentation.model.losses import Clip, Losses
from panoptic_segmentation.model.matching import Draws
from panoptic_segmentation.optimizer import parameter_groups

MODEL_FILE, FINAL_FILE, CONFIG_FILE = "model.safetensors", "model_final.pth", "config.yaml"
_LOG_EVERY = 20  # steps
_FALL = 0.3  # share of the training in which the rate falls to 0 in the constant-linear schedule


def train(
    config: Config,
    data: Path,
    output: Path,
    prepared: Path,
    resume: bool = False,
    half: bool = False,
    workers: int = 1,
    report_to: str = "none",
) -> Path:
    """Train a model and save it as `output`/model.safetensors and model_final.pth, the configuration beside it.

    Under torchrun every process takes its share of each batch.

    Args:
        data: folder of MM-OR_data and/or 4D-OR_data.
        output: folder of the model, and of checkpoints on the way: `checkpoint-N` to resume from, and the model alone
            as `model_<N-1, seven digits>.pth`, as published.
        prepared: folder of the prepared ground truth, which is completed here.
        resume: continue from the last whole checkpoint in `output`; if there is none, start from `config.weights`.
        half: store the model in 16 bits.
        workers: processes that prepare the ground truth.
        report_to: "wandb" logs there too.

    Returns:
        the path of the model file.

    Raises:
        UserError: data or weights are missing or unreadable, or `output` cannot be written or holds an earlier training
            that is not to be resumed.
    """
    arguments = _arguments(config, output, report_to)
    is_first = arguments.process_index == 0
    if config.unused and is_first:
        print(unused_summary(config))
    torch.manual_seed(config.seed)  # initial weights
    model = build_model(config.kind, config.segmenter, config.video)
    checkpoint = last_checkpoint(output)
    if checkpoint is not None:
        if not resume:
            raise UserError(f"{checkpoint}: is of an earlier training; go on with --resume, or choose another folder")
        _check_same_model(config, checkpoint)
    if checkpoint is not None and is_first:
        print(f"resuming from {checkpoint}")
    elif checkpoint is None and config.weights:
        report = load_checkpoint(Path(config.weights), model, complete=False)
        if is_first:
            print(report)
    # The first process of all prepares for everybody. Where machines have disks of their own, the first of each other
    # machine finds nothing there and prepares, too; the rest only look.
    with arguments.main_process_first(local=False), arguments.main_process_first(local=True):
        videos, classes = training_videos(config, data, prepared, workers)
    threshold = config.clips.repeat_threshold
    clips = ClipDataset(
        videos,
        prepared,
        config.clips,
        config.test.canvas,
        seed=config.seed,
        length=config.solver.steps * config.solver.batch_size,
        factors=repeat_factors(classes, threshold) if threshold else None,
    )
    trained = TrainedModel(model, config)
    trainer = _ClipTrainer(config, trained, clips, arguments)
    path = output / MODEL_FILE
    with _one_line_errors(output):
        if is_first:
            save_config(config, output / CONFIG_FILE)
        with shown_progress(trainer):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if is_first:
        card = ModelCard(config.kind, config.segmenter, config.video, asdict(config.test))
        save_model(path, trained.result, card, half)
        save_published(output / FINAL_FILE, trained.result, config.solver.steps - 1, config.losses)
    return path


def last_checkpoint(output: Path) -> Path | None:
    """The checkpoint of the highest step in `output` that was written to its end: its last file is whole."""
    for path in sorted(output.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name), reverse=True):
        try:
            if read_json(path / TRAINER_STATE_NAME)["global_step"] > 0:
                return path
        except (UserError, KeyError, TypeError):
            print(f"{path}: was not written to its end; left out")
    return None


def _check_same_model(config: Config, checkpoint: Path) -> None:
    """Compare with the configuration that was saved beside a checkpoint.

    Raises:
        UserError: the checkpoint is of another model.
    """
    path = checkpoint.parent / CONFIG_FILE
    if not path.is_file():
        return
    there = read_config(path)
    for key in MODEL_KEYS:
        mine, theirs = field_value(config, key), field_value(there, key)
        if mine != theirs:
            raise UserError(f"{checkpoint}: {key} was {theirs!r} and is now {mine!r}; choose another folder with --out")


@contextmanager
def _one_line_errors(output: Path) -> Generator[None]:
    """Say in one line that the disk is full, and what a process that reads clips complained of."""
    try:
        yield
    except UserError as error:  # torch puts the traceback of the other process around it
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{output}: cannot be written ({reason}); check free space and permissions") from error


def training_videos(config: Config, data: Path, prepared: Path, workers: int = 1) -> tuple[list[Video], list[set[int]]]:
    """The videos of the configured training data and the classes in each of their frames.

    Their ground truth is prepared below `prepared`.
    """
    dataset = Dataset(data)
    videos, classes = [], []
    for choice in config.train_choices:
        chosen = find_videos(dataset, choice.takes(dataset))
        truth = prepare(chosen, prepared, choice.ground_truth_name, config.test.canvas, workers)
        videos += chosen
        frames = [frame for video in truth["annotations"] for frame in video["annotations"]]
        classes += [{segment["category_id"] for segment in frame["segments_info"]} for frame in frames]
    return videos, classes


class TrainedModel(nn.Module):
    """A video model in training and, if configured, the running average of its weights."""

    def __init__(self, model: VideoModel, config: Config) -> None:
        super().__init__()
        self.model = model
        self.decay = config.solver.average_decay
        self.average = copy.deepcopy(model).requires_grad_(False).eval() if self.decay else None
        self.guided_steps = config.solver.steps // 2
        scale = config.clips.frames if config.kind == "offline" else 1  # its clips are one picture each
        self.settings = replace(config.losses, points=config.losses.points * scale)
        self.is_guided = config.kind != "ctvis"

    def forward(
        self, frames: Float[Tensor, "clips frames 3 h w"], clips: Sequence[Clip], draws: Sequence[Draws], step: int
    ) -> Losses:
        """The weighted loss terms of a training step."""
        if self.is_guided:
            return self.model(frames, clips, self.settings, draws, step < self.guided_steps)
        return self.model(frames, clips, self.settings, draws)

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


def rate_factor(solver: Solver) -> Callable[[int], float]:
    """Factor of the learning rate at each step."""

    def factor(step: int) -> float:
        start = solver.warmup_factor
        warm = min(1.0, start + (1 - start) * step / solver.warmup_steps) if solver.warmup_steps else 1.0
        if solver.schedule == MULTI_STEP:
            return warm * solver.gamma ** sum(step >= milestone for milestone in solver.milestones)
        return warm * min(1.0, (1 - step / solver.steps) / _FALL)

    return factor


class _ClipTrainer(Trainer):
    """Clips in their order, our losses."""

    def __init__(self, config: Config, model: TrainedModel, clips: ClipDataset, arguments: TrainingArguments) -> None:
        optimizer = AdamW(parameter_groups(model.model, config.rates), fused=True)
        schedule = LambdaLR(optimizer, rate_factor(config.solver))
        super().__init__(
            model,
            arguments,
            data_collator=collate,
            train_dataset=clips,
            callbacks=[_Saving(model, config)],
            optimizers=(optimizer, schedule),
        )
        self.clips = clips
        self.first_seed = config.seed
        self.terms: list[Losses] = []  # since they were logged last

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.clips)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        step, device = self.state.global_step, inputs["frames"].device
        here = len(inputs["clips"])
        first = (step * self.args.world_size + self.args.process_index) * here  # place in the training's order
        seeds = [np.random.SeedSequence([self.first_seed, 2, first + i]).generate_state(1) for i in range(here)]
        draws = [Draws(torch.Generator(device).manual_seed(int(seed[0]))) for seed in seeds]
        clips = [Clip(c.classes.to(device), c.masks.to(device), c.present.to(device)) for c in inputs["clips"]]
        losses = model(inputs["frames"], clips, draws, step)
        self.terms.append({name: value.detach() for name, value in losses.items() if not name[-1].isdigit()})
        return torch.stack(list(losses.values())).sum()

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the last layer's loss terms, as this process has seen them."""
        if self.terms:
            logs |= {name: float(torch.stack([t[name] for t in self.terms]).mean()) for name in self.terms[0]}
            self.terms.clear()
        super().log(logs, *args, **options)


def check_batch(solver: Solver, processes: int) -> None:
    """Every process gets as many clips.

    Raises:
        UserError: the clips of a step cannot be dealt out so.
    """
    if solver.batch_size % processes:
        raise UserError(f"SOLVER.IMS_PER_BATCH {solver.batch_size} must be a multiple of the {processes} processes")


def _arguments(config: Config, output: Path, report_to: str) -> TrainingArguments:
    solver, processes = config.solver, share().processes
    check_batch(solver, processes)
    if report_to not in ("none", "wandb"):
        raise UserError(f"--report-to {report_to}: expected one of none, wandb")
    if report_to == "wandb":
        check_wandb("--report-to wandb")
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
        dataloader_num_workers=config.workers,
        save_steps=solver.checkpoint_every,
        save_total_limit=2,
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a checkpoint was written."""
        if state.is_world_process_zero:
            iteration = state.global_step - 1  # published files count from 0
            path = Path(str(args.output_dir)) / f"model_{iteration:07d}.pth"
            save_published(path, self.model.result, iteration, self.config.losses)
