"""What lies beside a simulated take: how it was made, so that it is gone on with, left alone or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_json


def note_path(root: Path, take: Take) -> Path:
    """Where it is written of a take how it was simulated, and whether all of it is there."""
    return root / mmor().collection(take).root / ".synthetic" / f"{take.name}.json"


def is_finished(root: Path, take: Take, recipe: dict[str, Any]) -> bool:
    """Whether this very take is on disk already.

    Raises:
        UserError: there is a take of this name that was recorded, or simulated with other options.
    """
    note = note_path(root, take)
    if not note.exists():
        if there := _recorded(root, take):
            raise UserError(f"{there}: take {take.name} is there and was not simulated; choose another folder")
        return False
    written = read_json(note)
    if not isinstance(written, dict):
        raise UserError(f"{note}: is no note of a simulated take; choose another folder")
    wanted = {"news": None, "calibration": None, "breaches": None} | recipe
    other = {name: value for name, value in wanted.items() if written.get(name) != value}
    if other and other.keys() <= {"version", "story"}:
        told = "tells another story: from other graphs, or written by another version of mmor"
        raise UserError(f"{note}: take {take.name} {told}; choose another folder, or remove that one to simulate anew")
    if other:
        differ = "; ".join(f"{name} {written.get(name)!r}, not {value!r}" for name, value in other.items())
        raise UserError(
            f"{note}: take {take.name} was simulated with other options ({differ}); "
            "give the same options again or choose another folder"
        )
    return bool(written.get("finished"))


def _recorded(root: Path, take: Take) -> Path | None:
    """A file or folder of a take that nobody simulated, if there is one."""
    collection = mmor().collection(take)
    folder = root / collection.root
    mates = [mate for mate in collection.published if mate.folder == take.folder]
    pictures = folder / take.folder
    known = [folder / path for path in collection.index_files(take)]
    if not any(note_path(root, mate).exists() for mate in mates):  # else the folder is theirs
        known.append(pictures)
    names = [name for name in ("seconds", "recording", "subtitles", "tracks") if name in collection.take_files]
    known += [folder / collection.path(name, take) for name in names]
    return next((path for path in known if path.exists()), None)
