"""The prompt of a timepoint from its text files (data specification, sections 4.2 and 4.3), and readers of these."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.graphs.prompts import ROBOT_LOG, human_prompt, metadata_blocks, told
from operating_room.recordings.timepoint import Timepoint

_LOG_FORM = 'a robot log is {timepoint: {"log_lines": [text, ...]}}'


def timepoint_prompt(timepoint: Timepoint, memory: str | None, known: dict[Path, Any] | None = None) -> str:
    """The human prompt from the files of a timepoint, in the language of its domain.

    Args:
        timepoint: what is known.
        memory: see `human_prompt`.
        known: keeps what has been read, for those who ask for many prompts of one timepoint.

    Raises:
        UserError: a file is damaged, or its content cannot be told (see `human_prompt`).
    """
    known, language = {} if known is None else known, timepoint.domain.language
    screen, transcript = timepoint.one("robot_screen"), timepoint.one("transcript")
    for path, read in ((screen, read_screen), (transcript, read_speech)):
        if path is not None and path not in known:
            known[path] = read(path)
    robot = None if screen is None else known[screen]
    speech = None if transcript is None else known[transcript]
    try:
        metadata_blocks(language, robot, None, None)
    except UserError as error:
        raise UserError(f"{screen}: {error}") from error
    try:
        return human_prompt(language, robot, timepoint.tracker, speech, memory, timepoint.records.get(ROBOT_LOG))
    except UserError as error:
        file = timepoint.collection.path("tracks", timepoint.take)
        raise UserError(f"{timepoint.sample_id}, second {int(timepoint.time)} of {file}: {error}") from error


def read_screen(path: Path) -> dict[str, Any]:
    """The parts of the robot's screen.

    Raises:
        UserError: the file is damaged or no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, not {type(value).__name__}; copy the file again")
    return value


def read_speech(path: Path) -> str:
    """The words before a timepoint.

    Raises:
        UserError: the file is damaged or of another form.
    """
    text = read_screen(path).get("text")
    if not isinstance(text, str):
        raise UserError(f"{path}: a transcript needs a string under 'text'; make the transcripts again")
    try:
        return told(text)
    except ValueError as error:
        raise UserError(f"{path}: 'text' holds {error}; make the transcripts again") from error


def read_robot_log(path: Path) -> list[str | None]:
    """The low-level log of MM-OR's robot, by integer time stamp: lines joined by newlines; None where there are none.

    It was published apart from the other files (June 2025), and no published model reads it. The values of the object
    belong, in their order, to the time stamps from 0 on.

    Raises:
        UserError: the file is damaged or of another form, or numbers that name its values do not grow.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: {_LOG_FORM}, not {type(content).__name__}; copy it again")
    numbered = [name for name in content if name.isascii() and name.isdecimal()]
    for before, now in pairwise(numbered):
        # By length and letters: Python reads no number of more than 4300 digits.
        if (len(now.lstrip("0")), now.lstrip("0")) <= (len(before.lstrip("0")), before.lstrip("0")):
            told_of = f"timepoint {now[:20]!r} stands behind {before[:20]!r}"
            raise UserError(f"{path}: {told_of}, and their order is that of time; sort them as numbers")
    texts: list[str | None] = []
    for name, element in content.items():
        lines = element.get("log_lines") if isinstance(element, dict) else None
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{path}: timepoint {name[:20]!r} has no log_lines that are a list of text; {_LOG_FORM}")
        try:
            texts.append(told("\n".join(lines)) if lines else None)
        except ValueError as error:
            raise UserError(f"{path}: timepoint {name[:20]!r} holds {error}; copy it again") from error
    return texts
