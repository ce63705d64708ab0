"""`mmor report`: results files as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmor.cli.options import DATA_FOLDER, chosen_domain, open_dataset, tell_notes


def report(
    results: Annotated[list[Path], typer.Argument(help="Results JSON of `evaluate`: scene graphs, masks, downstream.")],
    out: Annotated[Path, typer.Option(help="The page, one HTML file of at most 5 MB.")] = Path("report.html"),
    csv: Annotated[Path | None, typer.Option(help="Folder for the same numbers as CSV files.")] = None,
    data: Annotated[Path | None, typer.Option(help=f"{DATA_FOLDER} Gives pictures of the worst seconds.")] = None,
    domain: Annotated[
        Path | None, typer.Option(help="A file, mmor or egoexor (default: as the results say, or that of the data).")
    ] = None,
) -> None:
    """Make one page of results. Two of the same task are compared."""
    from mmor.reports.page import write_report
    from mmor.reports.pictures import Album

    album = None if data is None else Album(open_dataset(data, domain))
    chosen = chosen_domain(domain) or (None if album is None else album.dataset.domain)
    notes = write_report(results, out, chosen, album, csv)
    typer.echo(f"open {out} in a browser")
    if csv is not None:
        typer.echo(f"CSV files in {csv}")
    tell_notes(notes)
