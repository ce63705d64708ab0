"""`mmor scene-graph`: from prepared takes to scene graphs and their scores."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from operating_room.dataset import Dataset
    from operating_room.takes import Take

app = typer.Typer(help="Scene graphs: prepare, train, generate, score.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="Folder that holds MM-OR_data and/or 4D-OR_data.")]
Takes = Annotated[list[str] | None, typer.Option(help="Take or split; repeat for several (default: all on disk).")]
Relations = Annotated[Path, typer.Option(help="Folder with the relationships_*.json files.")]


class Step(StrEnum):
    """What `preprocess` can prepare."""

    AUDIO = "audio"
    EMBEDDINGS = "audio-embeddings"
    TRANSCRIPTS = "transcripts"
    MASKS = "masks"
    ALL = "all"


class AudioEncoder(StrEnum):
    """Where audio vectors come from: CLAP as published, or our weightless mel descriptor."""

    CLAP = "clap"
    MEL = "mel"


@app.command("preprocess")
def preprocess(
    step: Annotated[Step, typer.Argument(help="What to prepare.")],
    data: Data = Path("data"),
    take: Takes = None,
    audio_encoder: Annotated[AudioEncoder, typer.Option(help="Published: clap; small model: mel.")] = AudioEncoder.CLAP,
    predictions: Annotated[Path | None, typer.Option(help="Stage 1's pan_pred folder (masks).")] = None,
    from_annotations: Annotated[
        bool, typer.Option("--from-annotations", help="Masks from annotated label masks, read in place of predictions.")
    ] = False,
) -> None:
    """Prepare the files of each timepoint. What exists is kept: an interrupted run goes on where it stopped."""
    from operating_room.errors import UserError
    from scene_graph_generation.preprocess import audio, embeddings, masks, transcripts

    if step in (Step.MASKS, Step.ALL) and (predictions is None) != from_annotations:
        raise UserError("masks come either from --predictions FOLDER or --from-annotations; give one of them")
    dataset, takes = _open(data, take)
    written = 0
    if step in (Step.AUDIO, Step.ALL):
        written += audio.preprocess_audio(dataset, takes)
    if step in (Step.EMBEDDINGS, Step.ALL):
        encoder = embeddings.clap_encoder() if audio_encoder == AudioEncoder.CLAP else embeddings.mel_descriptor
        written += embeddings.preprocess_audio_embeddings(dataset, takes, encoder)
    if step in (Step.TRANSCRIPTS, Step.ALL):
        written += transcripts.preprocess_transcripts(dataset, takes)
    if step in (Step.MASKS, Step.ALL):
        written += masks.preprocess_masks(dataset, takes, predictions, as_predictions=from_annotations)
    typer.echo(f"{written} files written for {len(takes)} takes")


@app.command("samples")
def samples(
    data: Data = Path("data"),
    relations: Relations = Path("data"),
    split: Annotated[str, typer.Option(help="train, val, test, or own (takes in no published list).")] = "train",
    out: Annotated[Path, typer.Option(help="Folder for the training JSON.")] = Path("data/llava_samples"),
    permutations: Annotated[int, typer.Option(help="Records per timepoint.", min=1)] = 20,
    temporal: Annotated[bool, typer.Option("--temporal", help="With memory of the past.")] = False,
    mixed_modalities: Annotated[
        bool, typer.Option("--mixed-modalities", help="Modalities swapped with those of similar samples.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all random draws.")] = 0,
) -> None:
    """Write the training JSON in the published form."""
    from random import Random

    from operating_room.dataset import Dataset
    from operating_room.files import write_json
    from scene_graph_generation.samples import SampleOptions, training_records

    options = SampleOptions(permutations=permutations, temporal=temporal, mixed=mixed_modalities)
    generator = Random(seed)
    records = list(training_records(Dataset(data), _load_samples(relations, split, data), options, generator))
    generator.shuffle(records)
    path = out / options.file_name(split)
    write_json(path, records)
    typer.echo(f"{len(records)} records in {path}")


@app.command("train")
def train(
    samples: Annotated[
        list[Path], typer.Option(help="Training JSON, from `mmor scene-graph samples`; may be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    config: Annotated[Path, typer.Option(help="Experiment file.")] = Path("configs/scene_graph/small.yaml"),
    data: Data = Path("data"),
) -> None:
    """Train a model; a training that was interrupted goes on from its last checkpoint in --out."""
    from operating_room.dataset import Dataset
    from scene_graph_generation.config import read_experiment
    from scene_graph_generation.train import train

    train(read_experiment(config), samples, Dataset(data), out)
    typer.echo(f"model in {out}")


@app.command("infer")
def infer(
    model: Annotated[Path, typer.Option(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Predictions JSON.")],
    data: Data = Path("data"),
    take: Takes = None,
    memory: Annotated[bool, typer.Option(help="Each prompt has the memory of the take's own predictions.")] = True,
    batch_size: Annotated[int, typer.Option(help="Timepoints at once; with memory: takes side by side.", min=1)] = 8,
) -> None:
    """Generate the scene graphs of whole takes. A predictions file that is not complete is continued."""
    from scene_graph_generation.checkpoints import load_model
    from scene_graph_generation.infer import SceneGraphGenerator, infer

    dataset, takes = _open(data, take)
    predictions = infer(
        SceneGraphGenerator(*load_model(model)),
        dataset,
        dict.fromkeys(takes),
        out,
        memory=memory,
        batch_size=batch_size,
    )
    typer.echo(f"{len(predictions)} scene graphs in {out}")


@app.command("evaluate")
def evaluate(
    predictions: Annotated[Path, typer.Option(help="Predictions JSON, from `mmor scene-graph infer`.")],
    data: Data = Path("data"),
    relations: Relations = Path("data"),
    split: Annotated[str, typer.Option(help="train, val, test, or own (takes in no published list).")] = "test",
    out: Annotated[Path | None, typer.Option(help="Also write the scores as JSON.")] = None,
) -> None:
    """Score scene graphs against the annotations of the takes on disk."""
    from scene_graph_generation.evaluate import evaluate

    typer.echo(str(evaluate(_load_samples(relations, split, data), predictions, out)))


def _open(data: Path, names: list[str] | None) -> tuple[Dataset, list[Take]]:
    """The dataset and the chosen takes on disk; a split means those of its takes that are there."""
    from operating_room.dataset import Dataset

    dataset = Dataset(data)
    return dataset, dataset.choose(names)


def _load_samples(relations: Path, split: str, data: Path) -> list:
    """The samples of a split whose takes are on disk."""
    from operating_room.dataset import Dataset
    from operating_room.errors import UserError
    from operating_room.relations import OWN_TAKES, SPLIT_NAMES, load_samples

    names = SPLIT_NAMES | {OWN_TAKES: OWN_TAKES}
    if split not in names:
        raise UserError(f"split {split!r} has no relations file; choose one of {', '.join(names)}")
    on_disk = {take.sample_name for take in Dataset(data).takes()}
    path = relations / f"relationships_{names[split]}.json"
    samples = [sample for sample in load_samples(path) if sample.take_name in on_disk]
    if not samples:
        raise UserError(f"{path}: none of its takes is in {data}; unpack or simulate one of the split {split}")
    return samples
