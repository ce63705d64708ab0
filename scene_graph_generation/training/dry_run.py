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

import torch

from computing.machine import gpus, require_gpus
from computing.training_checkpoints import last_checkpoint, numbered_checkpoints, require_begun, step_of
from operating_room.domain.domain import find_domain
from operating_room.errors import UserError
from operating_room.files.atomic import require_folder
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.recordings.dataset import Dataset
from operating_room.work.progress import track
from scene_graph_generation.config.settings import (
    Experiment,
    LanguageConfig,
    MM2SGConfig,
    StartConfig,
    with_labels,
    with_vocabulary,
)
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import Records
from scene_graph_generation.samples.sample_files import Joined
from scene_graph_generation.samples.training_data import read_records, record_text
from scene_graph_generation.training.deepspeed_settings import zero_stage
from scene_graph_generation.training.starting_point import (
    check_places,
    check_start,
    check_start_domain,
    choose_trainable,
    second_stage,
    sized_for,
)
from scene_graph_generation.training.train import (
    BEGUN,
    already_done,
    check_goes_on,
    check_text_only,
    failing,
    missing_tools,
    output_folder,
    read_frequencies,
)
from scene_graph_generation.training.training_memory import (
    frozen_bytes,
    kept_per_point,
    memory_per_gpu,
    usual_and_worst_load,
)
from scene_graph_generation.weights.adapters import is_adapter
from scene_graph_generation.weights.base_models import CONFIG, LANGUAGE_BASE, base_settings, weight_files
from scene_graph_generation.weights.checkpoints import WEIGHTS, check_vocabulary
from scene_graph_generation.weights.fine_tuned import trained_files
from scene_graph_generation.weights.precision import outline

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
    problems += [] if dataset is None else _missing_files(records, dataset.root)
    problems += _missing_inputs(experiment, model)
    try:
        if dataset is not None:
            check_places(experiment, dataset)
    except UserError as error:
        problems.append(str(error))
    try:
        pictured = (str(record["id"]) for record in records if IMAGE_MARK in record_text(record))
        check_text_only(next(pictured, None), experiment)
    except UserError as error:
        problems.append(str(error))
    try:
        require_gpus(processes // machines)
    except UserError as error:
        problems.append(str(error))
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


def meta_model(experiment: Experiment, settings: MM2SGConfig) -> MM2SG:
    """The model with its adapter and frozen parts, as shapes only."""
    text_only = experiment.start.base is not None and experiment.start.vision is None
    model = outline(settings, "the experiment", pictures=not text_only)
    with torch.device("meta"):
        if experiment.start.base is not None:
            choose_trainable(model, experiment.start)
        if experiment.train.vision_rests and model.vision is not None:
            model.vision.requires_grad_(False)
    return model


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


def sizes_of(experiment: Experiment) -> MM2SGConfig:
    """Sizes: those of a base or a first stage of ours that is here, else of the experiment (default: as published)."""
    start = experiment.start
    if start.base is None and start.curriculum is not None and (start.curriculum / CONFIG).is_file():
        return second_stage(base_settings(start.curriculum, None), experiment.model)
    if start.base is None:
        return with_vocabulary(experiment.model, experiment.vocabulary)
    base, vision = found_base(start.base), found_base(start.vision)
    return experiment.model if base is None else sized_for(experiment.model, base_settings(base, vision))


def _to_fetch(experiment: Experiment) -> list[str]:
    """Bases that are neither folders here nor in the local cache of the hub."""
    start = experiment.start
    lines = [
        f"fetches {name} from the model hub first"
        for name in (start.base, start.vision)
        if name and not Path(name).is_dir() and ((here := found_base(name)) is None or _lacking(here) is not None)
    ]
    if not _is_sized(start):
        lines.append(f"  parameters and memory above, and the files below, are those of {LANGUAGE_BASE} until then")
    return lines


def _is_sized(start: StartConfig) -> bool:
    """Whether the sizes are those of its base: one that is still to be fetched may be much smaller or larger."""
    return start.base in (None, LANGUAGE_BASE) or found_base(start.base) is not None


def found_base(name: str | None) -> Path | None:
    """The folder of a base, or the hub's copy of it in the local cache, as far as its config.json tells."""
    if name is None or Path(name).is_dir():
        return None if name is None else Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


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


def _missing_files(records: Records, root: Path) -> list[str]:
    """One line per kind of file that is missing, and one for records that name none properly."""
    missing: dict[str, set[Path]] = {}
    known: dict[Path, bool] = {}
    problems = []
    for record in track(records, "looking for the files of the samples", len(records)):
        try:
            evidence = Evidence.of_record(record, root)
        except UserError as error:
            problems.append(f"sample {record['id']}: {error}")
            continue
        for kind, paths in {"views": evidence.views, **evidence.others}.items():
            for path in paths:
                if path is not None and path not in known:
                    known[path] = _is_file(path)
                    if not known[path]:
                        missing.setdefault(kind, set()).add(path)
    odd = problems[:1] + ([f"and {len(problems) - 1} more such samples"] if len(problems) > 1 else [])
    return odd + [f"{min(paths)}: missing, as are {len(paths) - 1} more of {kind}" for kind, paths in missing.items()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _missing_inputs(experiment: Experiment, model: MM2SG) -> list[str]:
    """What is not there, or does not fit, of everything but samples."""
    counts = experiment.files.token_frequencies
    makers = {
        counts: "`mmor scene-graph samples --tokenizer MODEL` makes it",
        experiment.start.curriculum: "it is the output folder of the training before this one",
    }
    problems = [f"{path}: is not there; {maker}" for path, maker in makers.items() if path and not path.exists()]
    start = experiment.start
    folders = [Path(name) for name in (start.base, start.vision) if name and Path(name).is_dir()]  # others are fetched
    problems += [lacking for folder in folders if (lacking := _lacking(folder)) is not None]
    problems += failing([partial(_check_first_stage, start), partial(_check_tokens, experiment, model)])
    return problems + missing_tools(experiment)


def _check_first_stage(start: StartConfig) -> None:
    """The folder of a first stage, if it is there, must be whole."""
    first = start.curriculum
    if first is not None and first.exists() and (start.base is not None or not (first / WEIGHTS).is_file()):
        trained_files(first)


def _check_tokens(experiment: Experiment, model: MM2SG) -> None:
    """The tokenizer of a base that is here must fit the model, and the token frequencies the tokenizer."""
    base, counts = Path(experiment.start.base or ""), experiment.files.token_frequencies
    if experiment.start.base is None or not base.is_dir():
        return
    tokens = read_tokens(base)
    check_vocabulary(tokens, model, base)
    if counts is not None and counts.exists() and experiment.train.token_weights:
        read_frequencies(counts, tokens.names())


def _lacking(folder: Path) -> str | None:
    """What the folder of a base lacks of its weights, of which nothing is read."""
    try:
        missing = [path for path in weight_files(folder) if not path.is_file()]
    except UserError as error:
        return str(error)
    return f"{missing[0]}: is missing, as are {len(missing) - 1} more weight files of it" if missing else None


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
            if name == "usual" and _is_sized(experiment.start):  # else a training may come through without such a batch
                problems.append(f"GPU memory: {told}; lower --per_device_train_batch_size")
    if worst.points:
        more = config.batch_size * 10_000 * kept_per_point(model.settings.points)
        lines.append(f"  10,000 points more in each cloud of a batch: {more / GB:.1f} GB")
    return "\n".join(lines)


def checkpoint_bytes(experiment: Experiment, model: MM2SG) -> float:
    """Of a checkpoint on disk: the weights that are trained, and both moments of the optimiser.

    DeepSpeed writes the whole model beside the folder of it, and a copy of the weights that it steps on.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if experiment.train.deepspeed is None:
        return 12.0 * trained
    return 20.0 * trained + frozen_bytes(experiment, model)


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
        checkpoint = last_checkpoint(out, config.deepspeed is not None, processes)
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
    if free < needed and _is_sized(experiment.start):
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
