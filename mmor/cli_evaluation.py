"""`mmor scene-graph infer | evaluate`: generate the scene graphs of takes, score them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmor.cli_options import Data, Relations, Takes, load_split, open_takes

app = typer.Typer()  # its commands are commands of `mmor scene-graph`


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

    dataset, takes = open_takes(data, take)
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

    typer.echo(str(evaluate(load_split(relations, split, data), predictions, out)))
