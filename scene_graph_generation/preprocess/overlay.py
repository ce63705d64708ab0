"""A dataset that cannot be written, and a folder beside it that can: links to what is there, room for what is made."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from operating_room.domain.collection import Collection
from operating_room.domain.stored import DOMAIN_FILE
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import TABLE
from scene_graph_generation.inputs.prepared_views import FOLDER as PREPARED_VIEWS
from scene_graph_generation.preprocess.run import SETTINGS, notes_of

_MADE_OF_TAKES = ("subtitles",)  # speech recognition
_MADE = (*(row.name for row in TABLE if row.made_by), "masks_from_annotation")
_OF_ALL = ("relationships*", "classes.txt")  # beside the datasets, of all of them: what `data convert-relations` writes


def written(collection: Collection) -> set[str]:
    """The folders of a dataset, below its own or that of a take, that preprocessing writes into."""
    patterns = [collection.files.get(name) for name in _MADE]
    patterns += [collection.take_files.get(name) for name in _MADE_OF_TAKES]
    folders = {pattern.split("/")[0] for pattern in patterns if pattern is not None}
    told = {f".{name}" for name in folders}  # how the files were made
    return folders | told | {PREPARED_VIEWS}


def overlay(dataset: Dataset, out: Path) -> Dataset:
    """A dataset in `out` that reads as `dataset` and can be written: links, but real folders where files are made.

    Called again, it links what has come since; files that were made in `out` stay.

    Raises:
        UserError: `out` is the dataset itself, in it or what it links to, holds something else, or cannot be written.
    """
    for name, root in dataset.roots.items():
        places = (out, out / dataset.domain.collection(name).root)
        if any(Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root)) for place in places):
            raise UserError(f"{out}: is the dataset itself, or in it; leave out --out, or give another folder")
        linked = {Path(os.path.realpath(entry)).parent for entry in root.iterdir() if entry.is_symlink()}
        if linked & {Path(os.path.realpath(place)) for place in places}:
            raise UserError(
                f"{root}: has links into {out}, as --out makes them; are --data and --out the wrong way round?"
            )
    for name, root in dataset.roots.items():
        collection = dataset.domain.collection(name)
        target, folders = out / collection.root, written(collection)
        try:
            target.mkdir(parents=True, exist_ok=True)
            for entry in sorted(root.iterdir()):
                if entry.name in folders and entry.is_dir():
                    _mirror(entry, target / entry.name)
                else:
                    _link(entry, target / entry.name)
            if (root / DOMAIN_FILE).is_file():  # looked for in `out`, too
                _link(root / DOMAIN_FILE, out / DOMAIN_FILE)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        for path in (path for pattern in _OF_ALL for path in sorted(dataset.root.glob(pattern))):
            _link(path, out / path.name)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return Dataset(out, dataset.domain)


def read_only(dataset: Dataset) -> Path | None:
    """The first folder of a dataset that cannot be written."""
    return next((root for root in dataset.roots.values() if not os.access(root, os.W_OK)), None)


def _mirror(folder: Path, target: Path) -> None:
    """Real folders with links to the files."""
    for place, _, names in os.walk(folder, followlinks=True):
        real = target / Path(place).relative_to(folder)
        real.mkdir(parents=True, exist_ok=True)
        kinds = _made_here(real)
        for name in names:
            if not any(kind in name for kind in kinds):
                _link(Path(place) / name, real / name)


def _made_here(folder: Path) -> list[str]:
    """The kinds of files that were made in a folder, as its settings tell: none of these come from elsewhere."""
    return [path.stem.partition(SETTINGS)[2] for path in notes_of(folder) if not path.is_symlink()]


def _link(source: Path, link: Path) -> None:
    """A link to `source`; a file of our own in its place stays.

    Raises:
        UserError: there is a link to something else.
    """
    source = source.absolute()
    if link.is_symlink() and Path(os.readlink(link)) != source:
        raise UserError(f"{link}: links to {os.readlink(link)}, not into this dataset; choose another --out")
    if not os.path.lexists(link):
        with suppress(FileExistsError):  # another process was faster
            link.symlink_to(source)
