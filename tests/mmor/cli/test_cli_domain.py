"""`--domain`: every command that reads takes has it, and a mistake in the file is one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mmor.cli import app, main
from operating_room.domain.domain import mmor
from tests.operating_room.tiny_dataset import write_dataset
from tests.operating_room.tiny_house import write_house

READERS = ("data", "root")  # parameters that name a folder of takes
# Counts the takes that it finds; downloads models into a folder.
OTHERS = ("mmor check", "mmor checkpoints download")


def commands(command: Any, name: str = "mmor") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for inner, of in command.commands.items():
            yield from commands(of, f"{name} {inner}")
    else:
        yield name, command


def test_every_command_that_reads_takes_can_be_given_a_domain() -> None:
    readers = {}
    for name, command in commands(typer.main.get_command(app)):
        names = {parameter.name for parameter in command.params}
        if names & set(READERS) and name not in OTHERS:
            readers[name] = "domain" in names
    assert len(readers) > 10
    assert all(readers.values()), [name for name, has in readers.items() if not has]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  entities:\n", "  entitees:\n", "'entitees'"),
        ("name: mmor\n", "nane: mmor\n", "'nane'"),
        ("    - 255\n    - 51\n    - 153\n", "    - 0\n    - 0\n    - 255\n", "colour|color"),
    ],
)
def test_a_mistake_in_a_domain_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: str, new: str, told: str
) -> None:
    data, file = write_dataset(tmp_path / "data"), tmp_path / "room.yaml"
    text = mmor().to_yaml()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    monkeypatch.setattr(sys, "argv", ["mmor", "data", "check", str(data), "--domain", str(file)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.match(rf"error: {re.escape(str(file))}:\d+: .*({told})", said), said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["labels --out made", "samples", "evaluate --out made/r.json"])
def test_a_room_without_downstream_tasks_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # A line about entities in the rule file of this software was all that users of a room of their own were told.
    monkeypatch.chdir(tmp_path)
    write_house(tmp_path / "clinic")
    monkeypatch.setattr(sys, "argv", ["mmor", "downstream", *command.split(), "--data", "clinic"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "error: clinic: takes of domain kitchen have no downstream tasks" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
