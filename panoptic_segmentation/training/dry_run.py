"""What a training of a segmenter would do, without doing it: data, steps, files, memory, and what is in its way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from computing.machine import choose_device, gpus, half_dtype, require_gpus
from computing.training_checkpoints import numbered_checkpoints, step_of
from operating_room.domain.domain import Domain
from operating_room.domain.stored import stored_domain
from operating_room.errors import UserError, failing
from operating_room.files.atomic import require_folder
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads
from panoptic_segmentation.config.settings import Config, unused_summary
from panoptic_segmentation.data.frames import shape_of
from panoptic_segmentation.data.pictures import edge_size
from panoptic_segmentation.data.videos import Video, find_videos
from panoptic_segmentation.training.train import begin_folder
from panoptic_segmentation.training.trainer import KEPT, check_batch, check_log, readers
from panoptic_segmentation.training.training_memory import Memory, Step, step_memory
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model, check_weights, read_for
from panoptic_segmentation.weights.encoder_files import is_on_hub, weights_file
from panoptic_segmentation.weights.model_domain import require_classes, require_start_domain

GB = 1e9  # bytes
_OBJECTS = 12  # classes that one clip shows; few show more, and each adds little
_BYTES = 4  # of a stored weight
_FILLED = 0.95  # share of a GPU's memory that a step can have; CUDA itself takes some
_PARTS = (
    *("segmenter.backbone", "segmenter.pixel_decoder", "segmenter.decoder", "tracker", "refiner"),
    *("segmenter.encoder", "segmenter.heads"),
)


@dataclass(frozen=True)
class DryRun:
    """The report on a training, and what is in its way."""

    text: str
    problems: list[str]


def dry_run(
    config: Config,
    data: Path,
    output: Path,
    resume: bool = False,
    processes: int = 1,
    report_to: str = "none",
    domain: Domain | None = None,
    machines: int = 1,
) -> DryRun:
    """Report on the training that `panoptic_segmentation.training.train.train` would do with these arguments.

    `processes` are those of all machines. Nothing is written, and no ground truth is prepared: whether each mask is
    good shows when it is.
    """
    problems: list[str] = []
    dataset = _dataset(config, data, domain, problems)
    videos = [] if dataset is None else _videos(config, dataset, problems)
    model = _outline(config)
    known = None if dataset is None else dataset.domain
    checkpoint = _checkpoint(config, known, output, resume, problems)
    sections = [
        *([unused_summary(config)] if config.unused else []),
        _table_of_parts(model),
        *_data(config, videos),
        *_steps(config, videos, processes, problems),
        *_start(config, known, model, checkpoint, problems),
        *_files(config, model, output, checkpoint, problems),
        *_memory(config, videos, processes, problems),
    ]
    problems += failing(lambda: check_log(report_to), lambda: require_gpus(processes // machines))
    inputs = "inputs: " + ("all there" if not problems else f"{len(problems)} problems")
    return DryRun("\n".join([*sections, inputs, *(f"  {problem}" for problem in problems)]), problems)


def _dataset(config: Config, data: Path, domain: Domain | None, problems: list[str]) -> Dataset | None:
    try:
        dataset = Dataset(data, domain)
    except UserError as error:
        problems.append(str(error))
        return None
    problems += failing(lambda: require_classes(config.segmenter, dataset.domain, "this training"))
    return dataset


def _videos(config: Config, dataset: Dataset, problems: list[str]) -> list[Video]:
    videos: list[Video] = []
    for name, choice in zip(config.train_data, config.train_choices):
        try:
            takes = choice.takes(dataset)
            there = find_videos(dataset, takes)
        except UserError as error:
            problems.append(str(error))
            continue
        if not there:
            missing = "none of its takes" if not takes else f"no annotated frame of its {len(takes)} takes"
            problems.append(f"{dataset.root}: {name}: {missing} is there; unpack or choose others (DATASETS.TRAIN)")
        videos += there
    return videos


def _outline(config: Config) -> VideoModel:
    with torch.device("meta"):
        return build_model(config.kind, config.segmenter, config.video)


def _table_of_parts(model: VideoModel) -> str:
    lines = [f"{'parameters':<24}{'trainable':>14}{'frozen':>14}"]
    total = [0, 0]
    for part in _PARTS:
        counts = [0, 0]
        for name, parameter in model.named_parameters():
            if name.startswith(f"{part}."):
                counts[not parameter.requires_grad] += parameter.numel()
        if any(counts):
            lines.append(f"{part:<24}{counts[0]:>14,}{counts[1]:>14,}")
            total = [old + new for old, new in zip(total, counts)]
    return "\n".join([*lines, f"{'all':<24}{total[0]:>14,}{total[1]:>14,}"])


def _data(config: Config, videos: Sequence[Video]) -> list[str]:
    frames = {mask for video in videos for mask in video.masks()}
    takes = dict.fromkeys(video.take.sample_name for video in videos)
    named = ", ".join(list(takes)[:6]) + (f" and {len(takes) - 6} more" if len(takes) > 6 else "")
    return [
        f"{', '.join(config.train_data)}: {len(takes)} takes on disk ({named or 'none'}), {len(videos)} videos, "
        f"{len(frames)} annotated frames; their ground truth is prepared first, once"
    ]


def _steps(config: Config, videos: Sequence[Video], processes: int, problems: list[str]) -> list[str]:
    solver, clips = config.solver, config.clips
    problems += failing(lambda: check_batch(solver, processes))
    sizes = " to ".join(str(edge) for edge in sorted({min(clips.shortest), max(clips.shortest)}))
    rounds = f", each video {solver.steps * solver.batch_size / len(videos):.1f} times" if videos else ""
    rounds += " on average, longer ones and what is rare more often" if videos and clips.repeat_threshold else ""
    lines = [
        f"{solver.steps} steps of {solver.batch_size} clips over {processes} processes{rounds}; "
        f"a clip is {clips.frames} frames, shortest edge {sizes} px",
        "how long a step takes is not known before the first ones; the training then shows rate and time left",
    ]
    if config.workers > cpu_threads():
        lines.append(f"{readers(config)} of DATALOADER.NUM_WORKERS {config.workers} readers: as many as processors")
    return lines


def _checkpoint(config: Config, domain: Domain | None, output: Path, resume: bool, problems: list[str]) -> Path | None:
    """What the training would go on from."""
    try:
        return begin_folder(config, domain or stored_domain(output), output, resume, look_only=True)
    except UserError as error:
        problems.append(str(error))
        return None


def _start(
    config: Config, domain: Domain | None, model: VideoModel, checkpoint: Path | None, problems: list[str]
) -> list[str]:
    """Where the weights come from; without data there is no domain that they could be strange to."""
    if checkpoint is not None:
        return [f"goes on from {checkpoint}"]
    if not config.weights:
        advice = ", which its frozen normalisation makes hard: give MODEL.WEIGHTS"
        return ["starts from nothing" + advice * (config.segmenter.norm == "frozen")]
    if is_on_hub(config.weights):
        return [f"starts from {config.weights} of the model hub, which is fetched first"]
    path = weights_file(config.weights)
    try:
        if domain is not None:
            require_start_domain(path, domain)
        report = check_weights(path, read_for(path, model), model, complete=False)
    except UserError as error:
        problems.append(str(error))
        return []
    return [f"starts from {report}"]


def _files(config: Config, model: VideoModel, output: Path, checkpoint: Path | None, problems: list[str]) -> list[str]:
    """The files that training writes, from the checkpoint on if there is one, and whether there is room for them."""
    solver = config.solver
    weights = _BYTES * sum(tensor.numel() for tensor in model.state_dict().values())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    done = 0 if checkpoint is None else step_of(checkpoint) or 0
    saves = -(-solver.steps // solver.checkpoint_every) - done // solver.checkpoint_every if done < solver.steps else 0
    there = 0 if checkpoint is None else min(len(numbered_checkpoints(output)), KEPT)
    one = weights * (2 if solver.average_decay else 1) + 2 * _BYTES * trained
    needed = weights * (saves + 2) + one * min(saves, KEPT + 1 - there)  # one more is there for a moment
    try:
        existing = require_folder(output)
        if (free := shutil.disk_usage(existing).free) < needed:
            problems.append(f"{existing}: {free / GB:.1f} GB free, training needs up to {needed / GB:.1f} GB")
    except UserError as error:
        problems.append(str(error))
    model_file, kept = f"{weights / GB:.2f} GB", f"{one / GB:.2f} GB, {KEPT} kept"
    return [
        f"writes {output}{os.sep}: model.safetensors and model_final.pth ({model_file} each), config.yaml and "
        "domain.yaml;",
        f"  every {solver.checkpoint_every} steps and at the end, {saves} times: model_<step>.pth ({model_file}, all "
        f"kept) and checkpoint-N ({kept}); {needed / GB:.1f} GB in all",
    ]


def _memory(config: Config, videos: Sequence[Video], processes: int, problems: list[str]) -> list[str]:
    """The memory of a usual step and of the worst, which decides whether a training ends well."""
    solver, shortest = config.solver, sorted(config.clips.shortest)
    dtype = None
    if solver.mixed_precision and gpus():
        try:
            dtype = half_dtype(choose_device(), solver.amp_type)
        except UserError as error:
            problems.append(str(error))
    elif solver.mixed_precision:  # for the machine that has one
        dtype = torch.float16 if solver.amp_type == "float16" else torch.bfloat16
    clips = max(1, solver.batch_size // processes)
    pictures = _picture_sizes(config, videos)

    def needed(edge: int, frames: int) -> tuple[Step, Memory]:
        sizes = [_clip_size(config, *size, edge) for size in pictures]
        height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
        step = Step(clips, frames, height, width, _OBJECTS)
        return step, step_memory(config, step, dtype, processes)

    precision = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    lines = [f"memory per GPU in {precision} (1 to 2 GB more for CUDA itself):"]
    edges = {"usual": int(median(shortest)), "worst": shortest[-1]}
    worst = 0
    for name, edge in edges.items() if len(shortest) > 1 else [("every", shortest[0])]:
        step, memory = needed(edge, config.clips.frames)
        worst = memory.total
        parts = (
            f"{memory.weights / GB:.1f} weights + {memory.optimiser / GB:.1f} optimiser + {memory.step / GB:.1f} step"
        )
        held = f"{step.clips} clips of {step.frames} frames of {step.height}x{step.width} px"
        lines.append(f"  {name} step {memory.total / GB:.1f} GB = {parts}; {held}")
    half = config.clips.frames // 2
    ways = []
    if half >= 1:
        ways.append(f"INPUT.SAMPLING_FRAME_NUM {half}: {needed(shortest[-1], half)[1].total / GB:.1f} GB")
    if len(shortest) > 1:
        ways.append(
            f"INPUT.MIN_SIZE_TRAIN [{shortest[0]}]: {needed(shortest[0], config.clips.frames)[1].total / GB:.1f} GB"
        )
    if clips > 1:
        ways.append("SOLVER.IMS_PER_BATCH or more processes: less in proportion")
    if ways:
        lines.append(f"  less with {'; '.join(ways)}")
    smallest = min(gpus(), key=lambda gpu: gpu.memory, default=None)
    if smallest is not None and worst > _FILLED * smallest.memory:
        lines.append(f"  the worst step does not fit the {smallest.memory / GB:.0f} GB of {smallest.name}")
        problems.append(
            f"GPU memory: the worst step needs {worst / GB:.1f} GB, {smallest.name} has {smallest.memory / GB:.1f} GB"
        )
    return lines


def _picture_sizes(config: Config, videos: Sequence[Video]) -> set[tuple[int, int]]:
    """Height and width of the pictures of each camera, by its first one; the canvas where there is none."""
    width, height = config.test.canvas
    of_cameras = {(video.take, video.camera): video for video in videos}.values()
    return {shape_of(video, config.test.canvas) for video in of_cameras} or {(height, width)}


def _clip_size(config: Config, height: int, width: int, edge: int) -> tuple[int, int]:
    """Height and width of a clip that is made of such pictures."""
    size = edge_size(height, width, edge, config.clips.longest)
    if config.clips.crop:
        return min(size[0], config.clips.crop_size[0]), min(size[1], config.clips.crop_size[1])
    return size
