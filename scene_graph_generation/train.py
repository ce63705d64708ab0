"""Training of the scene-graph model on files of training samples (stage-2 specification, sections 5 to 9)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.prompts import IMAGE_MARK, conversation
from operating_room.readers import read_json
from scene_graph_generation.checkpoints import WEIGHTS, load_weights, save_model
from scene_graph_generation.config import Experiment, StartConfig, TrainConfig
from scene_graph_generation.fine_tuned import OTHER_WEIGHTS, save_published
from scene_graph_generation.loss import answer_frequencies, token_weights
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.starting_point import begin, load_trained
from scene_graph_generation.timepoint import ExampleReader
from scene_graph_generation.tokens import END_TOKEN, Tokens
from scene_graph_generation.trainer import ModelFolder, SceneGraphTrainer, last_checkpoint
from scene_graph_generation.training_data import TrainingSamples, read_records, record_text

FINISHED = (WEIGHTS, OTHER_WEIGHTS)  # the last file of a model folder, of our and the published form


def train(experiment: Experiment, data: Sequence[Path], dataset: Dataset, out: Path) -> MM2SG:
    """Train a model and write its folder to `out`; goes on from the last checkpoint found there.

    Without `start.base` a model is trained from scratch and written in our form. With it, an adapter and the modules
    around the language model are trained and written in the published form.

    Args:
        experiment: model, settings and what to start from; its `files` name only the token frequencies here.
        data: files of training samples, as `samples.training_records` makes them.
        dataset: where the files are that the samples name.
        out: gets the model folder, and checkpoints while training runs.

    Raises:
        UserError: the samples or a file they name are damaged, `out` already holds a trained model, the base or the
            first stage cannot be loaded, or something that the settings ask for is not installed.
    """
    config = experiment.train
    check_tools(config)
    if trained := next((out / name for name in FINISHED if (out / name).exists()), None):
        raise UserError(f"{out}: holds a trained model already ({trained.name}); remove it or choose another folder")
    records = [record for path in data for record in read_records(path)]
    model, tokens = begin(experiment, map(record_text, records))
    read = ExampleReader(model.settings, tokens, keep_views=experiment.start.base is None)
    samples = TrainingSamples(records, dataset, config, read)
    vocabulary = model.settings.language.vocabulary
    weights = None
    if config.token_weights:
        weights = loss_weights(experiment.files.token_frequencies, samples, tokens, vocabulary)
    folder = _folder(model, tokens, experiment.start)
    trainer = SceneGraphTrainer(model, samples, config, weights, out, folder)
    checkpoint = last_checkpoint(out)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.is_world_process_zero():
        folder.save(out)
    if trainer.skipped:
        print(f"{len(trainer.skipped)} bad samples were skipped", file=sys.stderr)
    return model


def _folder(model: MM2SG, tokens: Tokens, start: StartConfig) -> ModelFolder:
    """Published form for an adapter, ours for a model that is trained as a whole."""
    if start.base is None or start.lora is None:
        return ModelFolder(lambda to: save_model(to, model, tokens), lambda of: load_weights(model, of / WEIGHTS))
    base, vision = start.base, start.vision
    return ModelFolder(lambda to: save_published(to, model, base, vision), lambda of: load_trained(model, of))


def check_tools(config: TrainConfig) -> None:
    """What the settings ask for must be installed.

    Raises:
        UserError: it is not.
    """
    if config.deepspeed is not None and find_spec("deepspeed") is None:
        raise UserError(
            '--deepspeed: DeepSpeed is not installed; pip install "mmor[deepspeed]", or leave the option out'
        )
    if config.deepspeed is not None and not config.deepspeed.is_file():
        raise UserError(f"{config.deepspeed}: no such DeepSpeed configuration; take configs/deepspeed/zero2.json")
    if config.report_to == "wandb" and find_spec("wandb") is None:
        raise UserError(
            '--report_to wandb: wandb is not installed; pip install "mmor[wandb]", or take --report_to none'
        )


def loss_weights(path: Path | None, samples: TrainingSamples, tokens: Tokens, vocabulary: int) -> Tensor:
    """Weight of each token id in the loss.

    Args:
        path: JSON of token text -> count in the answers; None: counted here. The published file leaves out the token
            that ends an answer, which made it count a hundred times less than any other: it counts once per answer.
        samples: what is trained on.
        tokens: the model's tokenizer.
        vocabulary: ids that the model scores.

    Raises:
        UserError: the file is damaged, or of another tokenizer.
    """
    names = tokens.names()
    if path is None:
        answers = (tokens.encode(conversation(IMAGE_MARK), samples.answer(i))[1] for i in range(len(samples)))
        return token_weights(answer_frequencies(answers, names), names, vocabulary)
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(
        isinstance(count, (int, float)) and count >= 1 for count in counts.values()
    ):
        raise UserError(f"{path}: expected an object of token texts and their counts, 1 or more; copy or make it again")
    if not counts.keys() & names.keys():
        raise UserError(f"{path}: none of its tokens is known to the model's tokenizer; it is of another one")
    return token_weights({END_TOKEN: len(samples), **counts}, names, vocabulary)
