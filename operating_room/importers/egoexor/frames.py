"""From arrays of an EgoExOR file to files of the house layout, some frames at a time.

The house layout, of a take in takes/{take}:

    views/{camera}/{frame}.jpg or .png
    gaze/{frame}.npy     float32 [rows, 4]: place of the camera in the domain (-1: nobody says whose), x px, y px,
                         depth m; (-1, -1) was not found
    hands/{frame}.npy    float32 [rows, 17]: place of the camera, then x, y px of left wrist, left palm, right wrist,
                         right palm, and of the tips of their surface normals in this order; NaN was not found
    clouds/{frame}.npz   points float32 [points, 3] m, colors uint8 [points, 3]
    audio/{frame}.flac   one second in stereo, or sound.flac for the whole take
    graphs/{frame}.json  list of [subject, object, predicate]

A frame is six digits, counted from 0. What was not recorded has no file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from operating_room.files.atomic import atomic_path, write_bytes, write_json
from operating_room.files.picture_files import save_picture
from operating_room.importers.egoexor.graphs import read_graphs
from operating_room.importers.egoexor.hdf5 import BadRecording, blocks, column_length, read, where
from operating_room.importers.egoexor.source import Tables
from operating_room.importers.egoexor.tables import (
    AUDIO_RATE,
    BLANK,
    GAZE_FRAME,
    GAZE_IS_OFF,
    GAZE_OFFSET,
    SWAPPED,
    Colours,
    Gaze,
    Pictures,
)
from operating_room.importers.egoexor.takes import Facts, array, open_take

if TYPE_CHECKING:
    import h5py

UNKNOWN_DEPTH = 1.0  # m; what the files have where the depth of a gaze is not known
_MISSING = -1.0  # px; both coordinates of a point of gaze that was not found
# How pictures are written. Of JPEG with full resolution of colours: the loss is far below the noise of the cameras.
_WRITTEN = {"jpg": {"quality": 95, "subsampling": 0}, "png": {"compress_level": 2}}
_LOUDEST = 8.0  # a mix of several microphones goes beyond 1 a little; 16-bit numbers go to 32768
Counts = dict[str, int]


@dataclass(frozen=True)
class Piece:
    """Some frames of one kind of file of a take, written at a stretch by one process."""

    facts: Facts
    tables: Tables
    places: Mapping[int, int]  # see `words.places`
    folder: Path  # of the take
    part: str  # a key of WRITERS
    first: int
    last: int  # the one after the last frame
    colours: Colours
    pictures: Pictures
    gaze: Gaze

    @property
    def key(self) -> str:
        """Its name in the list of what is done."""
        return f"{self.part} {self.first}-{self.last}"


def write_piece(piece: Piece) -> Counts:
    """Write the files of a piece; what was written is counted.

    Raises:
        BadRecording: the file of the take is damaged there.
        UserError: the folder cannot be written.
    """
    with open_take(piece.facts.take) as group:
        return WRITERS[piece.part](piece, group)


def parts(facts: Facts) -> Iterator[tuple[str, int, int]]:
    """Part, frames, and frames that are read at once, of all that a take has."""
    for part, name in (
        ("views", "rgb"),
        ("gaze", "gaze"),
        ("hands", "hands"),
        ("clouds", "cloud"),
        ("audio", "snippets"),
    ):
        if name in facts.shapes:
            yield part, facts.frames, facts.steps[name]
    if "snippets" not in facts.shapes and "waveform" in facts.shapes:
        yield "sound", facts.frames, facts.frames
    if facts.annotated:
        yield "graphs", facts.frames, facts.frames


def frame_id(frame: int) -> str:
    """Six digits."""
    return f"{frame:06d}"


def _write_views(piece: Piece, group: h5py.Group) -> Counts:
    rgb = array(group, "rgb")
    counts = {"pictures": 0, "black": 0}
    cameras, step = piece.facts.cameras, column_length(rgb)
    for left in range(0, len(cameras), step):
        block = read(rgb, piece.first, piece.last, slice(left, left + step))
        for column, camera in enumerate(cameras[left : left + step]):
            if camera == BLANK:
                continue
            for frame, picture in enumerate(block[:, column], start=piece.first):
                if not picture.any():
                    counts["black"] += 1
                    continue
                # Red and blue change places: BGR <-> RGB.
                seen = picture[..., ::-1] if camera in SWAPPED[piece.colours] else picture
                path = piece.folder / "views" / camera / f"{frame_id(frame)}.{piece.pictures}"
                save_picture(path, np.ascontiguousarray(seen), **_WRITTEN[piece.pictures])
                counts["pictures"] += 1
    return counts


def _write_gaze(piece: Piece, group: h5py.Group) -> Counts:
    points = read(array(group, "gaze"), piece.first, piece.last).astype(np.float32)
    if "gaze_depth" in piece.facts.shapes:
        depth = read(array(group, "gaze_depth"), piece.first, piece.last).astype(np.float32)
    else:
        depth = np.full(points.shape[:2], UNKNOWN_DEPTH, np.float32)
    # NaN is said in the ways that the files have for it, so that rows keep their places and all numbers are some.
    points[..., 0] = np.where(np.isnan(points[..., 0]), piece.tables.sources[BLANK], points[..., 0])
    points[np.isnan(points).any(axis=-1), 1:] = _MISSING
    depth = np.where(np.isnan(depth), np.float32(UNKNOWN_DEPTH), depth)
    if piece.gaze == "corrected":
        points = correct_gaze(points, piece.facts.take.name, piece.tables.sources, piece.facts.size)
    points[..., 0] = _placed(points[..., 0], piece.places)
    for frame, rows in enumerate(np.concatenate([points, depth[..., None]], axis=2), start=piece.first):
        _write_array(piece.folder / "gaze" / f"{frame_id(frame)}.npy", rows)
    return {"gaze": len(points)}


def _placed(numbers: Float32[np.ndarray, "frames rows"], places: Mapping[int, int]) -> Float32[np.ndarray, "_ _"]:
    """Places of cameras by the numbers that the file has for them; NaN stays."""
    placed = numbers.copy()
    for number, place in places.items():
        placed[numbers == number] = place
    return placed


def correct_gaze(
    points: Float32[np.ndarray, "frames rows 3"], take: str, sources: Mapping[str, int], size: tuple[int, int]
) -> Float32[np.ndarray, "frames rows 3"]:
    """Points of gaze (number of the source, x px, y px) where the glasses of a person were off in a take.

    The offset is known in px of a picture of 336 px, and grows with it. Points that were not found stay (-1, -1).
    """
    off = [sources[role] for role in sources if (role, take) in GAZE_IS_OFF]
    wrong = np.isin(points[..., 0], off) & ~(points[..., 1:] == _MISSING).all(axis=-1)
    offset = np.array(GAZE_OFFSET) * np.array(size) / GAZE_FRAME
    moved = points.copy()
    moved[..., 1:] += np.where(wrong[..., None], offset, 0).astype(np.float32)
    return moved


def _write_hands(piece: Piece, group: h5py.Group) -> Counts:
    hands = read(array(group, "hands"), piece.first, piece.last).astype(np.float32)
    hands[..., 0] = _placed(hands[..., 0], piece.places)
    for frame, rows in enumerate(hands, start=piece.first):
        _write_array(piece.folder / "hands" / f"{frame_id(frame)}.npy", rows)
    return {"hands": len(hands)}


def _write_array(path: Path, values: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, values)


def _write_clouds(piece: Piece, group: h5py.Group) -> Counts:
    coordinates, colors = array(group, "cloud"), array(group, "cloud_colors")
    counts = {"clouds": 0, "empty_clouds": 0}
    points = read(coordinates, piece.first, piece.last).astype(np.float32)
    shades = read(colors, piece.first, piece.last).astype(np.float32)
    for frame, (xyz, rgb) in enumerate(zip(points, shades), start=piece.first):
        known = np.isfinite(xyz).all(axis=1) & np.isfinite(rgb).all(axis=1)
        xyz, rgb = xyz[known], rgb[known]
        if not len(xyz):
            counts["empty_clouds"] += 1
            continue
        to = piece.facts.colors_to or 1
        if rgb.min() < 0 or rgb.max() > to:
            told = f"has colours from {rgb.min():g} to {rgb.max():g} in frame {frame}, others of the take go to {to}"
            raise BadRecording(f"{where(colors)}: {told}")
        with atomic_path(piece.folder / "clouds" / f"{frame_id(frame)}.npz") as temporary:
            np.savez(temporary, points=xyz, colors=np.rint(rgb * (255 / to)).astype(np.uint8))
        counts["clouds"] += 1
    return counts


def _write_audio(piece: Piece, group: h5py.Group) -> Counts:
    snippets = array(group, "snippets")
    counts = {"audio": 0, "clipped": 0}
    for frame, samples in enumerate(read(snippets, piece.first, piece.last), start=piece.first):
        path = piece.folder / "audio" / f"{frame_id(frame)}.flac"
        counts["clipped"] += _write_flac(path, [samples], snippets)
        counts["audio"] += 1
    return counts


def _write_sound(piece: Piece, group: h5py.Group) -> Counts:
    waveform = array(group, "waveform")
    samples = (block for _, block in blocks(waveform))
    return {"sound": 1, "clipped": _write_flac(piece.folder / "sound.flac", samples, waveform)}


def _write_flac(path: Path, blocks_of_samples: Iterable[np.ndarray], dataset: h5py.Dataset) -> int:
    """Write stereo samples; 1 if some had to be clipped to -1..1, else 0."""
    import soundfile

    packed, clipped = io.BytesIO(), 0
    # 24 bits: what float32 within -1..1 holds is not lost.
    with soundfile.SoundFile(packed, "w", AUDIO_RATE, 2, "PCM_24", format="FLAC") as file:
        for samples in blocks_of_samples:
            loudest = float(np.abs(samples).max(initial=0))  # NaN if any is
            if not loudest <= _LOUDEST:
                raise BadRecording(
                    f"{where(dataset)}: has samples up to {loudest:g}, expected -1 to 1; download it again"
                )
            clipped |= loudest > 1
            file.write(np.clip(samples, -1, 1).astype(np.float32))
    write_bytes(path, packed.getvalue())
    return int(clipped)


def _write_graphs(piece: Piece, group: h5py.Group) -> Counts:
    graphs, _ = read_graphs(group, piece.tables, piece.facts.frames)
    for frame, triplets in graphs.items():
        write_json(piece.folder / "graphs" / f"{frame_id(frame)}.json", triplets)
    return {"graphs": len(graphs)}


# One part -> what writes it.
WRITERS: dict[str, Callable[[Piece, Any], Counts]] = {
    "views": _write_views,
    "gaze": _write_gaze,
    "hands": _write_hands,
    "clouds": _write_clouds,
    "audio": _write_audio,
    "sound": _write_sound,
    "graphs": _write_graphs,
}
