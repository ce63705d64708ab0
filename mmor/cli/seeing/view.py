"""`mmor view`: a page that shows takes second by second."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmor.cli.options import Data, DomainFile, open_dataset


def view(
    take: Annotated[str | None, typer.Argument(help="Name of the take (default: choose in the page).")] = None,
    data: Data = Path("data"),
    domain: DomainFile = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(help="Output folder of `mmor panoptic predict`; twice to compare two."),
    ] = None,
    graphs: Annotated[
        list[Path] | None,
        typer.Option(help="Results of `mmor scene-graph evaluate` or predictions of `infer`; twice to compare two."),
    ] = None,
    live: Annotated[
        Path | None, typer.Option(help="File that `mmor live` is writing: show its last minute as it grows.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Of the page (default: the first free one from 8000 on).", min=1, max=65535)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; one that others can reach needs the token that is printed.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Look at takes in a browser.

    Cameras side by side with masks over them, point cloud, sound, words, robot screen, tracker; true and predicted
    scene graphs, their memory, prompt and answer; predicates over time, with jumps to errors. Ends with ctrl-C.
    """
    from mmor.viewer.serving import serve
    from mmor.viewer.takes import open_shown

    dataset = open_dataset(data, domain)
    chosen = None if take is None else dataset.named(take)
    shown = open_shown(dataset, chosen, masks or (), graphs or (), live)

    def tell(address: str) -> None:
        typer.echo(f"{address} shows {dataset.root if chosen is None else chosen.name}; ctrl-C ends it")

    serve(shown, tell, host, port, not no_browser)
