"""Simulated takes on disk, complete and in the published layout.

Takes are cut into pieces of some seconds, which several processes draw at once. A take is finished when its note in
the folder `.synthetic` says so: finished takes are skipped, half-written ones are written again. Until then a take has
no list of timepoints, so that nobody reads it for a whole one.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from operating_room.domain.collection import Camera, Take
from operating_room.domain.domain import mmor
from operating_room.domain.slips import takes_to_make
from operating_room.domain.writing import domain_text
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path, write_json, write_text
from operating_room.files.picture_files import save_picture
from operating_room.work.workers import in_workers
from operating_room_simulator.notes import is_finished, note_path
from operating_room_simulator.records import frame_numbers, index_path, time_stamp, write_index, write_records
from operating_room_simulator.sensors import signals
from operating_room_simulator.stage.camera import camera_file
from operating_room_simulator.stage.poses import Scene, pose
from operating_room_simulator.stage.rendering import View, affordable, point_cloud, render
from operating_room_simulator.stage.room import Room
from operating_room_simulator.stage.small_things import published, small_things, small_things_mask
from operating_room_simulator.story.senses import told
from operating_room_simulator.story.steps import playbook_of
from operating_room_simulator.story.story import Surgery, script_surgery

_ROBOT_SCREEN = "simstation1"  # the camera that films it
# Version of the richer room: a take of an earlier one is not gone on with (1: no detail camera among 1 to 5, 2: wider).
_NEWS = 3
_SMALL_THINGS = "small_things.yaml"  # domain file beside takes with news, for their masks of small things
_VERSION = 1  # counts up whenever the same seed gives other bytes
_PIECE = 20  # s drawn by one process at a time
# Bytes that a process takes without any picture, and for each second of a take: its scenes and its sound (measured).
_PROCESS, _SECOND = 100_000_000, 300_000


@dataclass(frozen=True)
class Faults:
    """What goes wrong while recording."""

    no_room_cameras: tuple[str, ...] = ()  # names of takes without room cameras, hence without point clouds
    no_cameras: tuple[str, ...] = ()  # names of takes without any picture: sound, speech, robot screen and tracker only
    no_tracker: tuple[str, ...] = ()  # names of takes without tracker file
    missing_frames: float = 0.0  # share of single pictures, clouds and screen summaries that are lost


def synthesize(
    root: Path,
    takes: Sequence[Take],
    seconds: int,
    seed: int = 0,
    *,
    size: tuple[int, int] = (320, 240),
    workers: int = 1,
    faults: Faults = Faults(),
    mask_stride: int = 1,
    calibration: bool = False,
    news: bool = False,
) -> None:
    """Write scripted takes of `seconds` timepoints below `root`, which gets `MM-OR_data` and `4D-OR_data`.

    Args:
        size: width and height of all pictures in px.
        workers: processes at most, each with one thread; fewer, with a note, where the memory is not enough for all.
        mask_stride: only every n-th timepoint has annotated label masks.
        calibration: also camera files and depth pictures of the room cameras.
        news: in the richer room; see `script_surgery`. Small things have masks of their own beside the published ones.

    Raises:
        UserError: an option is out of range, or `root` holds something else under the name of a take.
    """
    surgeries = [script_surgery(take, seed, seconds, news) for take in takes]
    write_takes(
        root,
        surgeries,
        size=size,
        workers=workers,
        faults=faults,
        mask_stride=mask_stride,
        calibration=calibration,
    )


def write_takes(
    root: Path,
    surgeries: Sequence[Surgery],
    *,
    size: tuple[int, int] = (320, 240),
    workers: int = 1,
    faults: Faults = Faults(),
    mask_stride: int = 1,
    calibration: bool = False,
) -> None:
    """Write surgeries of any kind; see `synthesize`."""
    if not 16 <= min(size) <= max(size) <= 8192 or mask_stride < 1 or workers < 1 or not 0 <= faults.missing_frames < 1:
        raise UserError(
            "simulation options out of range: pictures of 16 x 16 to 8192 x 8192 px, mask stride and workers of at "
            "least 1, missing frames from 0 to below 1"
        )
    if any(surgery.seed < 0 for surgery in surgeries):
        raise UserError("the seed of a simulation must be 0 or more")
    known = {surgery.take.name for surgery in surgeries}
    if unknown := sorted({*faults.no_room_cameras, *faults.no_cameras, *faults.no_tracker} - known):
        raise UserError(f"faults name takes that are not simulated: {', '.join(unknown)}")
    if calibration and (shared := [s.take for s in surgeries if _shares_folder(s.take)]):
        raise UserError(
            f"take {shared[0].name} shares the folder {shared[0].folder} with others, whose cameras stand elsewhere; "
            "leave it out, or the calibration"
        )
    todo = []
    for surgery in surgeries:
        recipe = _recipe(surgery, size, faults, mask_stride) | ({"calibration": True} if calibration else {})
        recipe |= {"news": _NEWS} if surgery.news is not None else {}
        recipe |= {"breaches": surgery.breaches} if surgery.breaches is not None else {}
        if not is_finished(root, surgery.take, recipe):
            todo.append((surgery, recipe))
    pieces = [
        _Piece(
            root,
            surgery,
            range(first, min(first + _PIECE, len(surgery.moments))),
            size,
            faults,
            mask_stride,
            calibration,
        )
        for surgery, _ in todo
        for first in range(0, len(surgery.moments), _PIECE)
    ]
    if any(surgery.news is not None for surgery, _ in todo):
        write_text(root / _SMALL_THINGS, domain_text(small_things()))
    left = {surgery.take: -(-len(surgery.moments) // _PIECE) for surgery, _ in todo}
    of_take = {surgery.take: (surgery, recipe) for surgery, recipe in todo}
    for take, (_, recipe) in of_take.items():
        write_json(note_path(root, take), {**recipe, "finished": False}, indent=1)
        index_path(root / mmor().collection(take).root, take).unlink(missing_ok=True)  # of an earlier version
    longest = max((len(surgery.moments) for surgery, _ in todo), default=0)
    needed = _PROCESS + _SECOND * longest
    workers = affordable(min(workers, len(pieces)), size, needed, f"takes of {longest} s")
    with _one_thread():
        for take in in_workers(_write_piece, pieces, workers, "simulating, parts of takes"):
            left[take] -= 1
            if not left[take]:
                surgery, recipe = of_take[take]
                write_index(root / mmor().collection(take).root, surgery)
                write_json(note_path(root, take), {**recipe, "finished": True}, indent=1)


def write_take(root: Path, surgery: Surgery, size: tuple[int, int]) -> None:
    """Write one surgery in this process; see `synthesize`."""
    write_takes(root, [surgery], size=size)


def named_takes(names: Iterable[str]) -> list[Take]:
    """Takes by name or by split (`train`, `val`, ...), each once, in the order given.

    Raises:
        UserError: a name is neither, or nearly one that is published.
    """
    domain = mmor()
    given = takes_to_make(names, domain)
    chosen = (domain.split_takes(name) if name in domain.splits else [domain.find_take(name)] for name in given)
    takes = [take for each in chosen for take in each]
    return list(dict.fromkeys(takes))


@dataclass(frozen=True)
class _Piece:
    """Some seconds of a take, written at a stretch by one process."""

    root: Path
    surgery: Surgery
    seconds: range
    size: tuple[int, int]
    faults: Faults
    mask_stride: int
    calibration: bool


@contextmanager
def _one_thread() -> Generator[None]:
    """Processes started inside use one thread each."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _write_piece(piece: _Piece) -> Take:
    """Draw some seconds of a take; the piece with the first second also writes what the take has once."""
    surgery, take = piece.surgery, piece.surgery.take
    folder = piece.root / mmor().collection(take).root
    if 0 in piece.seconds:
        write_records(folder, surgery, with_tracker=take.name not in piece.faults.no_tracker)
    if take.name in piece.faults.no_cameras:
        for second in piece.seconds if playbook_of(take).multimodal else ():
            _write_summary(folder, surgery, second)
        return take
    room, scenes = _stage(surgery)
    if piece.calibration and 0 in piece.seconds:
        for camera in mmor().collection(take).cameras_of("room_views"):
            path = folder / mmor().collection(take).camera_files(take, camera.name)[0]
            write_json(path, camera_file(room.camera(f"room{camera.name}"), *piece.size), indent=1)
    for second in piece.seconds:
        _write_second(folder, piece, room, scenes[second], second)
    return take


@lru_cache(maxsize=2)
def _stage(surgery: Surgery) -> tuple[Room, list[Scene]]:
    domain = mmor() if surgery.news is None else small_things()
    room = Room(surgery.take, surgery.seed, domain.labels, surgery.news)
    return room, pose(room, told(surgery, "views"))


def _write_second(folder: Path, piece: _Piece, room: Room, scene: Scene, second: int) -> None:
    """Write pictures, masks, point cloud and screen summary of one moment."""
    surgery, faults, take = piece.surgery, piece.faults, piece.surgery.take
    collection, frames = mmor().collection(take), frame_numbers(take, second)
    lost = random.Random(f"lost {take.sample_name} {surgery.seed} {second}")

    def kept() -> bool:
        return lost.random() >= faults.missing_frames

    def dropped(view: str) -> bool:
        return surgery.news is not None and surgery.news.is_dropped(view, second)

    def shoot(name: str) -> View:
        return render(room, scene, room.camera(name), *piece.size)

    def write_picture(camera: Camera, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        save_picture(folder / collection.picture(take, camera.name, frames[camera.frame]), picture, quality=88)

    views: dict[str, View] = {}
    if take.name not in faults.no_room_cameras:
        rooms = collection.cameras_of("room_views")
        views = {camera.name: shoot(f"room{camera.name}") for camera in rooms}
        for camera in rooms:
            if kept() and not dropped(f"room{camera.name}"):
                write_picture(camera, views[camera.name].color)
            if piece.calibration:
                depth = collection.depth_picture(take, camera.name, frames[camera.frame])
                if depth is not None:
                    _write_depth(folder / depth, views[camera.name].depth)
        if kept():
            path = collection.path("point_cloud", take, time=time_stamp(surgery, second), **frames)
            _write_cloud(folder / path, point_cloud(room, scene, {f"room{name}": view for name, view in views.items()}))
    if playbook_of(take).multimodal:
        for camera in collection.cameras_of("station_views"):
            if camera.name == _ROBOT_SCREEN:
                picture = signals.screen_picture(told(surgery, "screen").moments[second], *piece.size)
            else:
                views[camera.name] = shoot(f"station{camera.name.removeprefix('simstation')}")
                picture = views[camera.name].color
            if kept() and not dropped(camera.name.replace("simstation", "station")):
                write_picture(camera, picture)
        (tracker,) = collection.cameras_of("tracker_view")
        if kept():
            write_picture(tracker, shoot("tracker").color)
        if kept():
            _write_summary(folder, surgery, second)
    if second % piece.mask_stride == 0:
        for camera in collection.labelled_cameras:
            mask = collection.label_mask(take, camera.name, frames[camera.frame])
            hidden = dropped(f"room{camera.name}") or dropped(camera.name.replace("simstation", "station"))
            if mask is not None and camera.name in views and not hidden:
                labels = views[camera.name].labels
                if surgery.news is not None:
                    save_picture(folder / small_things_mask(mask), labels, compress_level=2)
                    labels = published(labels, scene, mmor().labels)
                save_picture(folder / mask, labels, compress_level=2)


def _write_summary(folder: Path, surgery: Surgery, second: int) -> None:
    take = surgery.take
    path = mmor().collection(take).path("robot_screen", take, **frame_numbers(take, second))
    write_json(folder / path, _summaries(surgery)[second])


@lru_cache(maxsize=2)
def _summaries(surgery: Surgery) -> list[dict[str, dict[str, Any]]]:
    return signals.screen_summaries(told(surgery, "screen"))


def _write_depth(path: Path, depth: Float32[np.ndarray, "height width"]) -> None:
    """Millimetres in 16 bits; 0 is too far away."""
    millimetres = np.rint(depth * 1000)
    save_picture(path, np.where(millimetres < 1 << 16, millimetres, 0).astype(np.uint16))


def _write_cloud(path: Path, points: Float32[np.ndarray, "points 6"]) -> None:
    """A binary point cloud in mm with packed colours, from metres and 0..1."""
    from pypcd4 import Encoding, PointCloud

    colors = PointCloud.encode_rgb(np.rint(points[:, 3:] * 255).astype(np.uint8))
    fields = [*(points[:, :3] * 1000).T, colors]
    cloud = PointCloud.from_points(fields, ("x", "y", "z", "rgb"), (np.float32,) * 4)
    with atomic_path(path) as temporary:
        cloud.save(temporary, encoding=Encoding.BINARY)


def _recipe(surgery: Surgery, size: tuple[int, int], faults: Faults, mask_stride: int) -> dict[str, Any]:
    """What the bytes of a take depend on."""
    return {
        "version": _VERSION,
        "take": surgery.take.sample_name,
        "seed": surgery.seed,
        "seconds": len(surgery.moments),
        "story": zlib.crc32(repr(surgery.moments).encode()),
        "size": list(size),
        "mask_stride": mask_stride,
        "room_cameras": surgery.take.name not in faults.no_room_cameras,
        "cameras": surgery.take.name not in faults.no_cameras,
        "tracker": surgery.take.name not in faults.no_tracker,
        "missing_frames": faults.missing_frames,
    }


def _shares_folder(take: Take) -> bool:
    return sum(other.folder == take.folder for other in mmor().collection(take).published) > 1
