"""The prompt of a timepoint from its files (data specification, sections 4.2 and 4.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.graphs.prompts import human_prompt, metadata_blocks, told
from operating_room.recordings import layout
from operating_room.recordings.dataset import Timepoint


def timepoint_prompt(
    timepoint: Timepoint, language: Language, memory: str | None, known: dict[Path, Any] | None = None
) -> str:
    """The human prompt from the files of a timepoint.

    Args:
        timepoint: what is known.
        language: of its domain.
        memory: see `human_prompt`.
        known: keeps what has been read, for those who ask for many prompts of one timepoint.

    Raises:
        UserError: a file is damaged, or its content cannot be told (see `human_prompt`).
    """
    known = {} if known is None else known
    for path, read in ((timepoint.robot_screen, read_screen), (timepoint.transcript, read_speech)):
        if path is not None and path not in known:
            known[path] = read(path)
    robot = None if timepoint.robot_screen is None else known[timepoint.robot_screen]
    speech = None if timepoint.transcript is None else known[timepoint.transcript]
    try:
        metadata_blocks(language, robot, None, None)
    except UserError as error:
        raise UserError(f"{timepoint.robot_screen}: {error}") from error
    try:
        return human_prompt(language, robot, timepoint.tracker, speech, memory)
    except UserError as error:
        file = layout.tracks(Path(), timepoint.take)
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
