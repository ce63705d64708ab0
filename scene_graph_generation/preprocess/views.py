"""The pictures of takes as views of the vision tower's size, which models read instead (`inputs/prepared_views.py`)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.work.progress import track
from scene_graph_generation.inputs.prepared_views import bytes_of, take_folder
from scene_graph_generation.inputs.views import prepare_file
from scene_graph_generation.preprocess.run import Outcome, each_take
from scene_graph_generation.preprocess.view_files import outdated, write_views

GB = 1e9


def preprocess_views(dataset: Dataset, takes: Sequence[Take], size: int, workers: int = 1) -> Outcome:
    """Prepare the views of these takes; those of pictures that have not changed are kept.

    Args:
        dataset: where the takes are.
        takes: which ones.
        size: of the views, px: that of the vision tower.
        workers: takes at once.

    Returns:
        how many views were prepared.

    Raises:
        UserError: the disk has too little room.
    """
    for root in dataset.roots.values():
        _require_room(dataset, [take for take in takes if dataset.roots[take.dataset] == root], root, size)
    return each_take(dataset, takes, partial(_write_views, size=size), "prepared views", workers)


def shown_pictures(recorded: RecordedTake) -> dict[str, Path]:
    """The pictures of a take that training or evaluation shows, in the order of time, by name below its dataset.

    Raises:
        UserError: its index is missing or damaged.
    """
    collection, root = recorded.collection, recorded.root
    found: dict[str, Path] = {}
    for timepoint in recorded.timepoints:
        shown = [*collection.training_pictures(timepoint.views), *collection.evaluation_pictures(timepoint.views)]
        found |= {path.relative_to(root).as_posix(): path for path in shown if path is not None}
    return found


def _write_views(recorded: RecordedTake, size: int) -> Iterator[Path]:
    pictures = shown_pictures(recorded)
    folder = take_folder(recorded.root, recorded.take, size, pictures)
    yield from write_views(folder, size, pictures, partial(prepare_file, size=size))


def _require_room(dataset: Dataset, takes: Sequence[Take], root: Path, size: int) -> None:
    """Say how much the views of these takes will take on the disk of their dataset.

    Raises:
        UserError: less is free.
    """
    views = 0
    for take in track(takes, "pictures"):
        try:
            pictures = shown_pictures(dataset.unkept(take))
            views += len(outdated(take_folder(root, take, size, pictures), size, pictures))
        except UserError:  # told as the take's problem
            continue
    if not views:
        return
    needed, free = bytes_of(views, size), shutil.disk_usage(root).free
    told = f"{root}: {views} views of {size} px take {needed / GB:.1f} GB, {free / GB:.1f} GB are free"
    if needed > free:
        raise UserError(f"{told}; make room, choose fewer takes (--take), or another disk (--out)")
    print(told, file=sys.stderr)
