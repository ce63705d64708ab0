"""Training of the scene-graph model on a file of training samples (stage-2 specification, sections 5 and 6)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.prompts import IMAGE_MARK, conversation
from scene_graph_generation.checkpoints import WEIGHTS, save_model
from scene_graph_generation.collate import Example
from scene_graph_generation.config import Experiment, TrainConfig, with_vocabulary
from scene_graph_generation.loss import answer_frequencies, token_weights, weighted_loss
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.timepoint import ExampleReader
from scene_graph_generation.tokens import Tokens, train_tokens
from scene_graph_generation.training_data import EpochOrder, TrainingSamples, read_records, record_text


def train(experiment: Experiment, data: Sequence[Path], dataset: Dataset, out: Path) -> MM2SG:
    """Train a model from scratch and write its folder to `out`; goes on from the last checkpoint found there.

    Args:
        experiment: model and settings.
        data: files of training samples, as `samples.training_records` makes them.
        dataset: where the files are that the samples name.
        out: gets the model folder, and checkpoints while training runs.

    Raises:
        UserError: the samples or a file they name are damaged, or `out` already holds a trained model.
    """
    if (out / WEIGHTS).exists():
        raise UserError(f"{out}: holds a trained model already; remove it or choose another folder")
    records = [record for path in data for record in read_records(path)]
    tokens = train_tokens((record_text(record) for record in records), experiment.vocabulary)
    config = with_vocabulary(experiment.model, tokens.size)
    with torch.random.fork_rng():
        torch.manual_seed(experiment.train.seed)
        model = MM2SG(config)
    samples = TrainingSamples(records, dataset, experiment.train, ExampleReader(config, tokens, keep_views=True))
    weights = _weights(samples, tokens) if experiment.train.token_weights else None
    trainer = SceneGraphTrainer(model, samples, experiment.train, weights, out)
    trainer.train(resume_from_checkpoint=_last_checkpoint(out))
    save_model(out, model, tokens)
    return model


class SceneGraphTrainer(Trainer):
    """transformers' Trainer with our loss, order of samples and batches."""

    def __init__(
        self, model: MM2SG, samples: TrainingSamples, config: TrainConfig, weights: Tensor | None, out: Path
    ) -> None:
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
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=config.log_steps,
            report_to="none",
            seed=config.seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=not sys.stderr.isatty(),
        )
        super().__init__(model=model, args=arguments, train_dataset=samples, data_collator=_as_batch)
        self.remove_callback(PrinterCallback)
        self.add_callback(LossLog(out / "log.jsonl"))
        self.loss_is_scaled_for_ga = False
        self._config = config
        self._weights = weights
        self._lengths = [len(record_text(record).split()) for record in samples.records]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weighted cross entropy over the supervised tokens of the micro-batch."""
        output = model(inputs["examples"])
        weights = None if self._weights is None else self._weights.to(output.logits.device)
        loss = weighted_loss(output.logits, output.labels, weights)
        return (loss, output) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return EpochOrder(self._lengths, self._config.batch_size, self._config.seed)


class LossLog(TrainerCallback):
    """Appends what Trainer logs (step, loss, learning rate) to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by Trainer."""
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def _weights(samples: TrainingSamples, tokens: Tokens) -> Tensor:
    answers = (tokens.encode(conversation(IMAGE_MARK), samples.answer(i))[1] for i in range(len(samples)))
    return token_weights(answer_frequencies(answers, tokens.names()), tokens.names(), tokens.size)


def _as_batch(examples: list[Example]) -> dict[str, list[Example]]:
    return {"examples": examples}


def _last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint that was written to its end (its state comes last)."""
    complete = [path.parent for path in out.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None
