"""Generated texts on disk while a run generates them: a run that was killed goes on behind the last one."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from operating_room.errors import UserError


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

    JSON lines: `about` first, then [key, question, text]. A line that a killed run left unfinished is cut off.

    Args:
        path: the file; made if it does not exist.
        about: what decides the answers (JSON values): those of another model or setting are not taken for ours.

    Raises:
        UserError: another run has the file, it holds answers about something else, is damaged or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)  # what is written is on disk; nothing is left to fail at closing
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path}: another run is writing it; wait for it or choose another output") from error
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        if lines:
            there, stored = _read(path, lines)
            for name, value in about.items():
                if there.get(name) != value:
                    raise UserError(
                        f"{path}: holds answers with {name} {there.get(name)}, this run has {value}; "
                        "choose another output or delete the file"
                    )
        else:
            stored = {}
            _append(path, file, [about])
        yield Answers(path, file, stored)


def _append(path: Path, file: FileIO, values: list[Any]) -> None:
    left = memoryview("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode("utf-8"))
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error


def _read(path: Path, lines: list[bytes]) -> tuple[dict[str, Any], dict[str, Answer]]:
    try:
        about, *answers = [json.loads(line) for line in lines]
        stored = [Answer(str(key), str(question), str(text)) for key, question, text in answers]
        return dict(about), {answer.key: answer for answer in stored}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it and run again") from error
