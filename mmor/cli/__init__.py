"""The command line `mmor`: parse, call one function, print. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from mmor.cli import checkpoints as cli_checkpoints
from mmor.cli import data as cli_data
from mmor.cli import downstream as cli_downstream
from mmor.cli import evaluation as cli_evaluation
from mmor.cli import live as cli_live
from mmor.cli import panoptic as cli_panoptic
from mmor.cli import scene_graph as cli_scene_graph
from mmor.cli.seeing import export as cli_export
from mmor.cli.seeing import report as cli_report
from mmor.cli.seeing import view as cli_view
from mmor.launch import follow_launcher, is_first_to_say
from mmor.quiet import quiet_libraries
from operating_room.errors import UserError, one_line
from operating_room.work.processes import allow_open_files, ended_as_by_ctrl_c

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
app = typer.Typer(
    name="mmor",
    help="Understanding whole operating rooms: panoptic masks and scene graphs of recorded surgeries (MM-OR, 4D-OR).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_panoptic.app, name="panoptic")
app.add_typer(cli_scene_graph.app, name="scene-graph")
app.add_typer(cli_downstream.app, name="downstream")
app.add_typer(cli_checkpoints.app, name="checkpoints")
app.add_typer(cli_export.app, name="export")
app.add_typer(cli_export.import_app, name="import")
app.command("compare")(cli_evaluation.compare)
app.command("live")(cli_live.live)
app.command("report")(cli_report.report)
app.command("view")(cli_view.view)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo"),
    seconds: Annotated[int, typer.Option(help="Length of the simulated take in s.", min=40)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the simulated take.", min=0)] = 2026,
    train: Annotated[bool, typer.Option("--train", help="Train both models first (10-15 minutes on 2 cores).")] = False,
    segmenter: Annotated[
        Path | None, typer.Option(help="Segmenter: file or folder (default: the small one that comes with this).")
    ] = None,
) -> None:
    """Run both stages on a simulated take. Nobody trained on it; both are scored, report.html shows all."""
    from mmor.demo import run_demo

    typer.echo(f"open {run_demo(out, seconds, seed, train, segmenter)} in a browser")


@app.command()
def check(
    data: Annotated[Path, typer.Option(help="Folder that holds MM-OR_data and/or 4D-OR_data.")] = Path("data"),
    full: Annotated[bool, typer.Option("--full", help="Also at the published size, with random weights.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write everything to this file, too.")] = None,
) -> None:
    """Say whether this machine will do.

    Tells what it has, and whether every path it can take gives the right numbers. Needs no data and no network. Paste
    what it prints into a question.
    """
    from mmor.check.run import check

    with ended_as_by_ctrl_c():
        right = check(data, full, out, typer.echo)
    if not right:
        raise typer.Exit(1)


@app.command(hidden=True)
def plan(
    steps: Annotated[Path, typer.Argument(help="File with a line for each step: its name, its command.")],
    out: Annotated[Path, typer.Option(help="Folder that the steps write to.")],
    done: Annotated[Path | None, typer.Option(help="Folder with a file for each step that has succeeded.")] = None,
) -> None:
    """Say what the steps of a script would do and need, and what is missing; run none (scripts/paper.sh)."""
    from mmor.plan import make_plan, read_steps

    found = make_plan(read_steps(steps, done), out)
    typer.echo(found.text)
    if found.missing:
        raise UserError(f"{len(found.missing)} things are missing that no step makes, see above")


def main() -> None:
    """Entry point of the console command; a user's mistake ends with one line and exit code 2."""
    quiet_libraries()
    follow_launcher()
    allow_open_files()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # As Python does for standard error: a name or a word that the terminal has no letters for ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    try:
        _require_values(sys.argv[1:])
        app()
    except UserError as error:
        problem = str(error)
    except OSError as error:
        # Wherever a file is looked up: it may not be (a folder above it is closed to this user), or its name cannot be.
        if isinstance(error.filename, str | bytes):
            problem = f"{one_line(os.fsdecode(error.filename))[:200]}: {error.strerror}; check path and permissions"
        elif error.errno in _OF_DISKS:  # in the middle of a file, which is not named then
            problem = f"{error.strerror}; free some space, also in {tempfile.gettempdir()}, and run it again"
        else:
            raise
    else:
        return
    if is_first_to_say(problem):
        for line in problem.split("\n"):  # of several problems, one each
            print(f"error: {one_line(line)}", file=sys.stderr)
    raise SystemExit(2)


def _at_home(word: str) -> str:
    """`--out=~/model` in the home folder: shells leave the ~ behind a `=` as it is, and a folder called ~ was made."""
    name, sign, value = word.partition("=")
    return name + sign + os.path.expanduser(value) if name.startswith("--") else word


def _require_values(words: list[str]) -> None:
    """An empty path would be the folder where one happens to be. Keys of a segmenter may be empty: MODEL.WEIGHTS "".

    Raises:
        UserError: an option has nothing for its value, or an argument is nothing.
    """
    for option, value in pairwise(["", *words, "-"]):
        name, sign, own = option.partition("=")
        if name.startswith("--") and len(name) > 2 and (not own if sign else not value):
            raise UserError(f"{name}: its value is empty, as that of a shell variable which is not set")
        if not value and not option.isupper():
            raise UserError("an argument is empty, as the value of a shell variable which is not set")
