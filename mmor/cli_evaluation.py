"""`mmor scene-graph infer | evaluate | evaluate-all`: generate the scene graphs of takes, score them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmor.cli_options import Bits, BitsOption, Data, Device, Relations, Split, Takes, finish, load_split, open_takes

if TYPE_CHECKING:
    from operating_room.scene_graph import Sample
    from scene_graph_generation.evaluate import Evaluation
    from scene_graph_generation.infer import SceneGraphGenerator

app = typer.Typer()  # its commands are commands of `mmor scene-graph`


class Config(StrEnum):
    """The published configurations of the evaluation."""

    MMOR = "mmor"
    MMOR_TEMPORAL_PRED = "mmor_temporal_pred"


ConfigOption = Annotated[
    Config,
    typer.Option(
        parser=lambda name: Config(str(name).removesuffix(".json")),
        metavar="|".join(Config),
        help="mmor: without memory; mmor_temporal_pred: with the memory of the take's own predictions.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Timepoints at once; with memory: takes side by side.", min=1)]


@app.command("infer")
def infer(
    model: Annotated[Path, typer.Option(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Predictions JSON.")],
    data: Data = Path("data"),
    take: Takes = None,
    memory: Annotated[bool, typer.Option(help="Each prompt has the memory of the take's own predictions.")] = True,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
) -> None:
    """Generate the scene graphs of whole takes. A run that was interrupted is continued."""
    from scene_graph_generation.infer import infer

    dataset, takes = open_takes(data, take)
    generator = load_generator(model, device, bits)
    predictions = infer(generator, dataset, dict.fromkeys(takes), out, memory=memory, batch_size=batch_size)
    typer.echo(f"{len(predictions)} scene graphs in {out}")


@app.command("evaluate")
def evaluate(
    model_path: Annotated[
        Path | None, typer.Option("--model-path", "--model_path", help="Folder of the model to evaluate.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this file of `mmor scene-graph infer` instead.")
    ] = None,
    config: ConfigOption = Config.MMOR,
    data: Data = Path("data"),
    relations: Relations = Path("data"),
    split: Split = "test",
    out: Annotated[
        Path | None,
        typer.Option(help="Results JSON (default with a model: evaluation/CONFIG_SPLIT.json in its folder)."),
    ] = None,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
) -> None:
    """Score a model, or a predictions file, against the annotations. A run that was interrupted is continued."""
    from operating_room.errors import UserError
    from scene_graph_generation.evaluate import evaluate_file
    from scene_graph_generation.evaluate_all import results_path

    if (model_path is None) == (predictions is None):
        raise UserError("evaluate needs either --model-path FOLDER or --predictions FILE")
    samples = load_split(relations, split, data)
    if predictions is not None:
        evaluation = evaluate_file(samples, predictions, out)
    else:
        assert model_path is not None
        out = out or results_path(model_path, f"{config}_{split}")
        evaluation = _evaluator(samples, config, split, data, batch_size, device, bits)(model_path, out)
    typer.echo(str(evaluation))
    if out is not None:
        typer.echo(f"results in {out}")
    finish(evaluation.problems)


@app.command("evaluate-all")
def evaluate_all(
    folder: Annotated[Path, typer.Argument(help="Folder of a training, with its checkpoints.")],
    config: ConfigOption = Config.MMOR,
    data: Data = Path("data"),
    relations: Relations = Path("data"),
    split: Split = "test",
    every: Annotated[int, typer.Option(help="Only every n-th checkpoint.", min=1)] = 1,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
    wandb: Annotated[str | None, typer.Option(help="Also log to this project of Weights & Biases.")] = None,
) -> None:
    """Evaluate the checkpoints that were not evaluated yet; one table of all."""
    from scene_graph_generation import evaluate_all

    name = f"{config}_{split}"
    run = _evaluator(load_split(relations, split, data), config, split, data, batch_size, device, bits)
    log = None if wandb is None else _wandb_log(wandb, f"{folder.name} {name}")
    rows, problems = evaluate_all.evaluate_all(folder, name, run, every, log)
    typer.echo(evaluate_all.table(rows))
    typer.echo(f"table in {folder / f'{name}.csv'}")
    finish(problems)


def compare(
    first: Annotated[Path, typer.Argument(help="Results JSON of `evaluate`.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same task.")],
) -> None:
    """Tell what changed between two evaluations, and whether it is more than chance."""
    from operating_room.comparison import compare

    typer.echo(str(compare(first, second)))


def load_generator(model: Path, device: str | None, bits: Bits | None) -> SceneGraphGenerator:
    """The model of a folder on a device."""
    from operating_room.machine import choose_device
    from scene_graph_generation import precision
    from scene_graph_generation.checkpoints import load_model
    from scene_graph_generation.infer import SceneGraphGenerator

    chosen = str(choose_device(device))
    choices: dict[Bits | None, precision.Bits | None] = {None: None, "4": 4, "16": 16, "32": 32}
    return SceneGraphGenerator(*load_model(model, bits=choices[bits], device=chosen), chosen)


def _evaluator(
    samples: list[Sample],
    config: Config,
    split: str,
    data: Path,
    batch_size: int,
    device: str | None,
    bits: Bits | None,
) -> Callable[[Path, Path], Evaluation]:
    """Evaluates a model folder into a results file."""
    from operating_room.dataset import Dataset
    from scene_graph_generation.evaluate import evaluate_model

    def evaluate(model: Path, out: Path) -> Evaluation:
        about = {"folder": str(model), "config": str(config), "split": split}
        generator, memory = load_generator(model, device, bits), config == Config.MMOR_TEMPORAL_PRED
        return evaluate_model(generator, Dataset(data), samples, out, about, memory, batch_size)

    return evaluate


def _wandb_log(project: str, name: str) -> Callable[[tuple[Any, ...]], None]:
    """Logs rows of the table."""
    from operating_room.tracking import check_wandb
    from scene_graph_generation.evaluate_all import COLUMNS

    check_wandb("--wandb")
    import wandb

    run = wandb.init(project=project, name=name)

    def log(row: tuple[Any, ...]) -> None:
        step, *scores = row
        run.log(dict(zip(COLUMNS[1:], scores)), step=step)

    return log
