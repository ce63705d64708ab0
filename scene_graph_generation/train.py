"""Training of the scene-graph model on a file of training samples (stage-2 specification, sections 5 and 6)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.prompts import conversation
from operating_room.readers import read_json
from operating_room.scene_graph import parse, target_text
from operating_room.takes import find_take
from operating_room.vocabulary import PREDICATES
from scene_graph_generation.checkpoints import WEIGHTS, save_model
from scene_graph_generation.collate import Example
from scene_graph_generation.config import Experiment, TrainConfig, with_vocabulary
from scene_graph_generation.loss import answer_frequencies, token_weights, weighted_loss
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.sampler import length_grouped_order
from scene_graph_generation.samples import Record, augment_record
from scene_graph_generation.timepoint import Evidence, ExampleReader
from scene_graph_generation.tokens import Tokens, train_tokens


def train(experiment: Experiment, data: Path, dataset: Dataset, out: Path) -> MM2SG:
    """Train a model from scratch and write its folder to `out`; goes on from the last checkpoint found there.

    Args:
        experiment: model and settings.
        data: a file of training samples, as `samples.training_records` makes them.
        dataset: where the files are that the samples name.
        out: gets the model folder, and checkpoints while training runs.

    Raises:
        UserError: the samples or a file they name are damaged, or `out` already holds a trained model.
    """
    if (out / WEIGHTS).exists():
        raise UserError(f"{out}: holds a trained model already; remove it or choose another folder")
    torch.manual_seed(experiment.train.seed)
    records = read_records(data)
    tokens = train_tokens((_text(record) for record in records), experiment.vocabulary)
    config = with_vocabulary(experiment.model, tokens.size)
    model = MM2SG(config)
    samples = TrainingSamples(records, dataset, experiment.train, ExampleReader(config, tokens, keep_views=True))
    weights = _weights(samples, tokens) if experiment.train.token_weights else None
    trainer = SceneGraphTrainer(model, samples, experiment.train, weights, out)
    trainer.train(resume_from_checkpoint=_last_checkpoint(out))
    save_model(out, model, tokens)
    return model


class TrainingSamples(torch.utils.data.Dataset[Example]):
    """Training records as examples, augmented anew in every epoch.

    An element is asked for by (epoch, index), so that what it looks like depends on nothing else: a resumed training
    sees what the uninterrupted one would have seen.
    """

    def __init__(self, records: Sequence[Record], dataset: Dataset, config: TrainConfig, read: ExampleReader) -> None:
        self.records = records
        self._dataset = dataset
        self._config = config
        self._read = read

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, place = index
        config, generator = self._config, Random(f"{self._config.seed} {epoch} {place}")
        record = self.records[place]
        augmented = augment_record(record, generator, config.modality_dropout)
        prompt, _ = _turns(augmented)
        evidence = Evidence.of_record(augmented, self._dataset.root)
        if not config.shuffle_views:
            evidence = Evidence(self._slots(record), evidence.cloud, evidence.audio, evidence.masks)
        prompt = disturb_memory(prompt, config.memory_noise, generator)
        return self._read(evidence, conversation(prompt), self.answer(place))

    def answer(self, index: int) -> str:
        """What is to be said; in canonical order the triplets are sorted."""
        answer = _turns(self.records[index])[1]
        return target_text(sorted(parse(answer))) if self._config.canonical_order else answer

    def _slots(self, record: Record) -> tuple[Path | None, ...]:
        """The pictures in the slots of the evaluation, so that a slot is always the same camera."""
        take_name, _, frame_id = record["id"].rpartition("_")
        timepoint = self._dataset.take(find_take(take_name)).timepoint(frame_id)
        return Evidence.of_timepoint(timepoint).views


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
        self._lengths = [len(_text(record).split()) for record in samples.records]

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
        world = self._config.accumulation * self.args.world_size
        return EpochOrder(self._lengths, self._config.batch_size, world, self._config.seed)


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


class EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of all samples, grouped by length; Trainer announces the epoch."""

    def __init__(self, lengths: Sequence[int], batch: int, world: int, seed: int) -> None:
        self._lengths, self._batch, self._world, self._seed = lengths, batch, world, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        for index in length_grouped_order(self._lengths, self._batch, self._world, generator):
            yield self._epoch, index


def read_records(path: Path) -> list[Record]:
    """The records of a training file.

    Raises:
        UserError: it is damaged, empty, or a record has no question and answer.
    """
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: expected a list of training samples; make it again")
    for record in records:
        try:
            _turns(record)
            str(record["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a sample needs an id and two turns, got {str(record)[:80]}") from error
    return records


_ENTRY = re.compile(r"(?<=[:;] )([^,;:<]+,[^,;:<]+,)([^,;:<]+)(; ?|)")


def disturb_memory(prompt: str, share: float, generator: Random) -> str:
    """Drop a share of the memory's entries or alter their predicate, as a model's own errors would.

    Memory at inference holds what the model said before; trained on true memory alone it would trust it blindly.
    """

    def disturb(entry: re.Match[str]) -> str:
        if generator.random() >= share:
            return entry[0]
        return entry[1] + generator.choice(PREDICATES) + entry[3] if generator.random() < 0.5 else ""

    before, mark, rest = prompt.partition("<memory_start>")
    memory, end, after = rest.partition("<memory_end>")
    return before + mark + _ENTRY.sub(disturb, memory) + end + after


def _weights(samples: TrainingSamples, tokens: Tokens) -> Tensor:
    answers = (tokens.encode(conversation("<image>"), samples.answer(i))[1] for i in range(len(samples)))
    return token_weights(answer_frequencies(answers, tokens.names()), tokens.names(), tokens.size)


def _as_batch(examples: list[Example]) -> dict[str, list[Example]]:
    return {"examples": examples}


def _turns(record: Record) -> tuple[str, str]:
    question, answer = (turn["value"] for turn in record["conversations"])
    return question, answer


def _text(record: Record) -> str:
    return " ".join(_turns(record))


def _last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint that was written to its end (its state comes last)."""
    complete = [path.parent for path in out.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None
