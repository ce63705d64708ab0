"""Generated texts on disk while a run generates them: a run that was killed goes on behind the last one."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from operating_room.errors import UserError


class Answers:
    """Texts by key, each appended to a file as it comes."""

    def __init__(self, path: Path, file: FileIO, texts: dict[str, str]) -> None:
        self.texts = texts
        self._path = path
        self._file = file

    def add(self, texts: Mapping[str, str]) -> None:
        """Store new texts.

        Raises:
            UserError: the disk is full.
        """
        _append(self._path, self._file, list(texts.items()))
        self.texts.update(texts)


@contextmanager
def open_answers(path: Path, about: Mapping[str, Any]) -> Generator[Answers]:
    """The answers that a file holds, with `add` for more. One run at a time has it.

    JSON lines: `about` first, then [key, text] pairs. A line that a killed run left unfinished is cut off.

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
            stored, texts = _read(path, lines)
            for name, value in about.items():
                if stored.get(name) != value:
                    raise UserError(
                        f"{path}: holds answers with {name} {stored.get(name)}, this run has {value}; "
                        "choose another output or delete the file"
                    )
        else:
            texts = {}
            _append(path, file, [about])
        yield Answers(path, file, texts)


def _append(path: Path, file: FileIO, values: list[Any]) -> None:
    left = memoryview("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode("utf-8"))
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run again") from error


def _read(path: Path, lines: list[bytes]) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        about, *pairs = [json.loads(line) for line in lines]
        texts = {str(key): str(text) for key, text in pairs}
        return dict(about), texts
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it and run again") from error
