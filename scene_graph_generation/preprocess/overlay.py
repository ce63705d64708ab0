"""A dataset that cannot be written, and a folder beside it that can: links to what is there, room for what is made."""

from __future__ import annotations

import os
from pathlib import Path

from operating_room.domain.takes import find_take
from operating_room.errors import UserError
from operating_room.recordings import layout
from operating_room.recordings.dataset import Dataset

_ANY = find_take("any")
_MASKS = layout.small_mask(Path(), _ANY, "", 0).parts[0]
WRITTEN = {  # folders of a dataset that preprocessing writes into
    *(place(Path(), _ANY, "").parts[0] for place in (layout.audio_clip, layout.audio_embedding, layout.transcript)),
    *(_MASKS, f".{_MASKS}"),  # the masks, and how they were made
    layout.subtitles(Path(), _ANY).parts[0],
}


def overlay(dataset: Dataset, out: Path) -> Dataset:
    """A dataset in `out` that reads as `dataset` and can be written: links, but real folders where files are made.

    Called again, it links what has come since; files that were made in `out` stay.

    Raises:
        UserError: `out` is the dataset itself, holds something else, or cannot be written.
    """
    for name, root in dataset.roots.items():
        target = out / layout.ROOT_NAMES[name]
        if os.path.realpath(target) == os.path.realpath(root):
            raise UserError(f"{out}: is the dataset itself; leave out --out, or give another folder")
        try:
            target.mkdir(parents=True, exist_ok=True)
            for entry in sorted(root.iterdir()):
                if entry.name in WRITTEN and entry.is_dir():
                    _mirror(entry, target / entry.name)
                else:
                    _link(entry, target / entry.name)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror}); choose another --out") from error
    return Dataset(out)


def read_only(dataset: Dataset) -> Path | None:
    """The first folder of a dataset that cannot be written."""
    return next((root for root in dataset.roots.values() if not os.access(root, os.W_OK)), None)


def _mirror(folder: Path, target: Path) -> None:
    """Real folders with links to the files."""
    for place, _, names in os.walk(folder, followlinks=True):
        real = target / Path(place).relative_to(folder)
        real.mkdir(parents=True, exist_ok=True)
        for name in names:
            _link(Path(place) / name, real / name)


def _link(source: Path, link: Path) -> None:
    """A link to `source`; a file of our own in its place stays.

    Raises:
        UserError: there is a link to something else.
    """
    source = source.absolute()
    if link.is_symlink() and Path(os.readlink(link)) != source:
        raise UserError(f"{link}: links to {os.readlink(link)}, not into this dataset; choose another --out")
    if not os.path.lexists(link):
        link.symlink_to(source)
