"""Joint histograms kept on disk, so that an interrupted evaluation goes on and a repeated one takes no time.

One file per video; it holds for as long as the segment records and the pictures are those it was made from.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from operating_room.files import picture_files
from operating_room.files.atomic import write_bytes
from operating_room.work.progress import track
from panoptic_segmentation.scores.overlap import Records, VideoOverlap, read_overlaps

# What NumPy and the zip reader say of damaged files.
_DAMAGED = (OSError, LookupError, TypeError, ValueError, AttributeError, EOFError, RuntimeError, BadZipFile, zlib.error)
_RECORD_FIELDS = ("ids", "place", "category", "area", "crowd")

Picture = Callable[[str, str], Path]  # (video id, file name of a frame) -> its PNG


def cached_overlaps(
    folder: Path, truth: Mapping[str, Any], truth_picture: Picture, predicted: Mapping[str, Any], picture: Picture
) -> Iterator[VideoOverlap]:
    """As `read_overlaps`, video by video, with what `folder` has; what is computed is added to it.

    Raises:
        UserError: see `read_overlaps`; or `folder` cannot be written.
    """
    by_id = {video["video_id"]: video for video in predicted["annotations"]}
    for video in track(truth["annotations"], "VPQ", len(truth["annotations"])):
        video_id = video["video_id"]
        mine = [by_id[video_id]] if video_id in by_id else []
        names = [frame["file_name"] for frame in video["annotations"]]
        pictures = [find(video_id, name) for find in (truth_picture, picture) for name in names]
        key = _fingerprint([video, mine, truth["categories"], picture_files.READING], pictures)
        path = folder / f"{video_id}.npz"
        overlap = None if key is None else _load(path, video_id, key)
        if overlap is None:
            part = {"categories": truth["categories"], "annotations": [video]}
            (overlap,) = read_overlaps(part, truth_picture, {"annotations": mine}, picture)
            _save(path, overlap, key or "")
        yield overlap


def _fingerprint(records: Any, pictures: Sequence[Path]) -> str | None:
    """Changes with the records and with the size or time of a picture; None if a picture is not there."""
    try:
        stats = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in pictures)]
    except OSError:
        return None
    return hashlib.sha256(json.dumps([records, stats]).encode()).hexdigest()


def _save(path: Path, overlap: VideoOverlap, key: str) -> None:
    arrays: dict[str, Any] = {"key": np.array(key), "joint": overlap.joint}
    for side, records in (("truth", overlap.truth), ("predicted", overlap.predicted)):
        arrays |= {f"{side}.{name}": np.asarray(getattr(records, name)) for name in _RECORD_FIELDS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _load(path: Path, video_id: str, key: str) -> VideoOverlap | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # NumPy leaves damaged files open
            if arrays["key"] != key:
                return None
            sides = []
            for side in ("truth", "predicted"):
                ids, *others = (arrays[f"{side}.{name}"] for name in _RECORD_FIELDS)
                sides.append(Records(tuple(ids.tolist()), *others))
            return VideoOverlap(video_id, sides[0], sides[1], arrays["joint"])
    except _DAMAGED:
        return None  # not there, or damaged: made anew
