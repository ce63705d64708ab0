"""What a command needs and makes, told from its options without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operating_room.errors import UserError, failing

if TYPE_CHECKING:
    from operating_room.domain.collection import Take
    from operating_room.recordings.dataset import Dataset

GB = 1e9  # bytes
CUDA = 1e9  # bytes of a GPU that PyTorch itself takes
ON_A_CPU = 20_000_000  # parameters: to train a larger model is no work for a CPU
# Bytes on disk: a training record without and with memory, in its JSON and in its shards; the prediction of a frame of
# 3 megapixels; a trained parameter in a model file and, with its optimiser, in a checkpoint.
RECORD, RECORD_WITH_MEMORY = 2 * 2_200, 2 * 4_700
PREDICTED_FRAME = 50_000
PARAMETER, CHECKPOINTED = 4, 12
SEGMENTER_CHECKPOINTS = 3  # that are there at a time: two are kept, and one is being written
_READ = (
    "model",
    "model_path",
    "predictions",
    "labels",
    "graphs",
    "rules",
    "first",
    "second",
)  # options that are inputs


@dataclass
class Facts:
    """What a command needs and makes."""

    reads: list[Path] = field(default_factory=list)
    makes: list[Path] = field(default_factory=list)  # files, and folders with all that will be in them
    fetches: list[str] = field(default_factory=list)  # folders, or names on the model hub
    problems: list[str] = field(default_factory=list)  # nothing that an earlier step could mend
    notes: list[str] = field(default_factory=list)
    disk: float = 0.0  # bytes


def facts_of(name: str, values: Mapping[str, Any], dataset: Dataset | None) -> Facts:
    """The facts of a command.

    Args:
        name: such as `panoptic train`.
        values: of its options.
        dataset: the data that it reads; None: it reads none, or none that is there yet.

    Raises:
        UserError: an option, or a file of settings that it names, is wrong.
    """
    facts = Facts([Path(values[option]) for option in _READ if isinstance(values.get(option), (str, Path))])
    if "relations" in values and "split" in values:
        from mmor.cli.options import split_file

        facts.reads.append(split_file(values["relations"] or _root(values, dataset), values["split"]))
    names = values.get("take") or ([values["split"]] if "split" in values else None)
    if dataset is not None and names:
        facts.problems += failing(partial(dataset.choose, names))
    look = _LOOKS.get(name)
    if look is not None:
        look(values, facts, dataset)
    elif values.get("out") is not None:
        facts.makes.append(Path(values["out"]))
    return facts


def _relations(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from operating_room.graphs.graph_files import SPLIT_NAMES

    facts.makes += [
        Path(values["out"] or values["root"]) / f"relationships_{name}.json" for name in SPLIT_NAMES.values()
    ]


def _segmenter_training(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    import torch

    from computing.tracking import check_wandb
    from mmor.cli.options import segmenter_file
    from panoptic_segmentation.config.settings import read_config
    from panoptic_segmentation.training.trainer import check_batch
    from panoptic_segmentation.weights.checkpoints import build_model

    config = read_config(segmenter_file(values["config_file"]), values["overrides"] or ())
    facts.reads += [Path(config.weights)] if config.weights else []
    out = values["out"] or Path(config.output_folder)
    facts.makes += [out, values["ground_truth"] or out / "ground_truth"]
    if values["report_to"] == "wandb":
        facts.problems += failing(partial(check_wandb, "--report-to wandb"))
    for choice in config.train_choices if dataset is not None else ():
        assert dataset is not None
        there = {take.dataset for take in choice.takes(dataset)}
        absent = [name for name in choice.datasets(dataset.domain) if name not in there]
        split = choice.split(dataset.domain)
        facts.problems += [f"{dataset.root}: holds no take of {name} of the split {split}" for name in absent]
    facts.problems += failing(partial(check_batch, config.solver, values["num_gpus"] * values["num_machines"]))
    with torch.device("meta"):
        model = build_model(config.kind, config.segmenter, config.video)
    size = sum(parameter.numel() for parameter in model.parameters())
    models = config.solver.steps // config.solver.checkpoint_every + 2
    facts.disk = size * (PARAMETER * models + CHECKPOINTED * SEGMENTER_CHECKPOINTS)
    _need_gpus(values["num_gpus"], facts, too_large=size > ON_A_CPU)


def _segmenter_predictions(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    facts.makes.append((values["out"] or values["model"]) / "inference")
    _need_gpus(values["num_gpus"], facts, too_large=False)
    if dataset is None:
        return
    for take in _chosen(dataset, values["take"]):
        recorded = dataset.take(take)
        collection = recorded.collection
        folders = [collection.label_mask_folder(take, camera.name) for camera in collection.labelled_cameras]
        there = [recorded.list_folder(recorded.root / folder) for folder in folders if folder is not None]
        facts.disk += PREDICTED_FRAME * sum(map(len, there))


def _segmenter_scores(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from panoptic_segmentation.inference.predictions import split_path

    facts.reads.append(split_path(values["out"], values["name"]))
    facts.makes.append(values["out"])


def _preprocessing(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from scene_graph_generation.preprocess.embeddings import CLAP
    from scene_graph_generation.preprocess.overlay import read_only

    if values["step"] in ("all", "audio-embeddings") and values["audio_encoder"] == "clap":
        facts.fetches.append(CLAP)
    if values["out"] is not None:
        facts.makes.append(values["out"])
    elif dataset is not None and (root := read_only(dataset)) is not None:
        advice = "`mmor scene-graph preprocess transcripts --out FOLDER` links it into one that can"
        facts.problems.append(f"{root}: cannot be written, which this step does; {advice}")


def _root(values: Mapping[str, Any], dataset: Dataset | None) -> Path:
    """The folder of the data, which may not be there yet."""
    return Path(values["data"]) if dataset is None else dataset.root


def _samples_folder(values: Mapping[str, Any], dataset: Dataset | None) -> Path:
    from mmor.cli.options import samples_folder

    return samples_folder(values["out"], _root(values, dataset))


def _samples(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from operating_room.domain.domain import mmor
    from scene_graph_generation.samples.records import SampleOptions
    from scene_graph_generation.samples.sample_files import frequency_file_name
    from scene_graph_generation.samples.sample_modalities import choose_modalities

    options = SampleOptions(
        permutations=values["permutations"],
        temporal=values["temporal"],
        augment_memory=values["temporal_augmentation"],
        drop_history=values["drop_history"],
        mixed=values["mixed_modalities"],
        modalities=choose_modalities(values["modalities"], mmor() if dataset is None else dataset.domain),
    )
    facts.makes.append(_samples_folder(values, dataset) / options.file_name(values["split"]))
    if values["tokenizer"] is not None:
        facts.fetches.append(values["tokenizer"])
        facts.makes.append(
            _samples_folder(values, dataset) / frequency_file_name(values["split"], values["permutations"])
        )
    size = RECORD_WITH_MEMORY if values["temporal"] else RECORD
    facts.disk = _timepoints(dataset, values["split"]) * values["permutations"] * size


def _downstream_samples(values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from scene_graph_generation.samples.downstream_samples import downstream_file_name

    options = (values[name] for name in ("split", "temporal_augmentation", "drop_history", "published_memory"))
    facts.makes.append(_samples_folder(values, dataset) / downstream_file_name(*options))
    facts.disk = _timepoints(dataset, values["split"]) * values["per_timepoint"] * RECORD_WITH_MEMORY


def _graph_training(default: str, values: Mapping[str, Any], facts: Facts, dataset: Dataset | None) -> None:
    from mmor.cli.scene_graph import read_training
    from scene_graph_generation.training.requirements import missing_tools, output_folder
    from scene_graph_generation.training.starting_point import meta_model, sizes_of
    from scene_graph_generation.training.training_memory import memory_per_gpu, usual_and_worst_load

    given = {name: values[name] for name in ("samples", "out", "data")}
    experiment = read_training(values["options"] or (), values["config"], default, given).experiment
    start, files = experiment.start, experiment.files
    facts.makes.append(output_folder(experiment))
    facts.reads += [*files.samples, *(path for path in (start.curriculum, files.token_frequencies) if path)]
    facts.fetches += [name for name in (start.base, start.vision) if name]
    facts.problems += missing_tools(experiment)
    model = meta_model(experiment, sizes_of(experiment))
    loads = usual_and_worst_load(experiment, model)
    usual, worst = (memory_per_gpu(experiment, model, values["gpus"], load).total + CUDA for load in loads)
    facts.notes.append(f"takes about {usual / GB:.1f} GB of memory, {worst / GB:.1f} GB with the largest batch")
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    _need_gpus(values["gpus"], facts, too_large=sum(size for size, _ in sizes) > ON_A_CPU, memory=usual)
    trained = sum(size for size, is_trained in sizes if is_trained)
    facts.disk = trained * (PARAMETER + CHECKPOINTED * (experiment.train.save_total_limit + 1))


def _need_gpus(wanted: int, facts: Facts, too_large: bool, memory: float = 0.0) -> None:
    """Whether this machine has the GPUs, and they the memory (bytes); `too_large`: a CPU will not do."""
    from computing.machine import gpus

    found = gpus()
    if too_large and not found:
        facts.problems.append("a GPU: this machine has none, and a training of this size is no work for a CPU")
    if 0 < len(found) < wanted:
        facts.problems.append(f"{wanted} GPUs: this machine has {len(found)}")
    if found and memory > min(gpu.memory for gpu in found):
        least = min(found, key=lambda gpu: gpu.memory)
        has = f"{least.name} has {least.memory / GB:.1f} GB"
        facts.problems.append(f"{memory / GB:.1f} GB of GPU memory: {has}; take a smaller batch and accumulate more")


def _timepoints(dataset: Dataset | None, split: str) -> int:
    return 0 if dataset is None else sum(len(dataset.take(take).timepoints) for take in _chosen(dataset, [split]))


def _chosen(dataset: Dataset, names: Sequence[str] | None) -> list[Take]:
    """The takes of these names that are there; that there are none is told elsewhere."""
    try:
        return dataset.choose(names)
    except UserError:
        return []


# Of commands of which more can be told than from the names of their options.
_LOOKS: dict[str, Callable[[Mapping[str, Any], Facts, Dataset | None], None]] = {
    "data convert-relations": _relations,
    "panoptic train": _segmenter_training,
    "panoptic predict": _segmenter_predictions,
    "panoptic export-masks": _segmenter_predictions,
    "panoptic evaluate": _segmenter_scores,
    "scene-graph preprocess": _preprocessing,
    "scene-graph samples": _samples,
    "scene-graph train": partial(_graph_training, "small.yaml"),
    "downstream samples": _downstream_samples,
    "downstream train": partial(_graph_training, "small_downstream.yaml"),
}
