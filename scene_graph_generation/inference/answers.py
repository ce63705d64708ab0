"""Generated texts on disk while a run generates them: a run that was killed goes on behind the last one."""

from __future__ import annotations

import errno
import fcntl
import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from operating_room.errors import UserError

_BUSY = (errno.EAGAIN, errno.EACCES)  # what locking says where another process has the file; NFS says EACCES


@dataclass(frozen=True)
class Answer:
    """A generated text; `question` identifies what was asked, so that it is no answer once that has changed."""

    key: str
    question: str
    text: str


class Answers:
    """Answers by key, each appended to a file as it comes."""

    def __init__(self, path: Path, file: FileIO, stored: dict[str, Answer]) -> None:
        self._path = path
        self._file = file
        self._stored = stored

    def find(self, key: str, question: str) -> str | None:
        """The text that was generated for just this question."""
        answer = self._stored.get(key)
        return answer.text if answer is not None and answer.question == question else None

    def text(self, key: str) -> str | None:
        """The text that was generated last for this key, whatever the question was."""
        answer = self._stored.get(key)
        return None if answer is None else answer.text

    def add(self, answers: Sequence[Answer]) -> None:
        """Store new answers, in place of older ones with the same key.

        Raises:
            UserError: the disk is full.
        """
        _append(self._path, self._file, [[answer.key, answer.question, answer.text] for answer in answers])
        self._stored.update({answer.key: answer for answer in answers})


@contextmanager
def open_answers(path: Path, about: Mapping[str, Any]) -> Generator[Answers]:
    """The answers that a file holds, with `add` for more. One run at a time has it.

    JSON lines: `about` first, then [key, question, text]. A line that a killed run left unfinished is cut off; one that
    is damaged costs its own answer, which is told.

    Args:
        path: the file; made if it does not exist.
        about: what decides the answers (JSON values): those of another model or setting are not taken for ours.

    Raises:
        UserError: another run has the file, it holds answers about something else, its first line is damaged, or it
            cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)  # what is written is on disk; nothing is left to fail at closing
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output") from error
    with file:
        _lock(path, file)
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        stored = {}
        if lines:
            _require_same(path, _read_about(path, lines[0]), json.loads(json.dumps(about)))
            stored = _read(path, lines[1:])
        else:
            _append(path, file, [about])
        yield Answers(path, file, stored)


def put_aside(path: Path, about: Mapping[str, Any]) -> None:
    """Rename a file that holds the answers of another model, so that this one's have its place; others stay."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        line = file.readline()
    there = _read_about(path, line) if line.endswith(b"\n") else about
    if (other := there.get("model")) != about["model"]:
        place = path.with_name(f"{path.stem}.of_{other}.jsonl")
        path.replace(place)
        print(f"{path}: holds the answers of another model, which are now in {place.name}", file=sys.stderr)


def _lock(path: Path, file: FileIO) -> None:
    """Keep other runs from the file. Some network file systems have no locks (Lustre without -o flock): that is told.

    Raises:
        UserError: another run has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise UserError(f"{path}: another run is writing it; wait for it or choose another output") from error
        print(f"{path}: cannot be locked ({error.strerror}); start no second run with this output", file=sys.stderr)


def _require_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in {**wanted, **there}:
        if there.get(name) != wanted.get(name):
            raise UserError(
                f"{path}: holds answers with {name} {there.get(name)}, this run has {wanted.get(name)}; "
                "choose another output or delete the file"
            )


def _append(path: Path, file: FileIO, values: list[Any]) -> None:
    left = memoryview("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode("utf-8"))
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error


def _read_about(path: Path, line: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: its first line, which says whose answers these are, is damaged ({error}); "
            "delete the file and run again"
        ) from error


def _read(path: Path, lines: list[bytes]) -> dict[str, Answer]:
    """Answers by key, the last one of each."""
    stored, damaged = {}, []
    for number, line in enumerate(lines, 2):
        try:
            match json.loads(line):
                case [str(key), str(question), str(text)]:
                    stored[key] = Answer(key, question, text)
                    continue
        except (ValueError, RecursionError):
            pass
        damaged.append(number)
    if damaged:
        told = f"{len(damaged)} of its lines are damaged, the first is line {damaged[0]}"
        print(f"{path}: {told}; these answers are generated again", file=sys.stderr)
    return stored
