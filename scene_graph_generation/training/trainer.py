"""The one engine of training: transformers' Trainer on accelerate, for one process, torchrun and DeepSpeed.

What is ours: the loss, the order of the samples, bad samples, what a checkpoint holds (stage-2 specification, sections
5, 6 and 9).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState, TrainingArguments

from computing.cpu_attention import attention_on, forward_pass
from computing.machine import allow_tf32, one_gpu, trainer_options
from computing.meeting import gather, meet
from computing.training_checkpoints import keep_newest, written_or_removed
from computing.training_progress import LossLog
from computing.watched_trainer import WatchedTrainer
from operating_room.errors import UserError
from operating_room.files.tensors import is_finite
from operating_room.work.processes import join_alone, own_threads
from scene_graph_generation.config.settings import TrainConfig
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.modalities import MODALITIES
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.bad_samples import BAD_IN_A_ROW, BadSamples
from scene_graph_generation.samples.sampler import EpochOrder, length_grouped_order, similar_length_order
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.deepspeed_settings import deepspeed_settings
from scene_graph_generation.training.loss import answer_loss
from scene_graph_generation.training.presence import TripletTeacher, load_teacher, save_teacher
from scene_graph_generation.training.pretrain import optimizer_after_pretraining
from scene_graph_generation.weights.adapters import is_adapter, parameter_groups


@dataclass(frozen=True)
class ModelFolder:
    """How the model is written to a folder and read back, exactly as it is trained."""

    save: Callable[[Path], None]
    load: Callable[[Path], None]


class CheckedSamples(torch.utils.data.Dataset[tuple[Example | None, list[str]]]):
    """Training samples; one that cannot be used is replaced by the next that can, and named."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Example | None, list[str]]:
        epoch, place = index
        bad = []
        for step in range(min(len(self), BAD_IN_A_ROW)):
            other = (place + step) % len(self)
            try:
                return self._samples[epoch, other], bad
            except UserError as error:
                bad.append(f"sample {self._samples.records[other]['id']}: {error}")
        return None, bad


class _TellsEpoch(TrainerCallback):
    """Tells the order its epoch: on several processes what a resumed epoch is read through hides it from Trainer."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by Trainer, in the middle of an epoch, too."""
        self._order.set_epoch(int((state.epoch or 0.0) + 1e-6))  # a sum of many fractions


class SceneGraphTrainer(WatchedTrainer):
    """transformers' Trainer with our loss, order of samples and batches.

    Args:
        model: its trainable parameters are trained.
        samples: what it is trained on.
        lengths: of the samples, words.
        config: how.
        weights: of each token in the loss, or None.
        out: folder of checkpoints and the log.
        folder: how checkpoints hold the model.
        bad: what is done about bad samples.
    """

    def __init__(
        self,
        model: MM2SG,
        samples: TrainingSamples,
        lengths: list[int],
        config: TrainConfig,
        weights: Tensor | None,
        out: Path,
        folder: ModelFolder,
        bad: BadSamples,
    ) -> None:
        super().__init__(
            samples_in="examples",
            rate_setting="--learning_rate",
            model=model,
            args=training_arguments(config, out, model.settings.language.width),
            train_dataset=CheckedSamples(samples),
            data_collator=_as_batch,
        )
        similar = config.order == "similar"
        self._order = EpochOrder(len(lengths), self._similar_lengths if similar else self._grouped_lengths)
        self.add_callback(_TellsEpoch(self._order))
        self.add_callback(LossLog(out / "log.jsonl"))
        self.loss_is_scaled_for_ga = False
        self.skipped: dict[str, None] = {}  # a line for each bad sample, of all processes; as of the last log
        self.shortened = 0  # samples whose memory was shortened, of all processes; as of the last log
        self._untold = 0  # of these in this process since then
        self._says_shortened = True
        self._model = model
        self._config = config
        self._weights = None if weights is None else weights.to(self.args.device)
        self._folder = folder
        self._bad = bad
        self._out = out
        self._lengths = lengths

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weighted cross entropy over the supervised tokens of the micro-batch."""
        examples = self._usable(inputs)
        seeing = self._model.vision is not None  # a model of text has nothing in front of its language model
        anchor = self._anchor(examples[0]) if self.is_deepspeed_enabled and seeing else None
        # Layers that are computed again in the backward pass are so outside of this, and must find what they left.
        again = self._config.gradient_checkpointing
        with attention_on(self.args.device, self._config.bf16 and not again):
            output = model(examples)
        loss = answer_loss(output.logits, output.labels, self._weights)
        if isinstance(teacher := self._model.teacher, TripletTeacher):
            loss = loss + self._config.presence * teacher.loss(output.presence, [examples[i] for i in output.answered])
        loss = loss if anchor is None else loss + anchor
        self.watch(loss)
        return (loss, output) if return_outputs else loss

    def _anchor(self, like: Example) -> Tensor:
        """Zero, but with a gradient of zero for everything in front of the language model.

        DeepSpeed puts gradients into buckets in the order in which they come, and sums buckets over the processes. A
        process whose batch has no cloud or mask would fill them differently. As this comes before the forward pass, it
        is last in the backward pass, and there all these gradients become ready in one order. A cloud of one point
        leaves the statistics of batch normalisation alone.
        """
        settings = self._model.settings
        size, ego = settings.vision.image_size, int(settings.pooler.branches == "ego_exo")
        everything = Example(
            ids=like.ids[:1],
            views=torch.zeros(1 + ego, 3, size, size),
            others={row.name: least for row in MODALITIES if (least := row.least(settings)) is not None},
            ego=ego,
        )
        with forward_pass(self.args.device, self._config.bf16):  # DeepSpeed's own autocast is around the model only
            return 0.0 * self._model.visual_tokens([everything.to(like.ids.device)])[0].sum()

    def _usable(self, inputs: dict[str, Any]) -> list[Example]:
        """The examples of a batch; says what is wrong with bad samples and whose memory was shortened.

        Raises:
            UserError: see `BadSamples.usable`.
        """
        examples = self._bad.usable(inputs["examples"], inputs["bad"])
        shortened = [example.dropped_memory for example in examples if example.dropped_memory]
        if shortened and self._says_shortened:
            cut = f"a sample's memory was shortened by its {shortened[0]} oldest characters to fit the context"
            print(f"{cut}; others may follow, the log counts them", file=sys.stderr)
            self._says_shortened = False
        self._untold += len(shortened)
        return examples

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by Trainer in every process; adds the counts of what was skipped and shortened in all of them."""
        new = [line for line in self._bad.skipped if line not in self.skipped]
        for lines, shortened in gather((new, self._untold)):
            self.skipped |= dict.fromkeys(lines)
            self.shortened += shortened
        self._untold = 0
        counts = {"skipped_samples": len(self.skipped), "shortened_memories": self.shortened}
        super().log({**logs, **{name: count for name, count in counts.items() if count}}, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; with a learning rate of its own for the projector in the published groups, or for all that sees.

        Of a model from scratch, if so asked, Muon for matrices.
        """
        apart = (self._config.visual_learning_rate, self._config.matrix_learning_rate)
        if self.optimizer is None and any(rate is not None for rate in apart):
            self.optimizer = optimizer_after_pretraining(self._model, self._config)
        config, names = self._config, (name for name, _ in self._model.named_parameters())
        if self.optimizer is None and (config.projector_learning_rate is not None or any(map(is_adapter, names))):
            groups = parameter_groups(
                self._model, config.learning_rate, config.weight_decay, config.projector_learning_rate
            )
            self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.999))
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self._order

    def _similar_lengths(self, epoch: int) -> list[int]:
        generator = Random(f"order {self._config.seed} {epoch}")
        return similar_length_order(self._lengths, self._config.batch_size, generator)

    def _grouped_lengths(self, epoch: int) -> list[int]:
        config = self._config
        sign = {"balanced": 1, "published": -1, "random": 0}[config.order]
        lengths = [sign * length for length in self._lengths]
        generator = torch.Generator().manual_seed(config.seed + 1_000_003 * epoch)
        world = config.accumulation * self.args.world_size
        return length_grouped_order(lengths, config.batch_size, world, generator)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Called by Trainer, in every process.

        Raises:
            UserError: a loss or the weights are no numbers any more, or the checkpoint cannot be written.
        """
        self.check_losses()
        if not all(is_finite(parameter) for parameter in self._model.parameters() if parameter.requires_grad):
            raise self.diverged("its weights are no finite numbers any more")
        path = self._out / f"checkpoint-{self.state.global_step}"
        with written_or_removed(path):
            super()._save_checkpoint(model, trial)
        keep_newest(self._out, self._config.save_total_limit, self.state.global_step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Called by Trainer, in every process.

        With DeepSpeed it would copy all weights to main memory first, in each of them, of which nobody needs one.
        """
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = self._out if output_dir is None else Path(output_dir)
            self._folder.save(folder)
            if self._model.teacher is not None:
                save_teacher(self._model.teacher, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._folder.load(Path(resume_from_checkpoint))
        if self._model.teacher is not None:
            load_teacher(self._model.teacher, Path(resume_from_checkpoint))


def readers(config: TrainConfig) -> int:
    """Processes that read samples for this one: all processes together have no more than processors."""
    return min(config.workers, own_threads())


def training_arguments(config: TrainConfig, out: Path, width: int) -> TrainingArguments:
    """Our settings as transformers names them today; `width` is the language model's.

    Raises:
        UserError: the DeepSpeed configuration is damaged, or the GPU has no bfloat16.
    """
    machine = trainer_options("bfloat16" if config.bf16 else "no")
    meet()  # before DeepSpeed is told that it is alone
    deepspeed = None
    if config.deepspeed is not None:
        deepspeed = deepspeed_settings(config.deepspeed, config.bf16, width)
        join_alone()
        machine |= {"bf16": False, "ddp_backend": "gloo" if machine["use_cpu"] else None}  # autocast is DeepSpeed's
    if config.tf32:
        allow_tf32()
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        lr_scheduler_type="cosine",
        max_grad_norm=config.max_grad_norm,
        **machine,
        ddp_find_unused_parameters=True,  # a batch without clouds leaves the point encoder out
        deepspeed=deepspeed,
        dataloader_num_workers=readers(config),
        save_steps=config.save_steps,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # a loss that is no number ends the training
        report_to=config.report_to,
        run_name=config.run_name,
        seed=config.seed,
        remove_unused_columns=False,
        disable_tqdm=True,  # progress is shown in our way
    )
    return one_gpu(arguments)


def _as_batch(items: list[tuple[Example | None, list[str]]]) -> dict[str, list[Any]]:
    return {"examples": [example for example, _ in items], "bad": [reason for _, bad in items for reason in bad]}
