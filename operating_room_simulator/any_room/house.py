"""Simulated takes of any domain on disk, in the house layout (docs/own_room.md).

Several processes write some timepoints each. A take is finished when it has its take.yaml, which says how it was made:
a finished one is left as it is, an interrupted one is written again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from operating_room.domain.collection import Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.stored import DOMAIN_FILE, require_visible, store_domain
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path, write_bytes, write_json, write_text
from operating_room.files.picture_files import save_picture
from operating_room.files.readers import parse_yaml, read_bytes, read_json
from operating_room.recordings.folders import SIMULATION_NOTE, house_splits, write_house_splits
from operating_room.work.workers import in_workers
from operating_room_simulator.any_room.shots import Recorder
from operating_room_simulator.any_room.sounds import second, subtitles
from operating_room_simulator.any_room.story import Story
from operating_room_simulator.sensors.signals import srt_text
from operating_room_simulator.stage.rendering import affordable

SIZES = (16, 4096)  # px
_VERSION = 1  # counts up whenever the same seed gives other bytes
_PIECE = 20  # timepoints written by one process at a time
_PROCESS, _TIMEPOINT = 100_000_000, 1000  # bytes of a process without pictures, and of where people are (measured)
_RATE = 16_000  # Hz
_QUALITY = 90  # of JPEG


def write_takes(
    out: Path, stories: Sequence[Story], size: tuple[int, int], workers: int = 1, mask_stride: int = 1
) -> None:
    """Write takes of one domain below `out`, with domain.yaml and splits.yaml.

    Args:
        out: the folder of the dataset; if the domain has several, it gets a folder for each.
        stories: the takes.
        size: width and height of the pictures in px.
        workers: processes at most; fewer where the memory is not enough.
        mask_stride: only every n-th timepoint has label masks, if the domain has categories.

    Raises:
        UserError: an option is out of range, a dataset of the domain has another layout, or `out` holds another domain
            or other takes of these names.
    """
    require_sizes(size)
    if mask_stride < 1 or workers < 1:
        raise UserError("simulation options out of range: mask stride and workers of at least 1")
    folders = {story.take: folder_of(out, story) for story in stories}
    _write_domain(out, stories[0].domain)
    left: dict[Take, int] = {}
    pieces: list[_Piece] = []
    recipes = {}
    for story in stories:
        recipe = recipes[story.take] = _recipe(story, size, mask_stride)
        if _is_finished(_place(folders[story.take], story), story.take, recipe):
            continue
        write_json(_place(folders[story.take], story) / SIMULATION_NOTE, recipe)
        own = [
            _Piece(folders[story.take], story, range(first, min(first + _PIECE, story.frames)), size, mask_stride)
            for first in range(0, story.frames, _PIECE)
        ]
        left[story.take] = len(own)
        pieces += own
    by_take = {story.take: story for story in stories}
    longest = max(story.frames for story in stories)
    needed = _PROCESS + _TIMEPOINT * longest
    workers = affordable(max(1, min(workers, len(pieces))), size, needed, f"takes of {longest} timepoints")
    for take in in_workers(_write_piece, pieces, workers, "simulating, parts of takes"):
        left[take] -= 1
        if not left[take]:
            _finish(_place(folders[take], by_take[take]), by_take[take], recipes[take])
    for collection in {story.take.dataset: story.domain.collection(story.take) for story in stories}.values():
        takes = [story.take for story in stories if story.take.dataset == collection.name]
        _write_splits(folders[takes[0]], collection, [take.name for take in takes])


def require_sizes(size: tuple[int, int]) -> None:
    """Raises UserError if pictures of this width and height (px) are not made."""
    if not SIZES[0] <= min(size) <= max(size) <= SIZES[1]:
        raise UserError(f"pictures of {size[0]}x{size[1]} px: width and height may be {SIZES[0]} to {SIZES[1]}")


def folder_of(out: Path, story: Story) -> Path:
    """Where the dataset of a take lies.

    Raises:
        UserError: it has another layout than the house's.
    """
    collection = story.domain.collection(story.take)
    if collection.layout != "house":
        raise UserError(
            f"take {story.take.name}: is of {collection.title}, which domain {story.domain.name} does not keep in the "
            "house layout; only that can be simulated with --domain (MM-OR and 4D-OR are without it)"
        )
    return out if len(story.domain.collections) == 1 else out / collection.root


@dataclass(frozen=True)
class _Piece:
    """Some timepoints of a take."""

    root: Path
    story: Story
    frames: range
    size: tuple[int, int]
    mask_stride: int


@lru_cache(maxsize=1)
def _recorder(story: Story, size: tuple[int, int]) -> Recorder:
    return Recorder(story, size)


def _write_piece(piece: _Piece) -> Take:
    story, take = piece.story, piece.story.take
    recorder = _recorder(story, piece.size)
    collection, root = recorder.collection, piece.root
    if 0 in piece.frames:
        _write_whole(root, story, collection)
    for frame in piece.frames:
        frame_id = f"{frame:06d}"
        shot = recorder.shoot(frame)

        def path(modality: str, frame_id: str = frame_id) -> Path | None:
            return root / collection.path(modality, take, frame_id=frame_id) if modality in collection.files else None

        for camera, view in shot.views.items():
            save_picture(root / collection.picture(take, camera, frame_id), view.color, quality=_QUALITY)
            mask = collection.label_mask(take, camera, frame_id)
            if mask is not None and story.domain.labels.categories and frame % piece.mask_stride == 0:
                save_picture(root / mask, view.labels, compress_level=2)
        for modality, rows in (("gaze", shot.gaze), ("hands", shot.hands)):
            if (file := path(modality)) and len(rows):
                with atomic_path(file) as temporary:
                    np.save(temporary, rows)
        if (file := path("point_cloud")) and len(points := recorder.points(frame, shot)):
            with atomic_path(file) as temporary:
                np.savez(temporary, points=points[:, :3], colors=np.rint(points[:, 3:] * 255).astype(np.uint8))
        write_json(
            root / collection.annotation_files(take, frame_id)[0], [list(triplet) for triplet in story.graph(frame)]
        )
    return take


def _write_whole(root: Path, story: Story, collection: Collection) -> None:
    """Sound and words of a take."""
    import soundfile

    if "recording" in collection.take_files:
        packed = io.BytesIO()  # libsndfile writes its last block without a word where the disk is full
        with soundfile.SoundFile(packed, "w", _RATE, 1, "PCM_16", format="FLAC") as file:
            for number in range(int(np.ceil(story.frames * story.period))):
                file.write(second(story, number, _RATE).mean(axis=1))
        write_bytes(root / collection.path("recording", story.take), packed.getvalue())
    if "subtitles" in collection.take_files and (said := subtitles(story)):
        write_text(root / collection.path("subtitles", story.take), srt_text(said))


def _recipe(story: Story, size: tuple[int, int], mask_stride: int) -> dict[str, Any]:
    """What the bytes of a take depend on, besides its domain."""
    return {
        "format": "simulated",
        "version": _VERSION,
        "seed": story.seed,
        "seconds": story.seconds,
        "period": story.period,
        "size": list(size),
        "mask_stride": mask_stride,
    }


def _place(root: Path, story: Story) -> Path:
    return root / story.take.folder


def _take_file(folder: Path) -> Path:
    return folder / "take.yaml"


def _is_finished(folder: Path, take: Take, recipe: Mapping[str, Any]) -> bool:
    """Whether this very take is there already.

    Raises:
        UserError: another one of this name is.
    """
    done, note = _take_file(folder), folder / SIMULATION_NOTE
    if done.exists():
        content = parse_yaml(read_bytes(done), str(done))
        written = content.get("source") if isinstance(content, dict) else None
    elif note.exists():
        written = read_json(note)
    elif folder.exists() and any(folder.iterdir()):
        written = None
    else:
        return False
    if not isinstance(written, dict) or written.get("format") != recipe["format"]:
        raise UserError(f"{folder}: take {take.name} is there and was not simulated; choose another name or folder")
    other = [f"{key} {written.get(key)}, not {value}" for key, value in recipe.items() if written.get(key) != value]
    if other:
        raise UserError(
            f"{folder}: take {take.name} was simulated with other options ({'; '.join(other)}); give the same ones "
            "again, or choose another name or folder"
        )
    return done.exists()


def _finish(folder: Path, story: Story, recipe: Mapping[str, Any]) -> None:
    content = {"period": story.period, "frames": story.frames, "pictures": "jpg", "source": dict(recipe)}
    write_text(_take_file(folder), yaml.safe_dump(content, sort_keys=False))
    (folder / SIMULATION_NOTE).unlink(missing_ok=True)


def _write_domain(out: Path, domain: Domain) -> None:
    """Put the domain beside its takes.

    Raises:
        UserError: another one is there, or takes that it does not know.
    """
    path = out / DOMAIN_FILE
    if not path.exists():
        require_visible(out, domain.datasets)
        store_domain(out, domain)
    elif (there := Domain.read(path)) != domain:
        what = "; ".join(domain.differences(there)) or "takes, cameras or files differ"
        raise UserError(f"{path}: is of another domain ({what}); choose another folder, or give this file as --domain")


def _write_splits(root: Path, collection: Collection, takes: Sequence[str]) -> None:
    """Put new takes into splits: the last one is to test, the one before to validate, all others to train.

    What stands in the file already stays.
    """
    splits = house_splits(root, collection)
    known = {name for names in splits.values() for name in names}
    new = [name for name in takes if name not in known]
    for split in ("test", "val"):
        if not splits[split] and len(new) > 1:
            splits[split].append(new.pop())
    splits["train"] += new
    write_house_splits(root, collection, splits)
