"""`mmor checkpoints`: what is published, downloading it, and what a model on disk is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Published models: list, download, inspect.", no_args_is_help=True)


@app.command("list")
def show(
    files: Annotated[bool, typer.Option("--files", help="Ask the hub for the files and their sizes.")] = False,
) -> None:
    """Name everything that can be downloaded. Also where it goes, how large it is and what it scores."""
    from mmor.hub import PUBLISHED, list_files

    for entry in PUBLISHED:
        typer.echo(f"{entry.name}: {entry.what}")
        typer.echo(f"    from {'/'.join(filter(None, (entry.repository, entry.folder)))}")
        typer.echo(f"    to   {entry.target or 'the cache of the hub, where loading by name finds it'}")
        found = list_files(entry) if files else []
        size = f"{sum(file.size for file in found) / 1e9:.2f} GB" if files else entry.size
        typer.echo(f"    size {size}; score: {entry.metric}")
        for file in found:
            typer.echo(f"      {file.size / 1e6:10.1f} MB  {file.path}")


@app.command("download")
def download(
    name: Annotated[str, typer.Argument(help="One of the names that `list` prints.")],
    root: Annotated[Path, typer.Option(help="Folder below which it is put.")] = Path(),
) -> None:
    """Download a published model and unpack it. What is there is kept; an interrupted download goes on."""
    from mmor.hub import download, find_published

    for path in download(find_published(name), root):
        typer.echo(path)


@app.command("inspect")
def inspect(path: Annotated[Path, typer.Argument(help="Model file or folder.")]) -> None:
    """Say what a model is. Also how many parameters it has, and what it needs."""
    from mmor.inspection import inspect

    typer.echo(inspect(path))
