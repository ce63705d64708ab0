"""The command line `mmor`: parse, call one function, print. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from operating_room.errors import UserError

app = typer.Typer(
    name="mmor",
    help="Understanding whole operating rooms: panoptic masks and scene graphs of recorded surgeries (MM-OR, 4D-OR).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="What is on disk; simulated takes; relation files.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Root = Annotated[Path, typer.Argument(help="Folder that holds MM-OR_data and/or 4D-OR_data.")]
Workers = Annotated[int, typer.Option(help="Processes.", min=1)]
_CPUS = os.cpu_count() or 1


@data_app.command("check")
def data_check(
    root: Root = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell what is on disk and what is wrong with it. Exit code: 0 complete, 1 gaps, 2 broken files."""
    from operating_room.doctor import check

    report = check(root)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else str(report))
    raise typer.Exit(report.exit_code)


@data_app.command("convert-relations")
def data_convert_relations(
    root: Root = Path("data"),
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("data"),
) -> None:
    """Write relationships_{train,validation,test}.json, classes.txt and relationships.txt from the raw labels."""
    from operating_room.relations import convert

    for path in convert(root, out):
        typer.echo(path)


@data_app.command("synthesize")
def data_synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets MM-OR_data and 4D-OR_data.")],
    take: Annotated[list[str] | None, typer.Option(help="Take or split (default: test); repeat for several.")] = None,
    seconds: Annotated[int, typer.Option(help="Timepoints of each take (1 per second).", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    size: Annotated[str, typer.Option(help="Width x height of the pictures in px.")] = "320x240",
    workers: Workers = _CPUS,
    relations: Annotated[Path | None, typer.Option(help="Render the graphs of this relationships_*.json.")] = None,
    without_room_cameras: Annotated[list[str] | None, typer.Option(help="Fault: a take without room cameras.")] = None,
    without_tracker: Annotated[list[str] | None, typer.Option(help="Fault: a take without tracker file.")] = None,
    missing_frames: Annotated[float, typer.Option(help="Fault: share of single files that are lost.", min=0)] = 0.0,
    mask_stride: Annotated[int, typer.Option(help="Only every n-th timepoint has label masks.", min=1)] = 1,
) -> None:
    """Write simulated takes in the published layout. A finished take is left as it is; an interrupted one is redone."""
    from operating_room.relations import load_samples
    from operating_room.synthetic import annotated, story, writer

    faults = writer.Faults(tuple(without_room_cameras or ()), tuple(without_tracker or ()), missing_frames)
    takes = writer.named_takes(take or ["test"])
    if relations is None:
        surgeries = [story.script_surgery(each, seed, seconds) for each in takes]
    else:
        samples = load_samples(relations)
        surgeries = [annotated.annotated_surgery(each, samples, seed, seconds) for each in takes]
    writer.write_takes(out, surgeries, size=_size(size), workers=workers, faults=faults, mask_stride=mask_stride)
    typer.echo(f"{len(surgeries)} takes are in {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo"),
    seconds: Annotated[int, typer.Option(help="Length of the simulated take.", min=8)] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the simulated take.", min=0)] = 2026,
    train: Annotated[bool, typer.Option("--train", help="Train both models first (about 15 minutes on 2 cores).")] = False,
) -> None:
    """Simulate a take nobody trained on, segment it, write its scene graphs, score both, write report.html."""
    from mmor.demo import run_demo

    typer.echo(f"open {run_demo(out, seconds, seed, train)} in a browser")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UserError(f"--size {text}: write width x height, for example 320x240")
    return int(width), int(height)


def main() -> None:
    """Entry point of the console command; a user's mistake ends with one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
