"""One take of an EgoExOR file: whether all of it fits together, and what the first contact with it tells.

All that can be refused is refused here, before anything is written; only damage in the midst of pictures or sound shows
later.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from operating_room.errors import one_line
from operating_room.importers.egoexor.graphs import read_graphs
from operating_room.importers.egoexor.hdf5 import (
    BadRecording,
    block_length,
    blocks,
    column_length,
    dataset_at,
    form,
    group_at,
    member,
    names,
    open_hdf5,
    told,
    where,
)
from operating_room.importers.egoexor.source import StoredTake, Tables, read_cameras
from operating_room.importers.egoexor.tables import AUDIO_RATE
from operating_room.recordings.index import MOST_FRAMES
from operating_room.scores.fingerprints import fingerprint

if TYPE_CHECKING:
    import h5py

# name -> path, kind of numbers, axes. Axes of one letter are as long as every other axis of that letter in the take:
# f frames, c cameras, g gaze rows, h rows of hands, p points, s samples.
ARRAYS: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "rgb": ("frames/rgb", "u1", ("f", "c", "y", "x", 3)),
    "gaze": ("eye_gaze/coordinates", "f", ("f", "g", 3)),
    "gaze_depth": ("eye_gaze_depth/values", "f", ("f", "g")),
    "hands": ("hand_tracking/positions", "f", ("f", "h", 17)),
    "cloud": ("point_cloud/coordinates", "f", ("f", "p", 3)),
    "cloud_colors": ("point_cloud/colors", "f", ("f", "p", 3)),
    "snippets": ("audio/snippets", "f", ("f", AUDIO_RATE, 2)),
    "waveform": ("audio/waveform", "f", ("s", 2)),
}
_PARTNERS = {"gaze_depth": "gaze", "cloud": "cloud_colors", "cloud_colors": "cloud"}  # neither is of use alone
_DEEPEST = 4  # levels below a take
_LONGEST_S = 86_400  # a day


@dataclass(frozen=True)
class Facts:
    """What is known of a take before its pictures are read.

    Attributes:
        cameras: of the camera axis, in its order.
        size: width and height of the pictures in px.
        shapes: of the arrays that are there, by their names in ARRAYS.
        steps: rows of each array that are read at once.
        largest_read: bytes of the largest such read.
        sound_s: length of the sound in s; None without.
        colors_to: largest value of the point colours, 1 or 255; None without a cloud.
        rows: numbers of sources that gaze and hands have rows of; -2 stands for rows without a number.
        gaze_to: largest x and y of the gaze in px.
        annotated: frames with a scene graph.
        graph_orders: that the numbers in `scene_graph` may have; several if no frame tells.
        words: canonical entities and predicates that the graphs use.
        others: arrays that this program does not know.
    """

    take: StoredTake
    cameras: tuple[str, ...]
    size: tuple[int, int]
    shapes: Mapping[str, tuple[int, ...]]
    steps: Mapping[str, int]
    largest_read: int
    fingerprint: str
    graphs: str = ""  # fingerprint of the scene graphs, which a later release may correct under the same pictures
    sound_s: float | None = None
    colors_to: int | None = None
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gaze_to: tuple[float, float] | None = None
    annotated: int = 0
    triplets: int = 0
    graph_orders: tuple[str, ...] = ()
    words: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    others: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """How many there are."""
        return self.shapes["rgb"][0]


NO_NUMBER = -2  # in `Facts.rows`


def inspect_take(take: StoredTake, tables: Tables) -> Facts:
    """Look at all of a take but its pictures, points and sound.

    Raises:
        BadRecording: something about it is wrong.
    """
    with open_take(take) as group:
        cameras = read_cameras(group, tables.sources)
        arrays = _arrays(group, len(cameras))
        steps = {name: block_length(array) for name, array in arrays.items()}
        for name in ("gaze", "gaze_depth", "hands"):
            if name in arrays:
                _refuse_infinity(arrays[name])
        graphs, orders = read_graphs(group, tables, arrays["rgb"].shape[0])
        waveform = arrays.get("waveform")
        triplets = [triplet for graph in graphs.values() for triplet in graph]
        _, _, height, width, _ = arrays["rgb"].shape
        return Facts(
            take=take,
            cameras=cameras,
            size=(width, height),
            shapes={name: array.shape for name, array in arrays.items()},
            steps=steps,
            largest_read=max(
                min(steps[name], len(each)) * column_length(each) * prod(each.shape[2:]) * each.dtype.itemsize
                for name, each in arrays.items()
            ),
            fingerprint=_fingerprint(cameras, arrays),
            graphs=fingerprint(f"{frame} {sorted(graph)}" for frame, graph in graphs.items()),
            sound_s=None if waveform is None else len(waveform) / AUDIO_RATE,
            colors_to=_largest_color(arrays["cloud_colors"]) if "cloud_colors" in arrays else None,
            rows={name: _row_ids(arrays[name], tables.sources) for name in ("gaze", "hands") if name in arrays},
            gaze_to=_gaze_to(arrays["gaze"]) if "gaze" in arrays else None,
            annotated=len(graphs),
            triplets=len(triplets),
            graph_orders=orders,
            words=(frozenset(w for t in triplets for w in t[:2]), frozenset(t.predicate for t in triplets)),
            others=tuple(_others(group)),
        )


@contextmanager
def open_take(take: StoredTake) -> Generator[h5py.Group]:
    """The group of a take in its file.

    Raises:
        BadRecording: the file cannot be opened, or the take is not there any more.
    """
    with open_hdf5(take.file) as file:
        group = group_at(file, take.group.strip("/"))
        if group is None:
            raise BadRecording(f"{take.file}:{take.group}: is not there any more; give the same files again")
        yield group


def array(group: h5py.Group, name: str) -> h5py.Dataset:
    """An array of a take that `inspect_take` has found, by its name in ARRAYS.

    Raises:
        BadRecording: it is not there any more.
    """
    found = dataset_at(group, ARRAYS[name][0])
    if found is None:
        raise BadRecording(f"{where(group)}/{ARRAYS[name][0]}: is not there any more; give the same files again")
    return found


def _arrays(group: h5py.Group, cameras: int) -> dict[str, h5py.Dataset]:
    """The arrays that are there, whose axes and numbers are as they must be."""
    found: dict[str, h5py.Dataset] = {}
    lengths: dict[str, tuple[int, str]] = {"c": (cameras, "source_count")}
    for name, (path, kind, axes) in ARRAYS.items():
        dataset = dataset_at(group, path)
        if dataset is None or not dataset.size:  # nothing of it was recorded; HDF5's null has the size None
            if name == "rgb":
                raise BadRecording(f"{where(group)}/{path}: is missing or empty; download the file again")
            continue
        if dataset.dtype.kind != kind[0] or (kind == "u1" and dataset.dtype.itemsize != 1) or dataset.ndim != len(axes):
            expected = f"[{', '.join(_AXES.get(str(axis), str(axis)) for axis in axes)}] of {_KINDS[kind]}"
            raise BadRecording(f"{where(dataset)}: is {form(dataset)}, expected {expected}")
        for axis, length in zip(axes, dataset.shape):
            known, of = (axis, "the format") if isinstance(axis, int) else lengths.setdefault(axis, (length, path))
            if length != known:
                unit = _AXES.get(str(axis), "numbers")
                raise BadRecording(f"{where(dataset)}: is {form(dataset)}: {length} {unit}, {of} has {known}")
        found[name] = dataset
    for name, most, unit, each in (
        ("rgb", MOST_FRAMES, "frames", 1),
        ("waveform", _LONGEST_S, "s of sound", AUDIO_RATE),
    ):
        if name in found and (length := len(found[name]) // each) > most:  # a file of some kB may state billions
            raise BadRecording(f"{where(found[name])}: has {length} {unit}, a take has {most} at most")
    for name, partner in _PARTNERS.items():
        if name in found and partner not in found:
            raise BadRecording(f"{where(found[name])}: is there without {ARRAYS[partner][0]}; download the file again")
    return found


_AXES = {
    "f": "frames",
    "c": "cameras",
    "y": "rows of pixels",
    "x": "pixels",
    "g": "gaze rows",
    "h": "rows of hands",
    "p": "points",
    "s": "samples",
}
_KINDS = {"u1": "uint8", "f": "float32"}


def _refuse_infinity(dataset: h5py.Dataset) -> None:
    for first, block in blocks(dataset):
        if (places := np.isinf(block)).any():
            frame = first + int(np.argwhere(places)[0, 0])
            raise BadRecording(f"{where(dataset)}: has infinity in frame {frame}; download the file again")


def _row_ids(dataset: h5py.Dataset, known: Mapping[str, int]) -> tuple[int, ...]:
    """Numbers of the sources that the first column has; NO_NUMBER for NaN."""
    found: set[int] = set()
    for _, block in blocks(dataset):
        column = block[..., 0]
        found |= set(np.unique(np.where(np.isnan(column), NO_NUMBER, column)).tolist())
    if unknown := sorted(found - {*known.values(), NO_NUMBER}):
        raise BadRecording(f"{where(dataset)}: has rows of source {unknown[0]:g}, which is in no table of sources")
    return tuple(sorted(int(number) for number in found))


def _gaze_to(dataset: h5py.Dataset) -> tuple[float, float]:
    largest = [np.fmax.reduce(block[..., 1:].reshape(-1, 2), axis=0) for _, block in blocks(dataset)]
    x, y = np.fmax.reduce(largest, axis=0).tolist()
    return x, y


def _largest_color(dataset: h5py.Dataset) -> int:
    """Whether colours are fractions of 1 or numbers to 255, by the largest of the take.

    The first block with a value above 1, or with a fraction and none above 1, settles it: the rest is compared when it
    is written.
    """
    for _, block in blocks(dataset):
        known = block[np.isfinite(block)]
        if (known > 1).any():
            return 255
        if (known != np.rint(known)).any():
            return 1
    return 1


def _others(group: h5py.Group) -> Iterator[str]:
    """Arrays of a take that are in no table here, without those of its frames' annotations."""
    import h5py

    known, seen = {path for path, _, _ in ARRAYS.values()}, {group.id}
    waiting = [name for name in names(group) if name != "annotations"]
    while waiting:
        path = waiting.pop(0)
        item = member(group, path)
        if isinstance(item, h5py.Dataset) and path not in known:
            yield f"{one_line(path)} {form(item)}"
        elif isinstance(item, h5py.Group) and path.count("/") < _DEEPEST and item.id not in seen:
            seen.add(item.id)  # hard links may lead back
            waiting += [f"{path}/{name}" for name in names(item)]


def _fingerprint(cameras: tuple[str, ...], arrays: Mapping[str, h5py.Dataset]) -> str:
    """Of the form of a take and the packed size of its arrays: other recordings differ, and nothing need be read."""
    sizes = {}
    for name, each in arrays.items():
        with told(where(each)):
            sizes[name] = each.id.get_storage_size()
    return fingerprint(
        [*cameras, *(f"{name} {each.shape} {each.dtype} {sizes[name]}" for name, each in arrays.items())]
    )
