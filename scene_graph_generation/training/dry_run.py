"""What a training would do, without doing it: sizes, memory, steps, files, and whether every input is there.

Nothing is fetched and no weight is allocated: the model is built on PyTorch's meta device.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from computing.machine import gpus, require_gpus
from computing.training_checkpoints import numbered_checkpoints, require_begun, step_of
from operating_room.domain.domain import find_domain
from operating_room.errors import UserError, failing
from operating_room.files.atomic import require_folder
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import Experiment, LanguageConfig, with_labels
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import Records
from scene_graph_generation.samples.sample_files import Joined
from scene_graph_generation.samples.training_data import read_records, record_text
from scene_graph_generation.training.deepspeed_settings import zero_stage
from scene_graph_generation.training.requirements import (
    check_start,
    check_start_domain,
    check_text_only,
    lacking,
    missing_files,
    missing_inputs,
    output_folder,
)
from scene_graph_generation.training.resuming import BEGUN, already_done, check_goes_on, whole_checkpoint
from scene_graph_generation.training.starting_point import check_places, found_base, is_sized, meta_model, sizes_of
from scene_graph_generation.training.training_memory import (
    checkpoint_bytes,
    kept_per_point,
    memory_per_gpu,
    usual_and_worst_load,
)
from scene_graph_generation.weights.adapters import is_adapter
from scene_graph_generation.weights.base_models import LANGUAGE_BASE

GB = 1e9  # bytes
PARTS = {
    "vision.": "vision tower",
    "pooler.views.": "view pooler",
    "pooler.point_encoder.": "point encoder",
    "pooler.": "other encoders",
    "projector.": "projector",
    "language.": "language model",
}
ADAPTER = "LoRA adapter"


@dataclass(frozen=True)
class DryRun:
    """The report on a training, and what is in its way."""

    text: str
    problems: list[str]


def dry_run(experiment: Experiment, processes: int = 1, machines: int = 1) -> DryRun:
    """Report on the training that an experiment with its files describes.

    Args:
        experiment: with samples and output folder.
        processes: one per GPU, of all machines together.
        machines: with as many processes each.

    Raises:
        UserError: an experiment without samples or output folder, or settings that contradict each other.
    """
    out = output_folder(experiment)
    check_start(experiment)
    problems: list[str] = []
    dataset = _dataset(experiment, problems)
    if dataset is not None:
        experiment = replace(experiment, model=with_labels(experiment.model, dataset.domain.labels))
    model = meta_model(experiment, sizes_of(experiment))
    records = _records(experiment.files.samples, problems)
    problems += [] if dataset is None else missing_files(records, dataset.root)
    problems += missing_inputs(experiment, model)
    if dataset is not None:
        problems += failing(partial(check_places, experiment, dataset))
    pictured = (str(record["id"]) for record in records if IMAGE_MARK in record_text(record))
    problems += failing(
        lambda: check_text_only(next(pictured, None), experiment), partial(require_gpus, processes // machines)
    )
    steps = steps_of(experiment, len(records), processes)
    sections = [
        _table_of_parts(model),
        _table_of_memory(experiment, model, records, processes, problems),
        *_pretraining(experiment),
        f"{len(records)} samples, {_batch(experiment)} x {processes} GPU: {steps if records else 'no'} steps",
        *_to_fetch(experiment),
        *_outputs(experiment, model, steps, processes, out, problems),
        "inputs: " + ("all there" if not problems else f"{len(problems)} problems"),
        *(f"  {problem}" for problem in problems),
    ]
    return DryRun("\n".join(sections), problems)


def counts(model: MM2SG) -> dict[str, tuple[int, int]]:
    """Part -> numbers of trainable and frozen parameters."""
    trained, frozen = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        part = ADAPTER if is_adapter(name) else next(PARTS[start] for start in PARTS if name.startswith(start))
        (trained if parameter.requires_grad else frozen)[part] += parameter.numel()
    return {part: (trained[part], frozen[part]) for part in (*PARTS.values(), ADAPTER) if trained[part] + frozen[part]}


def steps_of(experiment: Experiment, samples: int, processes: int) -> int:
    """Optimiser steps of the training, as Trainer counts them."""
    config = experiment.train
    if config.max_steps > 0:
        return config.max_steps
    batches = math.ceil(samples / (config.batch_size * processes))
    per_epoch = max(batches // config.accumulation + bool(batches % config.accumulation), 1)
    return math.ceil(config.epochs * per_epoch)


def _to_fetch(experiment: Experiment) -> list[str]:
    """Bases that are neither folders here nor in the local cache of the hub."""
    start = experiment.start
    lines = [
        f"fetches {name} from the model hub first"
        for name in (start.base, start.vision)
        if name and not Path(name).is_dir() and ((here := found_base(name)) is None or lacking(here) is not None)
    ]
    if not is_sized(start):
        lines.append(f"  parameters and memory above, and the files below, are those of {LANGUAGE_BASE} until then")
    return lines


def _records(paths: Sequence[Path], problems: list[str]) -> Records:
    parts = []
    for path in paths:
        try:
            parts.append(read_records(path))
        except UserError as error:
            problems.append(str(error))
    return Joined(parts)


def _dataset(experiment: Experiment, problems: list[str]) -> Dataset | None:
    domain = experiment.files.domain
    try:
        dataset = Dataset(experiment.files.data, None if domain is None else find_domain(domain))
        check_start_domain(experiment.start, dataset.domain)
        return dataset
    except UserError as error:
        problems.append(str(error))
        return None


def _pretraining(experiment: Experiment) -> list[str]:
    """What comes before the first step and is not among the steps."""
    config = experiment.pretrain
    if config is None:
        return []
    dense = {"what patches show": config.patch_steps, "who holds what": config.hand_steps}
    told = [f"learns {what} first: {steps} steps of {config.batch_size}" for what, steps in dense.items() if steps]
    if config.steps:
        told.append(
            f"learns to see first: {config.steps} steps of {config.batch_size} (--pretrain_steps 0 leaves them out)"
        )
    return told


def _batch(experiment: Experiment) -> str:
    return f"{experiment.train.batch_size} per step x {experiment.train.accumulation} accumulated"


def _table_of_parts(model: MM2SG) -> str:
    rows = [(part, *numbers) for part, numbers in counts(model).items()]
    total = ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))
    lines = [f"{'parameters':<16}{'trainable':>16}{'frozen':>16}"]
    return "\n".join(lines + [f"{part:<16}{trained:>16,}{frozen:>16,}" for part, trained, frozen in (*rows, total)])


def _outputs(
    experiment: Experiment, model: MM2SG, steps: int, processes: int, out: Path, problems: list[str]
) -> list[str]:
    """The files that training writes, from the checkpoint on if there is one, and whether there is room for them."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    config = experiment.train
    one = checkpoint_bytes(experiment, model)
    checkpoint, free, existing = None, math.inf, out
    try:
        existing = require_folder(out)  # first, since nothing can be looked up in a folder that is closed
        free = shutil.disk_usage(existing).free
        if done := already_done(experiment, experiment.files.samples, out):
            problems.append(done)
        checkpoint = whole_checkpoint(out, config.deepspeed is not None, processes).path
        if checkpoint is None:
            require_begun(out, BEGUN)
        elif not done:
            check_goes_on(experiment, experiment.files.samples, out, checkpoint)
    except UserError as error:
        problems.append(str(error))
    begun = 0 if checkpoint is None else step_of(checkpoint) or 0
    saves = max(math.ceil(steps / config.save_steps) - begun // config.save_steps, 0)
    kept, there = config.save_total_limit, 0 if checkpoint is None else len(numbered_checkpoints(out))
    # One more is there for a moment, before the oldest goes.
    needed = trained * 4 + one * min(saves, max(kept + 1 - there, 1))
    if free < needed and is_sized(experiment.start):
        problems.append(f"{existing}: {free / GB:.1f} GB free, training needs up to {needed / GB:.1f} GB")
    names = ["model.safetensors", "config.json", "tokenizer.json"]
    if experiment.start.base is not None and experiment.start.lora is not None:
        published = ["adapter_model.bin", "non_lora_trainables.bin", "adapter_config.json", "config.json"]
        own = ["trained.safetensors", "adapter.json", "config.json", "tokenizer.json"]
        names = published if isinstance(model.settings.language, LanguageConfig) else own
    return [
        f"goes on from {checkpoint}" if checkpoint else "starts anew",
        f"writes {out}{os.sep}: {', '.join(names)} ({trained * 4 / GB:.2f} GB), log.jsonl,",
        f"  checkpoint-N every {config.save_steps} steps and at the end ({one / GB:.2f} GB each; {saves} "
        f"{'more' if checkpoint else 'in all'}, {kept} kept)",
    ]


def _table_of_memory(
    experiment: Experiment, model: MM2SG, records: Records, processes: int, problems: list[str]
) -> str:
    """The memory of a usual batch and of the worst, which decides whether a training ends well."""
    config = experiment.train
    bits = experiment.start.bits if experiment.start.base is not None else 32
    usual, worst = usual_and_worst_load(experiment, model, records)
    lines = [
        f"memory per GPU, {processes} GPU, batch {config.batch_size}, {bits} bits, "
        f"ZeRO {zero_stage(config.deepspeed) or 'off'} (about 1 GB more for CUDA):"
    ]
    smallest = min(gpus(), key=lambda gpu: gpu.memory, default=None)
    for name, load in (("usual", usual), ("worst", worst)):
        memory = memory_per_gpu(experiment, model, processes, load)
        parts = " + ".join(f"{value / GB:.1f} {part}" for part, value in vars(memory).items())
        held = f"{load.tokens:.0f} tokens, {load.views:.0f} views, {load.points:.0f} points a sample"
        lines.append(f"  {name} batch {memory.total / GB:.1f} GB = {parts}; {held}")
        if smallest is not None and memory.total > smallest.memory:
            told = f"a {name} batch takes {memory.total / GB:.1f} GB, {smallest.name} has {smallest.memory / GB:.1f} GB"
            lines.append(f"  {told}")
            if name == "usual" and is_sized(experiment.start):  # else a training may come through without such a batch
                problems.append(f"GPU memory: {told}; lower --per_device_train_batch_size")
    if worst.points:
        more = config.batch_size * 10_000 * kept_per_point(model.settings.points)
        lines.append(f"  10,000 points more in each cloud of a batch: {more / GB:.1f} GB")
    return "\n".join(lines)
