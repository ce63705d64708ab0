"""`mmor scene-graph`: from prepared takes to scene graphs and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmor import cli_evaluation, cli_preprocess
from mmor.cli_options import Data

app = typer.Typer(help="Scene graphs: prepare, train, generate, score.", no_args_is_help=True)
app.add_typer(cli_preprocess.app)
app.add_typer(cli_evaluation.app)


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
