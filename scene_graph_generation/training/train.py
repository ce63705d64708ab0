"""Training of the scene-graph model on files of training samples (stage-2 specification, sections 5 to 9)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from computing.machine import choose_device, seeded
from computing.tracking import finish_wandb
from computing.training_checkpoints import only_training_in, read_state, require_same_checkpoint
from computing.training_errors import one_line_errors
from computing.training_progress import shown_progress
from operating_room.domain.domain import Domain
from operating_room.domain.stored import store_domain
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_bytes
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import is_first, share
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import Experiment, StartConfig, with_labels
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.bad_samples import BadSamples
from scene_graph_generation.samples.survey import other_relations, survey
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.loss import loss_weights
from scene_graph_generation.training.presence import new_teacher
from scene_graph_generation.training.pretrain import pretrain
from scene_graph_generation.training.requirements import check_start, check_start_domain, check_text_only, check_tools
from scene_graph_generation.training.resuming import (
    BEGUN,
    GOES_ON,
    HALF_SEEN,
    SEEN_BY,
    Halfway,
    begin_folder,
    begun_with,
    check_same_training,
    forget_seeing,
    is_done,
    keep_seeing,
    seen_before,
    while_seeing,
)
from scene_graph_generation.training.starting_point import begin, check_places, load_trained, new_tokens
from scene_graph_generation.training.trainer import ModelFolder, SceneGraphTrainer, readers
from scene_graph_generation.weights.base_models import find_folder, weights_digest
from scene_graph_generation.weights.checkpoints import WEIGHTS, load_weights, save_model
from scene_graph_generation.weights.fine_tuned import save_published, save_trained

_SMALLER = "lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
SEEN = "seeing.jsonl"  # how well it learns to see, phase by phase


def train(experiment: Experiment, data: Sequence[Path], dataset: Dataset, out: Path) -> MM2SG:
    """Train a model and write its folder to `out`; goes on from the last checkpoint found there.

    Without `start.base` a model is trained from scratch and written in our form. With it, an adapter and the modules
    around the language model are trained and written in the published form, around another language model in ours.

    Args:
        experiment: model, settings and what to start from; its `files` name only the token frequencies here.
        data: files of training samples, as `samples.training_records` makes them.
        dataset: where the files are that the samples name.
        out: gets the model folder, and checkpoints while training runs.

    Raises:
        UserError: the samples or a file they name are damaged, `out` already holds a trained model, the base or the
            first stage cannot be loaded, something that the settings ask for is not installed, or another training is
            running in `out`.
    """
    with only_training_in(out):
        return _train(experiment, data, dataset, out)


def _train(experiment: Experiment, data: Sequence[Path], dataset: Dataset, out: Path) -> MM2SG:
    """`train` in a folder that no other training is in."""
    experiment = replace(experiment, model=with_labels(experiment.model, dataset.domain.labels))
    config = experiment.train
    check_start(experiment)
    check_tools(experiment)
    domain = dataset.domain
    check_start_domain(experiment.start, domain)
    check_places(experiment, dataset)
    checkpoint = begin_folder(experiment, data, out)
    phases = experiment.pretrain
    learns_to_see = phases is not None and phases.patch_steps + phases.hand_steps + phases.steps > 0
    counts_tokens = config.token_weights and experiment.files.token_frequencies is None
    # What is trained already is so with a tokenizer, which other code or samples may make otherwise.
    kept = read_tokens(checkpoint) if checkpoint is not None and experiment.start.base is None else None
    records, known, new = survey(
        data,
        config.canonical_order,
        answers=learns_to_see or counts_tokens or config.presence > 0,
        read=lambda texts: new_tokens(experiment, texts, domain.language) if kept is None else kept,
    )
    if is_first() and (stale := other_relations(records, dataset.root)) is not None:
        print(f"note: {', '.join(map(str, data))}: {stale}", file=sys.stderr)
    of_samples: dict[str, Any] = {"samples": len(records), "content of samples": known.fingerprint}
    if config.token_weights:  # by content: a file that is not there may have been replaced by another
        counts = experiment.files.token_frequencies
        told = "counted in the samples" if counts is None else sha256(read_bytes(counts)).hexdigest()[:16]
        of_samples["token frequencies"] = told
    # Adapters only mean something beside the weights they were trained beside; folders may be moved and named anew.
    bases = {"content of the base": experiment.start.base, "content of the vision tower": experiment.start.vision}
    of_bases = {name: weights_digest(find_folder(base)) for name, base in bases.items() if base is not None}
    begun = {**of_samples, **of_bases, "domain": domain.digest, **begun_with(experiment, data)}
    if checkpoint is not None and (out / BEGUN).is_file():
        check_same_training(out, begun, checkpoint)
    elif is_first():
        learnt = next((out / name for name in (HALF_SEEN, SEEN_BY) if (out / name).is_file()), None)
        if learnt is not None and (out / BEGUN).is_file():
            check_same_training(out, while_seeing(begun), learnt)
        write_json(out / BEGUN, begun, indent=1)
    check_text_only(known.first_with_image, experiment)
    with one_line_errors(out, "choose fewer --bits", "--dataloader_num_workers"):  # others may fill the GPU
        model, tokens = begin(experiment, new)
    keepers = share().processes * max(readers(config), 1)
    read = ExampleReader(model.settings, tokens, keep_views=experiment.start.base is None, readers=keepers)
    teacher = None
    if config.presence:
        with seeded(config.seed):
            teacher = new_teacher(known, model.settings.language.width)
    samples = TrainingSamples(records, dataset, config, read, () if teacher is None else teacher.triplets)
    vocabulary = model.settings.language.vocabulary
    weights = None
    if config.token_weights:
        weights = loss_weights(experiment.files.token_frequencies, known, tokens, vocabulary)
    bad = BadSamples(config.skip_bad_samples)
    if phases is not None and learns_to_see and checkpoint is None and is_first():
        # Other processes get the first one's weights when their training begins.
        settings = phases, config.seed, out / SEEN, readers(config), config.bf16
        taught = seen_before(out, model, begun)
        if taught is None:
            with one_line_errors(out, "lower batch_size of `pretrain`", "--dataloader_num_workers"):
                _, taught = pretrain(
                    model.to(choose_device()),
                    samples,
                    known,
                    *settings,
                    bad,
                    from_nothing=experiment.start.curriculum is None,
                    halfway=Halfway(out, begun),
                )
            keep_seeing(out, model, begun, taught)
        else:
            print(f"{out}: goes on with what was learnt to see here, before the first checkpoint", file=sys.stderr)
        if config.vision_rests and phases.patch_steps and not taught:
            told = f"{dataset.root}: train.vision_rests, but no sample has label masks or depth to teach the tower from"
            raise UserError(f"{told}; add them or leave it out")
    if config.vision_rests and model.vision is not None:
        model.vision.requires_grad_(False)
    model.teacher = teacher
    folder = _folder(model, tokens, experiment.start, domain)
    with one_line_errors(out, _SMALLER, "--dataloader_num_workers"):  # it brings the model to the GPU
        trainer = SceneGraphTrainer(model, samples, known.lengths.tolist(), config, weights, out, folder, bad)
    require_same_checkpoint(checkpoint)
    if checkpoint is not None and is_done(read_state(checkpoint), config):
        folder.load(checkpoint)  # it was stopped while it wrote the model; Trainer would do another step
    else:
        with one_line_errors(out, _SMALLER, "--dataloader_num_workers"), shown_progress(trainer):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finish_wandb()
    if trainer.is_world_process_zero():
        folder.save(out)
        (out / GOES_ON).unlink(missing_ok=True)
        forget_seeing(out)
    model.teacher = None
    if trainer.skipped and is_first():
        print(f"{len(trainer.skipped)} bad samples were skipped", file=sys.stderr)
    return model


def _folder(model: MM2SG, tokens: Tokens, start: StartConfig, domain: Domain) -> ModelFolder:
    """Published form for an adapter around the published language model, else ours; with a copy of the domain."""
    base, vision = start.base, start.vision

    def save(to: Path) -> None:
        store_domain(to, domain)
        if base is None or start.lora is None:
            save_model(to, model, tokens)
        elif isinstance(model.settings.language, OtherLanguage):  # the published form has no place for what it is
            save_trained(to, model, tokens, base, vision)
        else:
            save_published(to, model, base, vision)

    if base is None or start.lora is None:
        return ModelFolder(save, lambda of: load_weights(model, of / WEIGHTS))
    return ModelFolder(save, lambda of: load_trained(model, of))
