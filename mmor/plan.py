"""What the commands of a script would do, before the first one runs: what each needs, makes, and what is missing.

Days of training end badly when the tokenizer of the tenth step cannot be fetched or its extra is not installed. So a
plan reads every command with the command line itself, runs none, and looks for each input among the files that are
there and those that earlier steps make.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmor.needs import GB, Facts, facts_of
from operating_room.errors import UserError
from operating_room.files.raw_files import read_bytes

if TYPE_CHECKING:
    from operating_room.recordings.dataset import Dataset

_SIZES = {  # bytes of what comes from the hub
    "liuhaotian/llava-v1.5-7b": 13.6e9,
    "openai/clip-vit-large-patch14-336": 1.7e9,
    "laion/larger_clap_general": 0.8e9,
}
_PATIENCE = 10  # s that the hub has for an answer


@dataclass(frozen=True)
class Step:
    """A command of a script under a name."""

    name: str
    words: tuple[str, ...]  # mmor ...
    done: bool = False  # it has succeeded in an earlier run


@dataclass(frozen=True)
class Plan:
    """What to print, and what is missing that no step makes."""

    text: str
    missing: list[str]


def read_steps(file: Path, done: Path | None) -> list[Step]:
    """Steps of a file with a line for each: its name and its command, quoted as in a shell.

    Args:
        done: folder with a file for each step that has succeeded, named as the step.

    Raises:
        UserError: the file cannot be read, or a line is no name and command.
    """
    steps = []
    # As the shell that wrote it: names of files may be of any encoding.
    for number, line in enumerate(os.fsdecode(read_bytes(file)).splitlines(), 1):
        try:
            name, program, *words = shlex.split(line)
        except ValueError as error:  # a quote that is not closed, or fewer than two words
            told = f"{file}, line {number}: {line!r} is no step"
            raise UserError(f"{told}; write its name and its command, quoted as in a shell") from error
        steps.append(Step(name, (program, *words), done is not None and (done / name).is_file()))
    return steps


def make_plan(steps: Sequence[Step], folder: Path) -> Plan:
    """Look at every step, in their order.

    Args:
        folder: where the steps write.

    Raises:
        UserError: a command is not one of `mmor`, or its options are wrong.
    """
    lines: list[str] = []
    makers: dict[Path, Step] = {}
    missing: dict[str, None] = {}  # each once
    disk = 0.0
    for step in steps:
        facts = _facts(step, makers)
        lines.append(f"== {step.name}{' (done)' * step.done}: {shlex.join(step.words)}")
        if not step.done:
            told, wrong = _inputs(facts, makers)
            told += [f"MISSING {problem}" for problem in wrong if problem not in missing]
            missing |= dict.fromkeys(wrong)
            disk += facts.disk
            space = f" (about {facts.disk / GB:.1f} GB)" if facts.disk >= GB / 10 else ""
            lines += [f"   {line}" for line in told]
            lines += [f"   makes {', '.join(map(str, facts.makes))}{space}"] if facts.makes else []
        makers = dict.fromkeys(facts.makes, step) | makers  # who made something first counts
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    if disk > free:
        missing[f"{place}: the steps write about {disk / GB:.0f} GB, {free / GB:.0f} GB are free"] = None
    left = sum(not step.done for step in steps)
    lines.append(f"{len(steps)} steps, {left} to do: about {disk / GB:.1f} GB to write, {free / GB:.1f} GB free")
    lines += ["missing, and no step makes it:", *(f"  {line}" for line in missing)] if missing else ["nothing missing"]
    return Plan("\n".join(lines), list(missing))


def parse(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command that words name, such as `panoptic train`, and the values of its options.

    Raises:
        UserError: there is no such command, or an option is wrong.
    """
    told = shlex.join(words)
    program, *rest = words
    if program != "mmor":
        raise UserError(f"{told}: is no command of mmor")
    command = _command_line()
    names: list[str] = []
    while hasattr(command, "commands"):
        name = rest.pop(0) if rest else ""
        if name not in command.commands:
            raise UserError(f"{told}: there is no command {name!r}; choose one of {', '.join(command.commands)}")
        names.append(name)
        command = command.commands[name]
    try:
        return " ".join(names), command.make_context(" ".join(names), rest).params
    except typer.TyperException as error:
        raise UserError(f"{told}: {error}") from error


@cache
def _command_line() -> Any:
    """`mmor` with all its commands."""
    from mmor.cli import app

    return typer.main.get_command(app)


def _facts(step: Step, makers: Mapping[Path, Step]) -> Facts:
    name, values = parse(step.words)
    data = next((Path(values[key]) for key in ("data", "root") if values.get(key) is not None), None)
    dataset, problem = _dataset(data, values.get("domain"), makers)
    try:
        facts = facts_of(name, values, dataset)
    except UserError as error:
        raise UserError(f"{step.name}: {error}") from error
    facts.reads[:0] = [] if data is None else [data]
    facts.problems += [] if problem is None else [problem]
    return facts


def _dataset(data: Path | None, domain: Path | None, makers: Mapping[Path, Step]) -> tuple[Dataset | None, str | None]:
    """The data that a command reads, if it is there already, and what is wrong with it."""
    from mmor.cli.options import open_dataset

    if data is None or not data.is_dir():
        return None, None
    try:
        return open_dataset(data, domain), None
    except UserError as error:
        step = _maker(data, makers)
        return None, None if step is not None and not step.done else str(error)


def _inputs(facts: Facts, makers: Mapping[Path, Step]) -> tuple[list[str], list[str]]:
    """A line for everything that a command needs, and what of it is missing."""
    lines, missing = [], []
    for path in dict.fromkeys(facts.reads):
        step = _maker(path, makers)
        coming = step is not None and not step.done
        lost = not coming and not path.exists()
        told = f"{path}: no such file or folder" + (f", though {step.name} is marked as done" if step else "")
        lines.append(f"needs {path} ({step.name} makes it)" if coming and step else f"needs {path}" + " MISSING" * lost)
        missing += [told] if lost else []
    for name in dict.fromkeys(facts.fetches):
        origin, problem = _find(name)
        lines.append(f"needs {name} ({origin})" + (" MISSING" if problem else ""))
        missing += [problem] if problem else []
    return lines + facts.notes, missing + facts.problems


def _find(name: str) -> tuple[str, str | None]:
    """Where a base or tokenizer comes from, and why it cannot."""
    from computing.hub import hub_errors
    from scene_graph_generation.training.starting_point import found_base

    if Path(name).is_dir():
        return "a folder", None
    if found_base(name):
        return "in the cache of the model hub", None
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE

    origin = "from the model hub" + (f", {_SIZES[name] / GB:.1f} GB" if name in _SIZES else "")
    try:
        with hub_errors(name):
            HfApi().model_info(name, timeout=_PATIENCE)
    except UserError as error:
        return origin, str(error)
    place = _existing(Path(HF_HUB_CACHE))
    free = shutil.disk_usage(place).free
    return origin, None if free > _SIZES.get(name, 0) else f"{place}: no room for {name}; {free / GB:.1f} GB are free"


def _maker(path: Path, makers: Mapping[Path, Step]) -> Step | None:
    """The step that makes a file or folder, or the folder around it."""
    return next((makers[place] for place in (path, *path.parents) if place in makers), None)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
