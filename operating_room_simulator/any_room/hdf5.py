"""Simulated takes as files of EgoExOR's first release, so that the import and all behind it can be tried.

Groups, arrays, numbers and spellings are those that `operating_room.importers.egoexor` reads. As in the published
files the order of cameras differs from take to take, all cameras but the exterior ones are stored blue first,
some frames at the start of a take are black, and the gaze of those is off whose glasses were.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from operating_room.domain.domain import bundled
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path
from operating_room.files.raw_files import visible
from operating_room.graphs.scene_graph import Triplet
from operating_room.importers.egoexor.frames import correct_gaze
from operating_room.importers.egoexor.tables import (
    AUDIO_RATE,
    EGO,
    EXPECTED_SPLITS,
    EXTERIOR,
    RAW_ENTITIES,
    RAW_PREDICATES,
    SOURCES,
)
from operating_room.work.progress import Steps
from operating_room_simulator.any_room.house import require_sizes
from operating_room_simulator.any_room.shots import Recorder
from operating_room_simulator.any_room.sounds import second
from operating_room_simulator.any_room.story import Story

if TYPE_CHECKING:
    import h5py

_VERSION = 2  # counts up whenever the same seed gives other bytes
# Who films which surgery: only the first has exterior cameras, and so point clouds.
CAMERAS: Mapping[str, tuple[str, ...]] = {
    "MISS": (*EGO, "microscope", *EXTERIOR),
    "Ultrasound": ("assistant", "head_surgeon", "circulator", "or_light", "simstation"),
}
_SPLIT_FILE = "splits.h5"
_BLACK = 2  # frames at the start in which one exterior camera does not record yet
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # name here -> in the files


def write_files(out: Path, stories: Sequence[Story], size: tuple[int, int]) -> None:
    """Write takes of EgoExOR, one file for each procedure, with the splits beside; a file of the same takes stays.

    Args:
        out: the folder of the files; splits.h5 there gets these takes, and what it has of others stays.
        stories: takes called SURGERY_PROCEDURE_TAKE, of MISS or Ultrasound.
        size: width and height of the pictures in px; published are 336 x 336.

    Raises:
        UserError: the domain or a name is none of EgoExOR, an option is out of range, h5py is not installed, or `out`
            holds another file of these names, or any file that was not simulated.
    """
    require_sizes(size)
    _require_hdf5()
    files: dict[str, list[Story]] = {}
    for story in stories:
        if story.domain.digest != bundled("egoexor").digest:
            raise UserError(f"domain {story.domain.name}: files like EgoExOR's hold its words only; leave out --domain")
        files.setdefault(_file_of(story), []).append(story)
    _refuse_recorded(out)
    recipes = {name: json.dumps([_recipe(story, size) for story in own]) for name, own in files.items()}
    todo = [name for name in files if not _is_written(out / name, recipes[name])]
    with Steps("simulating, timepoints", sum(story.frames for name in todo for story in files[name])) as steps:
        for name in todo:
            with atomic_path(out / name) as temporary, _create(temporary) as file:
                _write_tables(file, recipes[name])
                for story in files[name]:
                    _write_take(file.create_group(_group(story)), Recorder(story, size, _cameras(story)), steps)
    others = _other_rows(out / _SPLIT_FILE, {_parts(story) for story in stories})
    with atomic_path(out / _SPLIT_FILE) as temporary, _create(temporary) as file:
        _write_splits(file, stories, others)


def _require_hdf5() -> None:
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise UserError("files like EgoExOR's need h5py; install it: pip install 'mmor[egoexor]'") from error


def _refuse_recorded(out: Path) -> None:
    """Simulated takes lie in no folder of downloaded ones: their splits would take the place of the published ones.

    Raises:
        UserError: there is a file that was not simulated; or splits, and none that was.
    """
    import h5py

    found = sorted(path for path in visible(out.glob("*.h5")) if path.name != _SPLIT_FILE)
    for path in found:
        try:
            with h5py.File(path, "r") as file:
                if "simulated" in file.attrs:
                    continue
        except OSError:  # damaged or no HDF5: not ours either
            pass
        raise UserError(f"{path}: is there and no file of a simulation; choose another folder")
    if not found and (out / _SPLIT_FILE).exists():
        raise UserError(
            f"{out / _SPLIT_FILE}: is there without simulated takes, and would be lost; choose another folder"
        )


def _create(path: Path) -> h5py.File:
    import h5py

    return h5py.File(path, "w")


def _parts(story: Story) -> tuple[str, int, int]:
    """Surgery, procedure and take."""
    surgery, *numbers = story.take.name.split("_")
    if surgery not in CAMERAS or len(numbers) != 2 or not all(each.isdecimal() and each[0] != "0" for each in numbers):
        raise UserError(f"take {story.take.name}: takes of EgoExOR are called like MISS_1_1 and Ultrasound_1_1")
    return surgery, int(numbers[0]), int(numbers[1])


def _file_of(story: Story) -> str:
    surgery, procedure, number = _parts(story)
    half = ("_14" if number <= 4 else "_58") if (surgery, procedure) == ("Ultrasound", 5) else ""
    return f"{surgery.lower()}_{procedure}{half}.h5"


def _group(story: Story) -> str:
    surgery, procedure, number = _parts(story)
    return f"data/{surgery}/{procedure}/take/{number}"


def _recipe(story: Story, size: tuple[int, int]) -> dict[str, Any]:
    values = {"seed": story.seed, "seconds": story.seconds, "period": story.period, "size": list(size)}
    return {"version": _VERSION, "take": story.take.name, **values}


def _is_written(path: Path, recipe: str) -> bool:
    """Whether this very file is there.

    Raises:
        UserError: another one is.
    """
    import h5py

    if not path.exists():
        return False
    with h5py.File(path, "r") as file:
        written = file.attrs.get("simulated")
    if written != recipe:
        raise UserError(f"{path}: is there with other takes or options; choose another folder")
    return True


def _write_take(group: h5py.Group, recorder: Recorder, steps: Steps) -> None:
    story, (width, height) = recorder.story, recorder.size
    frames, cameras = story.frames, _cameras(story)
    sources = group.create_group("sources")
    sources.attrs["source_count"] = len(cameras)
    for place, name in enumerate(cameras):
        sources.attrs[f"source_{place}"] = name
    worn = [name for name in recorder.worn if name in cameras]
    rows = [list(recorder.worn).index(name) for name in worn]
    points = 0 if not set(cameras) & set(EXTERIOR) else len(recorder.points(0, recorder.shoot(0)))

    def create(name: str, shape: tuple[int, ...], kind: str = "f4") -> h5py.Dataset:
        return group.create_dataset(name, shape, kind, chunks=(1, *shape[1:]), compression="gzip", compression_opts=1)

    rgb = create("frames/rgb", (frames, len(cameras), height, width, 3), "u1")
    gaze, depth = (
        create("eye_gaze/coordinates", (frames, len(worn), 3)),
        create("eye_gaze_depth/values", (frames, len(worn))),
    )
    hands = create("hand_tracking/positions", (frames, len(worn), 17))
    xyz, shades = (
        create(f"point_cloud/{n}", (frames, points, 3)) if points else None for n in ("coordinates", "colors")
    )
    late = next((name for name in cameras if name in EXTERIOR), None)
    for frame in range(frames):
        shot = recorder.shoot(frame)
        pictures = [shot.views[name].color for name in cameras]
        stored = [each if name in EXTERIOR else each[..., ::-1] for name, each in zip(cameras, pictures)]
        rgb[frame] = [0 * each if name == late and frame < _BLACK else each for name, each in zip(cameras, stored)]
        gaze[frame] = _uncorrected(shot.gaze[rows, :3], story, recorder.size)
        depth[frame], hands[frame] = shot.gaze[rows, 3], shot.hands[rows]
        if xyz is not None and shades is not None:
            cloud = recorder.points(frame, shot)
            xyz[frame], shades[frame] = cloud[:, :3], cloud[:, 3:]
        if graph := story.graph(frame):
            _write_graph(group.create_group(f"annotations/frame_{frame}"), graph)
        steps.advance()
    _write_sound(group, story)


def _uncorrected(
    points: Float32[np.ndarray, "worn 3"], story: Story, size: tuple[int, int]
) -> Float32[np.ndarray, "worn 3"]:
    """Gaze as the glasses of the take say it, which an import brings back to where it is."""
    return 2 * points - correct_gaze(points[None], story.take.name, SOURCES, size)[0]


def _cameras(story: Story) -> list[str]:
    """Those of the surgery in an order of the take's own; the staff's come first, as in the takes that are known."""
    names = CAMERAS[_parts(story)[0]]
    staff = [name for name in names if name in EGO]
    random.Random(f"cameras {story.take.name}").shuffle(staff)
    return [*staff, *(name for name in names if name not in EGO)]


def _write_sound(group: h5py.Group, story: Story) -> None:
    """The mix of the whole take, and the second that begins with each frame."""
    samples = round(story.frames * story.period * AUDIO_RATE)
    heard = [second(story, number, AUDIO_RATE) for number in range(-(-samples // AUDIO_RATE) + 1)]
    wave = np.rint(np.concatenate(heard) * 32767).astype(np.float32) / 32767  # of 16 bits, which pack well
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
    group.create_dataset("audio/waveform", data=wave[:samples], chunks=(min(samples, AUDIO_RATE), 2), **options)
    shape = (story.frames, AUDIO_RATE, 2)
    snippets = group.create_dataset("audio/snippets", shape, "f4", chunks=(1, *shape[1:]), **options)
    for frame in range(story.frames):
        first = round(story.time(frame) * AUDIO_RATE)
        snippets[frame] = wave[first : first + AUDIO_RATE]


def _write_graph(group: h5py.Group, graph: Sequence[Triplet]) -> None:
    """Words as subject, predicate, object, and their numbers, in the spellings of the files."""
    import h5py

    rows = [(_raw(s, RAW_ENTITIES), _raw(p, RAW_PREDICATES), _raw(o, RAW_ENTITIES)) for s, o, p in graph]
    group.create_dataset("rel_annotations", data=np.array(rows, dtype=object), dtype=h5py.string_dtype())
    tables = (RAW_ENTITIES, RAW_PREDICATES, RAW_ENTITIES)
    group["scene_graph"] = np.array([[t.index(n) for t, n in zip(tables, row)] for row in rows], np.float32)


def _raw(name: str, spellings: Sequence[str]) -> str:
    """How the files spell a name of the domain."""
    raw_names = bundled("egoexor").language.raw_names
    return name if name in spellings else next(raw for raw in spellings if raw_names.get(raw) == name)


def _write_tables(file: h5py.File, recipe: str) -> None:
    import h5py

    file.attrs["simulated"] = recipe
    row = np.dtype([("name", h5py.string_dtype()), ("id", "i4")])
    for path, table in (
        ("metadata/vocabulary/entity", {name: number for number, name in enumerate(RAW_ENTITIES)}),
        ("metadata/vocabulary/relation", {name: number for number, name in enumerate(RAW_PREDICATES)}),
        ("metadata/sources/sources", SOURCES),
    ):
        file[path] = np.array(list(table.items()), dtype=row)
    file["metadata"].create_group("dataset").attrs.update({"title": "simulated takes", "version": str(_VERSION)})


def _other_rows(path: Path, own: Set[tuple[str, int, int]]) -> dict[str, list[tuple[str, int, int, int]]]:
    """What a file of splits that was simulated before has of other takes; nothing of one that is damaged."""
    import h5py

    if not path.exists():
        return {}
    try:
        with h5py.File(path, "r") as file:
            found = {name: file[f"splits/{name}"][()] for name in _SPLITS.values()}
        rows = {name: [(s.decode(), int(p), int(t), int(f)) for s, p, t, f in of] for name, of in found.items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {name: sorted(row for row in of if row[:3] not in own) for name, of in rows.items()}


def _write_splits(
    file: h5py.File, stories: Sequence[Story], others: Mapping[str, list[tuple[str, int, int, int]]]
) -> None:
    """A row for each frame in shuffled order, as published; takes in no known list are to train."""
    import h5py

    text = h5py.string_dtype()
    row = np.dtype([("surgery_type", text), ("procedure_id", "i4"), ("take_id", "i4"), ("frame_id", "i4")])
    for split, name in _SPLITS.items():
        own = [story for story in stories if EXPECTED_SPLITS.get(story.take.name, "train") == split]
        rows = [(*_parts(story), frame) for story in own for frame in range(story.frames)] + others.get(name, [])
        random.Random(name).shuffle(rows)
        file[f"splits/{name}"] = np.array(rows, dtype=row)
