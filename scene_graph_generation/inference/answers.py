"""Generated texts on disk while a run generates them: a run that was killed goes on behind the last one.

Of several processes each appends to a file of its own beside the one of the whole. What these hold is known to every
later run, and the run that has the whole file takes it in.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import chain, count
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.locks import BUSY, lock
from operating_room.work.processes import ALL, Share, is_first

_PART = re.compile(r".*\.part-\d+-of-\d+", re.DOTALL)  # the stem of a file of one of several processes


@dataclass(frozen=True)
class Answer:
    """A generated text; `question` identifies what was asked, so that it is no answer once that has changed."""

    key: str
    question: str
    text: str


class Answers:
    """Answers by key, each appended to a file as it comes.

    Args:
        path: the file.
        file: it, open.
        stored: what it holds, by key.
        beside: what other files hold that belong to the same output.
        is_part: the file is that of one of several processes, and gets nothing that is known already.
    """

    def __init__(
        self, path: Path, file: FileIO, stored: dict[str, Answer], beside: Sequence[Answer], is_part: bool
    ) -> None:
        self._path = path
        self._file = file
        self._stored = stored
        self._beside: dict[str, list[Answer]] = {}
        for answer in beside:
            self._beside.setdefault(answer.key, []).append(answer)
        self._is_part = is_part
        self._settled: set[str] = set()  # keys that this run has answers for

    def find(self, key: str, question: str) -> str | None:
        """The text that was generated for just this question."""
        return next((answer.text for answer in self._known(key) if answer.question == question), None)

    def text(self, key: str) -> str | None:
        """The text that was generated last for this key, whatever the question was."""
        return next((answer.text for answer in self._known(key)), None)

    def add(self, answers: Sequence[Answer]) -> None:
        """Store answers, in place of older ones with the same key; those that the file has already stay as they are.

        Raises:
            UserError: the disk is full.
        """
        self._settled.update(answer.key for answer in answers)
        elsewhere = self._beside if self._is_part else {}
        new = [a for a in answers if a != self._stored.get(a.key) and a not in elsewhere.get(a.key, ())]
        _append(self._path, self._file, [[answer.key, answer.question, answer.text] for answer in new])
        self._stored.update({answer.key: answer for answer in new})

    def take_in(self) -> None:
        """Store what other files hold and this run has not asked for: they can be removed then.

        Raises:
            UserError: the disk is full.
        """
        self.add([answers[-1] for key, answers in self._beside.items() if key not in self._settled])

    def _known(self, key: str) -> list[Answer]:
        own = self._stored.get(key)
        return [*([] if own is None else [own]), *self._beside.get(key, ())]


@contextmanager
def open_answers(path: Path, about: Mapping[str, Any], share: Share = ALL) -> Generator[Answers]:
    """The answers that a file holds, with `add` for more. One run at a time has it.

    JSON lines: `about` first, then [key, question, text]. A line that a killed run left unfinished is cut off; one that
    is damaged costs its own answer, which is told.

    Args:
        path: the file; made if it does not exist.
        about: what decides the answers (JSON values): those of another model or setting are not taken for ours.
        share: one of several processes adds to a file of its own beside it (`x.part-1-of-2.jsonl`) and knows what the
            others hold. A run alone takes in what all of these hold and removes them when it has come to its end.

    Raises:
        UserError: another run has the file, it holds answers about something else, its first line is damaged, or it
            cannot be written.
    """
    wanted = json.loads(json.dumps(about))
    own = path if share.is_whole else _part_path(path, share)
    with ExitStack() as files:
        file = files.enter_context(_open(path))
        kind = fcntl.LOCK_EX if share.is_whole else fcntl.LOCK_SH  # parts are written side by side
        lock(path, file, kind, told=is_first())
        if own != path:
            file = files.enter_context(_open(own))
            lock(own, file, told=False)
        stored = _continue(own, file, wanted)
        others = [other for other in (path, *_part_paths(path)) if other != own]
        beside = [answer for other in others for answer in _read(other, other.read_bytes(), wanted).values()]
        answers = Answers(own, file, stored, beside, is_part=own != path)
        yield answers
        if own == path:
            answers.take_in()
            for other in others:
                other.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a file has the name of the answers of one of several processes."""
    return path.suffix == ".jsonl" and _PART.fullmatch(path.stem) is not None


def put_aside(path: Path, about: Mapping[str, Any]) -> None:
    """Rename files that hold the answers of another model or setting, so that these have their place; others stay.

    Of several processes that do so at once each file is renamed by one.
    """
    for own in (path, *_part_paths(path)):
        with suppress(FileNotFoundError), own.open("r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in BUSY:  # a run of this model, or one that will be told of
                    continue
            line = file.readline()
            there = _read_about(own, line) if line.endswith(b"\n") else about
            other = {name: there.get(name) for name in {**about, **there} if there.get(name) != about.get(name)}
            if other and os.path.samestat(os.fstat(file.fileno()), own.stat()):
                of = "_".join(str(value) if name == "model" else f"{name}_{value}" for name, value in other.items())
                numbers = chain([""], (f"_{number}" for number in count(2)))  # behind those that were put aside before
                places = (own.with_name(f"{own.stem}.of_{of}{number}.jsonl") for number in numbers)
                place = next(place for place in places if not os.path.lexists(place))
                own.replace(place)
                whose = "model" if "model" in other else next(iter(other))
                print(f"{own}: holds the answers of another {whose}, which are now in {place.name}", file=sys.stderr)


def _part_path(path: Path, share: Share) -> Path:
    return path.with_name(f"{path.stem}.part-{share.rank + 1}-of-{share.processes}.jsonl")


def _part_paths(path: Path) -> list[Path]:
    """The files of processes beside that of the whole."""
    start = f"{path.stem}.part-"
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(other for other in there if other.name.startswith(start) and is_part(other))


def _open(path: Path) -> FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b", buffering=0)  # what is written is on disk; nothing is left to fail at closing
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output") from error


def _continue(path: Path, file: FileIO, about: Mapping[str, Any]) -> dict[str, Answer]:
    """What a file of ours holds by key, ready for more."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
    if not whole:
        _append(path, file, [about])
    return _read(path, content, about)


def _require_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in {**wanted, **there}:
        if there.get(name) != wanted.get(name):
            told = f"holds answers with {name} {there.get(name)}, this run has {wanted.get(name)}"
            if (name in there) != (name in wanted):  # None would say nothing
                where = "there" if name in there else "here"
                told = f"holds answers of another command or version of this program ({name} is said {where} only)"
            raise UserError(f"{path}: {told}; choose another output or delete the file")


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


def _read(path: Path, content: bytes, about: Mapping[str, Any]) -> dict[str, Answer]:
    """Answers by key, the last one of each; nothing of a line that is still being written.

    Raises:
        UserError: they are about something else, or the first line, which tells that, is damaged.
    """
    *lines, _ = content.split(b"\n")
    if lines:
        _require_same(path, _read_about(path, lines[0]), about)
    stored, damaged = {}, []
    for number, line in enumerate(lines[1:], 2):
        try:
            match json.loads(line):
                case [str(key), str(question), str(text)]:
                    stored[key] = Answer(key, question, text)
                    continue
        except (ValueError, RecursionError):
            pass
        damaged.append(number)
    if damaged and is_first():
        told = f"{len(damaged)} of its lines are damaged, the first is line {damaged[0]}"
        print(f"{path}: {told}; these answers are generated again", file=sys.stderr)
    return stored
