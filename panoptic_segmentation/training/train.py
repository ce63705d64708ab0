"""Training of the video models through transformers' Trainer (stage-1 specification, section 9).

Which clips a step sees and all that is random in it follow from the seed and the step's number, so that a run that is
stopped and resumed goes the same way as one that is not.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers.trainer import OPTIMIZER_NAME

from computing.meeting import require_one_format
from computing.tracking import finish_wandb
from computing.training_checkpoints import (
    find_checkpoint,
    numbered_checkpoints,
    only_training_in,
    remove_half_written,
    require_begun,
    require_same_checkpoint,
    step_of,
)
from computing.training_errors import one_line_errors
from computing.training_progress import shown_progress
from operating_room.domain.domain import Domain
from operating_room.domain.stored import DomainNote, require_domain, store_domain
from operating_room.errors import UserError
from operating_room.files.tensors import read_pickle, read_tensors
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import is_first, share
from operating_room.work.repeats import repeat_factors
from panoptic_segmentation.config.config_keys import MODEL_KEYS, STAY_KEYS
from panoptic_segmentation.config.settings import (
    Config,
    field_value,
    is_saved,
    read_config,
    save_config,
    unused_summary,
)
from panoptic_segmentation.data.clips import ClipDataset
from panoptic_segmentation.data.ground_truth import prepare
from panoptic_segmentation.data.videos import Video, find_videos
from panoptic_segmentation.training.optimizer import parameter_groups
from panoptic_segmentation.training.trainer import ClipTrainer, TrainedModel, readers, training_arguments
from panoptic_segmentation.weights.checkpoints import (
    ModelCard,
    build_model,
    load_checkpoint,
    save_model,
    save_published,
)
from panoptic_segmentation.weights.encoder_files import weights_file
from panoptic_segmentation.weights.model_domain import require_classes, require_start_domain

MODEL_FILE, FINAL_FILE, CONFIG_FILE = "model.safetensors", "model_final.pth", "config.yaml"
MODELS = "model_" + 7 * "[0-9]" + ".pth"  # those of checkpoints
_SMALLER = "lower INPUT.SAMPLING_FRAME_NUM, the sizes in INPUT.MIN_SIZE_TRAIN or SOLVER.IMS_PER_BATCH"


def train(
    config: Config,
    dataset: Dataset,
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
        dataset: where the takes are, of whose domain the model will be.
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
        UserError: data or weights are missing or unreadable, or `output` cannot be written, holds an earlier training
            that is not to be resumed, or one is running there.
    """
    with only_training_in(output):
        return _train(config, dataset, output, prepared, resume, half, workers, report_to)


def _train(
    config: Config,
    dataset: Dataset,
    output: Path,
    prepared: Path,
    resume: bool,
    half: bool,
    workers: int,
    report_to: str,
) -> Path:
    """`train` in a folder that no other training is in."""
    in_one_line = partial(one_line_errors, output, _SMALLER, "DATALOADER.NUM_WORKERS")
    with in_one_line():  # a full GPU lets nobody begin on it
        arguments = training_arguments(config, output, report_to)
    own_format = "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32"
    require_one_format(own_format, "choose the one that all have: SOLVER.AMP.DTYPE float16")
    if config.unused and is_first():
        print(unused_summary(config))
    domain = dataset.domain
    domain.require_categories()
    require_classes(config.segmenter, domain, "this training")
    checkpoint = begin_folder(config, domain, output, resume)
    require_same_checkpoint(checkpoint)
    start = weights_file(config.weights) if checkpoint is None and config.weights else None
    if start is not None:
        require_start_domain(start, domain)
    torch.manual_seed(config.seed)  # initial weights
    model = build_model(config.kind, config.segmenter, config.video)
    if start is not None:
        report = load_checkpoint(start, model, complete=False)
        if is_first():
            print(report)
    # The first process of all prepares for everybody. Where machines have disks of their own, the first of each other
    # machine finds nothing there and prepares, too; the rest only look.
    with in_one_line(), arguments.main_process_first(local=False), arguments.main_process_first(local=True):
        videos, classes = training_videos(config, dataset, prepared, workers)
    threshold = config.clips.repeat_threshold
    clips = ClipDataset(
        videos,
        prepared,
        config.clips,
        config.test.canvas,
        seed=config.seed,
        length=config.solver.steps * config.solver.batch_size,
        factors=repeat_factors(classes, threshold) if threshold else None,
        readers=share().processes * max(readers(config), 1),
    )
    trained = TrainedModel(model, config)
    path = output / MODEL_FILE
    with in_one_line():
        trainer = ClipTrainer(config, trained, clips, arguments)  # brings the model to the GPU
        if is_first():
            save_config(config, output / CONFIG_FILE)
            store_domain(output, domain)
        with shown_progress(trainer):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finish_wandb()
    trainer.check_weights()
    if is_first():
        card = ModelCard(config.kind, config.segmenter, config.video, asdict(config.test), DomainNote.of(domain))
        save_model(path, trained.result, card, half)
        save_published(output / FINAL_FILE, trained.result, config.solver.steps - 1, config.losses)
    return path


def begin_folder(config: Config, domain: Domain, output: Path, resume: bool, look_only: bool = False) -> Path | None:
    """The checkpoint to go on from; what is wrong with newer ones is told, what a killed training has left is cleared.

    Args:
        config: the experiment.
        domain: of the takes.
        output: folder of the training.
        resume: whether it may go on.
        look_only: tell and clear nothing.

    Raises:
        UserError: the folder holds an earlier training that is not to be resumed, that of another model or domain, or a
            configuration that somebody has written.
    """
    if not resume and (there := numbered_checkpoints(output)):
        raise UserError(f"{there[0]}: is of an earlier training; go on with --resume, or choose another folder")
    found = find_checkpoint(output, same_processes=False)
    if found.path is None:
        if is_first():  # who leaves the mark and clears; another machine may have a disk of its own
            require_begun(output, CONFIG_FILE)
        models = [*output.glob(MODEL_FILE), *output.glob(FINAL_FILE), *sorted(output.glob(MODELS), reverse=True)]
        if models:
            raise UserError(f"{models[0]}: is a trained model without checkpoint; choose another folder with --out")
        own = output / CONFIG_FILE
        if own.exists() and not is_saved(own):
            told = "is not as a training writes it, and would be written over"
            raise UserError(f"{own}: {told}; move it or give it another name, or choose another folder with --out")
    else:
        require_domain(output, domain)
        _check_same_training(config, found.path)
        _check_same_entries(config, found.path)
    if is_first() and not look_only:
        for line in found.left_out:
            print(line, file=sys.stderr)
        if found.path is not None:
            print(f"resuming from {found.path}")
            if (output / MODEL_FILE).exists() and (step_of(found.path) or 0) < config.solver.steps:
                print(f"{output / MODEL_FILE}: is of an earlier end, until this training ends", file=sys.stderr)
        remove_half_written(output)
    return found.path


def _check_same_training(config: Config, checkpoint: Path) -> None:
    """Compare with the configuration that was saved beside a checkpoint, which brings its own rates, whatever is asked.

    Raises:
        UserError: the checkpoint is of another model, has more steps than are asked for, or something that it decides
            is asked for differently.
    """
    steps, done = config.solver.steps, step_of(checkpoint) or 0
    if done > steps:
        raise UserError(
            f"{checkpoint}: has more steps than SOLVER.MAX_ITER {steps}; give a larger one, or choose another folder "
            "(the model after N steps is model_<N-1>.pth, where it was saved)"
        )
    path = checkpoint.parent / CONFIG_FILE
    try:
        there = read_config(path)
    except UserError as error:
        if is_first():
            told = error if path.exists() else f"{path}: is missing"
            print(f"{told}; whether this is the same training is not checked", file=sys.stderr)
        return
    for key in (*MODEL_KEYS, *STAY_KEYS):
        mine, theirs = field_value(config, key), field_value(there, key)
        if mine != theirs:
            raise UserError(f"{checkpoint}: {key} was {theirs!r} and is now {mine!r}; choose another folder with --out")


def _check_same_entries(config: Config, checkpoint: Path) -> None:
    """Compare weights and rates of a checkpoint with those that are trained: no configuration need lie beside it.

    Raises:
        UserError: it is of another model, also of another program's, or has other rates.
    """
    with torch.device("meta"):
        model = build_model(config.kind, config.segmenter, config.video)
        ours = TrainedModel(model, config).state_dict()
    path = checkpoint / MODEL_FILE
    theirs = read_tensors(path)
    for name in (*ours, *theirs):
        mine, there = (tuple(state[name].shape) if name in state else "absent" for state in (ours, theirs))
        if mine != there:
            raise UserError(
                f"{path}: is of another model than this training's ({name} is {there} there, {mine} here); choose "
                "another folder with --out"
            )
    path = checkpoint / OPTIMIZER_NAME
    state = read_pickle(path)
    groups = state.get("param_groups", []) if isinstance(state, dict) else []
    kept = [(group.get("initial_lr"), group.get("weight_decay"), len(group.get("params", ()))) for group in groups]
    asked = parameter_groups(model, config.rates)
    if kept != [(group["lr"], group["weight_decay"], len(group["params"])) for group in asked]:
        raise UserError(
            f"{path}: has other rates than these (SOLVER.BASE_LR, WEIGHT_DECAY, ...) and would keep its own; give "
            "those that it began with, or choose another folder with --out"
        )


def training_videos(
    config: Config, dataset: Dataset, prepared: Path, workers: int = 1
) -> tuple[list[Video], list[set[tuple[str, int]]]]:
    """The videos of the configured training data and the classes in each of their frames, by collection.

    Their ground truth is prepared below `prepared`.
    """
    videos, classes = [], []
    for choice in config.train_choices:
        chosen = find_videos(dataset, choice.takes(dataset))
        truth = prepare(chosen, prepared, choice.ground_truth_name, config.test.canvas, workers)
        videos += chosen
        for video, annotated in zip(chosen, truth["annotations"], strict=True):
            classes += [
                {(video.take.dataset, segment["category_id"]) for segment in frame["segments_info"]}
                for frame in annotated["annotations"]
            ]
    return videos, classes
