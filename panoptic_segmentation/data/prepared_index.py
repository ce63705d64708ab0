"""Which state of its label mask each prepared picture was made from, kept beside the prepared ground truth.

Dates alone do not tell: a mask that comes from an archive or by `rsync -a` can be older than what was made of the one
before. So its size and time must be the same as then, and so must those of what was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.scores.fingerprints import stamp

_FILE = "index.json"


@dataclass(frozen=True)
class State:
    """Size and time of a mask and how it was prepared: what its prepared pictures follow from."""

    mask: str | None  # None: it is not there
    made_how: str  # the canvas it was resized to, and the digest of the categories


def state_of(mask: Path, made_how: str) -> State:
    """The present state of a mask."""
    return State(stamp_of(mask), made_how)


def stamp_of(path: Path) -> str | None:
    """Size and time of a file, None if it is not there."""
    try:
        return stamp(path)
    except UserError:
        return None


class PreparedIndex:
    """The index of a folder of prepared ground truth; one that is damaged or not there knows nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._read()

    def is_known(self, pictures: Sequence[Path], state: State) -> bool:
        """Whether the pictures of a mask were made from this state of it."""
        return self._known.get(self._key(pictures[0]), [])[:2] == [state.mask, state.made_how]

    def is_untouched(self, pictures: Sequence[Path], state: State) -> bool:
        """Whether besides they are as they were written; else they are looked at."""
        entry = [state.mask, state.made_how, *map(stamp_of, pictures)]
        return None not in entry and self._known.get(self._key(pictures[0])) == entry

    def add(self, entries: Mapping[Sequence[Path], State]) -> None:
        """Note what was prepared, given the pictures (or the ground-truth file) and what they were made from.

        Other processes may have noted something meanwhile: that is kept.
        """
        new = {
            self._key(paths[0]): [state.mask, state.made_how, *map(stamp_of, paths)] for paths, state in entries.items()
        }
        self._known = self._read() | new
        write_json(self._path, self._known)

    def forget(self, made: Iterable[Sequence[Path]]) -> None:
        """Before pictures are made anew: of a run that is killed on the way, some will be of another state than noted.

        Args:
            made: the pictures of each mask.
        """
        keys = {self._key(paths[0]) for paths in made}
        there = self._read()
        if keys & there.keys():
            self._known = {key: entry for key, entry in there.items() if key not in keys}
            write_json(self._path, self._known)

    @property
    def _path(self) -> Path:
        return self._folder / "datasets" / _FILE

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _read(self) -> dict[str, list[str | None]]:
        try:
            content = read_json(self._path)
        except UserError:
            return {}
        if not isinstance(content, dict):
            return {}
        return {key: entry for key, entry in content.items() if _is_entry(entry)}


def _is_entry(value: Any) -> bool:
    return isinstance(value, list) and all(item is None or isinstance(item, str) for item in value)
