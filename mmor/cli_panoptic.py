"""`mmor panoptic`: from the cameras of takes to panoptic masks and their VPQ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmor.cli_data import CPUS, Workers

app = typer.Typer(help="Panoptic masks: train, predict, score.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="Folder that holds MM-OR_data and/or 4D-OR_data.")]
Takes = Annotated[list[str] | None, typer.Option(help="Take or split; repeat for several (default: all on disk).")]
ConfigFile = Annotated[Path, typer.Option(help="Experiment file with the published keys.")]


@app.command("train")
def train(
    config_file: ConfigFile = Path("configs/panoptic/small.yaml"),
    data: Data = Path("data"),
    out: Annotated[Path | None, typer.Option(help="Folder of the model (default: OUTPUT_DIR of the file).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    workers: Workers = CPUS,
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY VALUE pairs that override the file.")] = None,
) -> None:
    """Train a segmenter."""
    from panoptic_segmentation.config import read_config
    from panoptic_segmentation.train import train

    config = read_config(config_file, overrides or ())
    folder = out or Path(config.output_folder)
    path = train(config, data, folder, folder / "ground_truth", resume=resume, workers=workers)
    typer.echo(f"model in {path}")


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Option(help="Model file.")],
    out: Annotated[Path, typer.Option(help="Folder that gets inference/pan_pred and the prediction file.")],
    data: Data = Path("data"),
    take: Takes = None,
    name: Annotated[str, typer.Option(help="Of the prediction file, pred_NAME.json.")] = "test",
) -> None:
    """Segment the annotated cameras of takes. Videos that are predicted already are kept."""
    from operating_room.dataset import Dataset
    from panoptic_segmentation.ground_truth import find_videos
    from panoptic_segmentation.predict import load, predict

    dataset = Dataset(data)
    videos = find_videos(dataset, dataset.choose(take))
    typer.echo(f"predictions in {predict(*load(model), videos, out, name, model)}")


@app.command("evaluate")
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder with the predictions; gets the scores.")],
    data: Data = Path("data"),
    take: Takes = None,
    name: Annotated[str, typer.Option(help="Of the prediction file, pred_NAME.json.")] = "test",
    canvas: Annotated[
        str, typer.Option(help="Width x height in px of all pictures; simulated: 320x240.")
    ] = "2048x1536",
    workers: Workers = CPUS,
) -> None:
    """Score predictions by video panoptic quality and print the table."""
    from mmor.cli_data import parse_size
    from operating_room.dataset import Dataset
    from panoptic_segmentation.evaluate import evaluate
    from panoptic_segmentation.ground_truth import find_videos

    dataset = Dataset(data)
    videos = find_videos(dataset, dataset.choose(take))
    quality = evaluate(videos, out, name, out / "ground_truth", f"ground_truth_{name}", parse_size(canvas), workers)
    typer.echo(str(quality))
