"""`mmor data import`: recordings of others into the house layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmor.cli.options import CPUS
from operating_room.errors import one_line

app = typer.Typer(help="Recordings of others into the house layout.", no_args_is_help=True)


@app.command("egoexor")
def egoexor(
    source: Annotated[Path, typer.Argument(help="A file of EgoExOR, or the folder of the files of one release.")],
    out: Annotated[Path, typer.Option(help="Folder that gets domain.yaml, splits.yaml and takes.")],
    take: Annotated[
        list[str] | None, typer.Option(help="Only this take, like MISS_1_2; repeat for several (default: all).")
    ] = None,
    colours: Annotated[
        Literal["true_rgb", "as_trained", "as_evaluated"],
        typer.Option(help="True colours, or the channels as the published training or evaluation took them."),
    ] = "true_rgb",
    pictures: Annotated[
        Literal["jpg", "png"], typer.Option(help="jpg of quality 95, or png without loss, which takes more room.")
    ] = "jpg",
    gaze: Annotated[
        Literal["corrected", "stored"] | None,
        typer.Option(help="Correct the takes whose glasses were off (default: in the first release)."),
    ] = None,
    period: Annotated[
        float | None, typer.Option(help="s between frames of takes without sound, which tells it (default: 1/15).")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes at most (fewer where memory is short).", min=1)] = CPUS,
) -> None:
    """Import EgoExOR's HDF5 files, of either release. An interrupted import goes on where it was.

    Prints what the files are: what the published descriptions leave open. Exit code: 0 all imported, 1 some takes or
    files are left out, each with a line that says why.
    """
    from operating_room.importers.egoexor.importing import import_egoexor

    report = import_egoexor(
        source, out, colours=colours, pictures=pictures, gaze=gaze, period=period, takes=take, workers=workers
    )
    typer.echo(str(report))
    for problem in report.problems:
        typer.echo(f"left out: {one_line(problem)}", err=True)
    raise typer.Exit(1 if report.problems else 0)
