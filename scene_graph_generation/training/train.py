"""Training of the scene-graph model on files of training samples (stage-2 specification, sections 5 to 9)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from computing.machine import choose_device, half_dtype, seeded
from computing.tracking import check_wandb, finish_wandb
from computing.training_checkpoints import (
    find_checkpoint,
    last_state,
    only_training_in,
    read_state,
    remove_half_written,
    require_begun,
    require_same_checkpoint,
)
from computing.training_errors import one_line_errors
from computing.training_progress import shown_progress
from operating_room.domain.domain import Domain
from operating_room.domain.stored import store_domain
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_bytes, read_json
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import is_first, share
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import Experiment, StartConfig, with_labels
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.bad_samples import BadSamples
from scene_graph_generation.samples.survey import Survey, survey
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.deepspeed_settings import deepspeed_settings, require_operators
from scene_graph_generation.training.loss import answer_frequencies, token_weights
from scene_graph_generation.training.presence import new_teacher
from scene_graph_generation.training.pretrain import pretrain
from scene_graph_generation.training.resuming import (
    forget_seeing,
    is_done,
    keep_seeing,
    seen_before,
    settings_that_stay,
)
from scene_graph_generation.training.starting_point import (
    begin,
    check_places,
    check_start,
    check_start_domain,
    load_trained,
    new_tokens,
)
from scene_graph_generation.training.trainer import ModelFolder, SceneGraphTrainer, readers
from scene_graph_generation.weights.base_models import CONFIG, find_folder, weights_digest
from scene_graph_generation.weights.checkpoints import WEIGHTS, load_weights, save_model
from scene_graph_generation.weights.fine_tuned import OTHER_WEIGHTS, OWN_WEIGHTS, save_published, save_trained

_SMALLER = "lower --per_device_train_batch_size and raise --gradient_accumulation_steps"
SEEN = "seeing.jsonl"  # how well it learns to see, phase by phase
BEGUN = "training.json"  # the settings that a training began with
GOES_ON = "goes_on"  # empty; while it is there, the model in the folder is of an earlier end
_OF_TAKES = ("model.labels", "model.masks")


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
    checkpoint = _begin_folder(experiment, data, out)
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
    of_samples: dict[str, Any] = {"samples": len(records), "content of samples": known.fingerprint}
    if config.token_weights:  # by content: a file that is not there may have been replaced by another
        counts = experiment.files.token_frequencies
        told = "counted in the samples" if counts is None else sha256(read_bytes(counts)).hexdigest()[:16]
        of_samples["token frequencies"] = told
    # Adapters only mean something beside the weights they were trained beside; folders may be moved and named anew.
    bases = {"content of the base": experiment.start.base, "content of the vision tower": experiment.start.vision}
    of_bases = {name: weights_digest(find_folder(base)) for name, base in bases.items() if base is not None}
    begun = {**of_samples, **of_bases, "domain": domain.digest, **_begun(experiment, data)}
    if checkpoint is not None and (out / BEGUN).is_file():
        _check_same_training(out, begun, checkpoint)
    elif is_first():
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


def already_done(experiment: Experiment, data: Sequence[Path], out: Path) -> str | None:
    """What there is to say of a folder whose training is over; None if there is something left to do.

    Raises:
        UserError: it holds a trained model that cannot be trained further, or one of other settings or samples.
    """
    if not finished(out):
        return None
    state = last_state(out)
    if state is None or not (out / BEGUN).is_file():
        raise UserError(f"{out}: holds a trained model already; choose another folder")
    check_goes_on(experiment, data, out, out)
    if not is_done(state, experiment.train) or (out / GOES_ON).exists():
        return None
    return f"{out}: is trained already, {state.global_step} steps; more --max_steps would go on from there"


def check_goes_on(experiment: Experiment, data: Sequence[Path], out: Path, where: Path) -> None:
    """A training in a folder goes on with what it began with, as far as that can be told without its samples.

    Args:
        experiment: that is to go on.
        data: files of its samples.
        out: the folder.
        where: the checkpoint that it would go on from; `out` if it is over.

    Raises:
        UserError: something that cannot change is another, or it is a training of something else.
    """
    if where != out and not (where / CONFIG).is_file():
        raise UserError(f"{where}: is no checkpoint of a scene-graph model; choose another folder")
    if (out / BEGUN).is_file():
        # The takes, which are looked at later, say how many labels masks have.
        now = {name: value for name, value in _begun(experiment, data).items() if name not in _OF_TAKES}
        _check_same_training(out, now, where)


def _begin_folder(experiment: Experiment, data: Sequence[Path], out: Path) -> Path | None:
    """The checkpoint to go on from; what a killed training has left is cleared."""
    if done := already_done(experiment, data, out):
        raise UserError(done)
    found = find_checkpoint(out, experiment.train.deepspeed is not None)
    if found.path is None:
        if is_first():  # who leaves the mark and clears; another machine may have a disk of its own
            require_begun(out, BEGUN)
    else:
        check_goes_on(experiment, data, out, found.path)
    if is_first():
        for line in found.left_out:
            print(line, file=sys.stderr)
        if found.path is not None:
            print(f"going on from {found.path}", file=sys.stderr)
            if finished(out):
                (out / GOES_ON).touch()
                print(f"{out}: its model is of an earlier end, until this training ends", file=sys.stderr)
        remove_half_written(out)
    return found.path


def _begun(experiment: Experiment, data: Sequence[Path]) -> dict[str, Any]:
    """What must stay as it is while a training goes on, as JSON gives it back; samples by the names of their files."""
    phases = experiment.pretrain  # a checkpoint has them behind it
    learns_first = {"pretrain": phases is not None, **settings_that_stay(asdict(phases) if phases else {}, "pretrain.")}
    names = {"sample_files": [path.stem for path in data]}
    return _plain({**settings_that_stay(asdict(experiment)), **learns_first, **names})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return json.loads(json.dumps(settings, default=str))


def _check_same_training(out: Path, now: Mapping[str, Any], where: Path) -> None:
    """Compare with what the training began with: a checkpoint brings its own rates and order, whatever is asked for.

    Raises:
        UserError: something that cannot change is another.
    """
    found = read_json(out / BEGUN)
    # What a setting that was unsaid, or came later, stood for before it was there is its default.
    usual = _plain(settings_that_stay(asdict(Experiment())))
    before = {**usual, **(found if isinstance(found, dict) else {})}
    for name, value in now.items():
        if name in before and before[name] != value:
            raise UserError(
                f"{where}: {name} was {str(before[name])[:60]} and is now {str(value)[:60]}; "
                "give what it began with, or choose another folder"
            )


def check_text_only(pictured: str | None, experiment: Experiment) -> None:
    """A base without vision tower, or a model from scratch without modalities, is trained on text alone.

    Args:
        pictured: id of the first sample whose text has a place for pictures, if there is one.
        experiment: its model, and what it starts from.

    Raises:
        UserError: it is, and there is such a sample.
    """
    start = experiment.start
    blind, mend = not experiment.model.modalities, "give samples of `mmor downstream samples`, or a model of modalities"
    if start.base is not None:
        blind, mend = start.vision is None, "add --vision_tower"
    if blind and pictured is not None:
        raise UserError(f"sample {pictured} has pictures, which a text-only training cannot see; {mend}")


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


def output_folder(experiment: Experiment) -> Path:
    """Where the experiment's training goes.

    Raises:
        UserError: the experiment names no output folder or no samples.
    """
    files = experiment.files
    if not files.samples or files.out is None:
        raise UserError("a training needs samples (--samples or --data_path) and a folder (--out or --output_dir)")
    return files.out


def finished(out: Path) -> bool:
    """Whether a folder holds a whole model of either form."""
    return any((out / name).exists() for name in (WEIGHTS, OTHER_WEIGHTS, OWN_WEIGHTS))  # these are written last


def check_tools(experiment: Experiment) -> None:
    """What the settings ask for must be installed.

    Raises:
        UserError: it is not.
    """
    if missing := missing_tools(experiment):
        raise UserError("; ".join(missing))


def missing_tools(experiment: Experiment) -> list[str]:
    """A line for each tool or setting of a tool that is not there."""
    missing = []
    deepspeed = experiment.train.deepspeed
    wanted = {
        "deepspeed": deepspeed and f"--deepspeed {deepspeed}, or leave the option out",
        "bitsandbytes": experiment.start.base and experiment.start.bits == 4 and "--bits 4, or take --bits 16",
    }
    for tool, option in wanted.items():
        if option and find_spec(tool) is None:
            extra = "quant" if tool == "bitsandbytes" else tool
            missing.append(f'{tool} is not installed: pip install "mmor[{extra}]" for {option}')
    config = experiment.train
    checks: list[Callable[[], object]] = []
    if config.report_to == "wandb":
        checks.append(lambda: check_wandb("--report_to wandb"))
    if config.bf16:  # a GPU that has none would be told once all is loaded
        checks.append(lambda: half_dtype(choose_device(), "bfloat16"))
    if deepspeed is not None:
        checks += [lambda: _read_deepspeed(deepspeed, config.bf16), require_operators]
    return missing + failing(checks)


def failing(checks: Iterable[Callable[[], object]]) -> list[str]:
    """A line for each check that is not passed."""
    lines = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines.append(str(error))
    return lines


def _read_deepspeed(path: Path, bf16: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such DeepSpeed configuration; take configs/deepspeed/zero2.json")
    deepspeed_settings(path, bf16, 1)


def loss_weights(path: Path | None, known: Survey, tokens: Tokens, vocabulary: int) -> Tensor:
    """Weight of each token id in the loss.

    Args:
        path: JSON of token text -> count in the answers; None: counted here. The published file leaves out the token
            that ends an answer, which made it count a hundred times less than any other: it counts once per answer.
        known: of what is trained on, with answers if there is no file.
        tokens: the model's tokenizer.
        vocabulary: ids that the model scores.

    Raises:
        UserError: the file is damaged, or of another tokenizer.
    """
    names = tokens.names()
    if path is None:
        asked = tokens.conversation(IMAGE_MARK)
        answers = (tokens.encode(asked, answer)[1] for answer in known.answers)
        times = np.bincount(known.answer_numbers, minlength=len(known.answers)).tolist()
        return token_weights(answer_frequencies(answers, times, names), names, vocabulary)
    return token_weights({tokens.end_token: len(known.lengths), **read_frequencies(path, names)}, names, vocabulary)


def read_frequencies(path: Path, names: Mapping[str, int]) -> dict[str, int]:
    """Token text -> count in the answers.

    Args:
        path: of the JSON.
        names: of the model's tokenizer, token text -> id.

    Raises:
        UserError: the file is damaged, or of another tokenizer.
    """
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(
        isinstance(count, (int, float)) and count >= 1 for count in counts.values()
    ):
        raise UserError(f"{path}: expected an object of token texts and their counts, 1 or more; copy or make it again")
    if 2 * len(counts.keys() & names.keys()) < max(len(counts), 1):  # commas and short words are in every tokenizer
        raise UserError(f"{path}: most of its tokens are unknown to the model's tokenizer; it is of another one")
    return counts
