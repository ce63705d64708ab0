"""VPQ and mask pictures in numbers: our ways, and the plain ones of `plain_masks.py` with the same results.

CPU time of one thread, made-up videos and pictures.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plain_masks import plain_ids, plain_labels, plain_reduction, plain_window_sums
from timing import cpu_seconds

from operating_room.domain.domain import mmor
from operating_room.recordings.masks import reduce_labels
from panoptic_segmentation.inference.predictions import picture_path, write_frame
from panoptic_segmentation.scores.overlap import read_overlaps
from panoptic_segmentation.scores.vpq import Quality, video_quality

SIDES = ("truth", "predicted")


@dataclass(frozen=True)
class Video:
    """A video on disk: the JSON of both sides, and where their pictures are."""

    files: dict[str, Any]  # side -> JSON
    folder: Path

    def picture(self, side: str, name: str) -> Path:
        """Where a side's picture is."""
        return picture_path(self.folder / side, "video", name)

    def vpq(self, lengths: Sequence[int]) -> list[float]:
        """Percent for each window length, our way."""
        pictures = (lambda _, name, side=side: self.picture(side, name) for side in SIDES)
        overlaps = read_overlaps(self.files["truth"], next(pictures), self.files["predicted"], next(pictures))
        windows = video_quality(overlaps, {c.category_id: c.name for c in mmor().labels.categories}, lengths).windows
        return [100 * windows[length].average["pq"] for length in lengths]

    def plain_vpq(self, lengths: Sequence[int]) -> list[float]:
        """The same, window by window."""
        return [self._plain_vpq(length) for length in lengths]

    def _plain_vpq(self, length: int) -> float:
        frames = [self.files[side]["annotations"][0]["annotations"] for side in SIDES]
        sums: defaultdict[int, Quality] = defaultdict(Quality)
        for start in range(len(frames[0]) - length + 1):
            window = [side[start : start + length] for side in frames]
            truth, predicted = (
                np.stack([plain_ids(self.picture(side, frame["file_name"])) for frame in frames])
                for side, frames in zip(SIDES, window, strict=True)
            )
            records = [[frame["segments_info"] for frame in side] for side in window]
            for category, quality in plain_window_sums(truth, predicted, records[0], records[1]).items():
                sums[category] += quality
        return 100 * sum(q.iou / (q.tp + q.fp / 2 + q.fn / 2) for q in sums.values()) / len(sums)

    def as_published(self, folder: Path) -> Video:
        """A copy whose pictures are packed by the image library, as those of the published code are."""
        copy = Video(self.files, folder)
        for side in SIDES:
            for frame in self.files[side]["annotations"][0]["annotations"]:
                path = copy.picture(side, frame["file_name"])
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(self.picture(side, frame["file_name"])).save(path)
        return copy


def blobs(centres: np.ndarray, height: int, width: int) -> np.ndarray:
    """A class map: a blob with a rough outline at each centre (y, x in 0..1), numbered from 1."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    ids = np.zeros((height, width), np.int32)
    for number, (y, x) in enumerate(centres % 1, start=1):
        ids[(rows - y) ** 2 + (columns - x) ** 2 < 0.1**2 * (1 + 0.2 * np.sin(40 * columns))] = number
    return ids


def write_video(folder: Path, frames: int, width: int, height: int, seed: int) -> Video:
    """Wandering blobs of all classes, and predictions that are a little off."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 1, (23, 2)), rng.normal(0, 0.004, (23, 2))
    labels = [(number, number) for number in range(1, 24)]
    files = {}
    for side, error in zip(SIDES, (0.0, 0.012), strict=True):
        records = []
        for frame in range(frames):
            ids = blobs(place + frame * speed + rng.normal(0, error, place.shape), height, width)
            records.append(
                write_frame(folder / side, "video", f"{frame:06d}.jpg", ids, labels, (width, height), mmor().labels)
            )
        categories = [{"id": category.category_id} for category in mmor().labels.categories]
        files[side] = {"categories": categories, "annotations": [{"video_id": "video", "annotations": records}]}
    return Video(files, folder)


def compare_vpq(folder: Path, frames: int, width: int, height: int) -> None:
    """Print VPQ's times for windows of 4, and of 4 and 8 frames."""
    video = write_video(folder / "ours", frames, width, height, seed=0)
    published = video.as_published(folder / "published")
    print(
        f"VPQ of {frames} frames of {width}x{height} px, CPU s; the published code was measured at 7.6 for windows of 4"
    )
    for lengths, aim in (((4,), 8), ((4, 8), 15)):
        plain, expected = cpu_seconds(1, published.plain_vpq, lengths)
        row = f"  windows of {' and '.join(map(str, lengths)):7}  plain {plain:6.2f}"
        for name, way in (("packed as published", published), ("as ours", video)):
            seconds, scores = cpu_seconds(3, way.vpq, lengths)
            if not np.allclose(scores, expected, rtol=0, atol=1e-9):
                raise SystemExit(f"the two ways disagree: {scores}, {expected}")
            row += f"  ours on files {name} {seconds:5.2f} ({plain / seconds:.1f}x)"
        print(f"{row}  aim {aim}x")


def compare_pictures(width: int, height: int) -> None:
    """Print the times of colour lookup and of reduction."""
    labels = mmor().labels
    picture = labels.colors[blobs(np.random.default_rng(0).uniform(0, 1, (23, 2)), height, width)]
    mask = labels.colors_to_labels(picture)
    print(f"mask pictures of {width}x{height} px, CPU ms; published code 1370 and 43")
    for name, ours, plain, value, aim in (
        ("colours to labels", labels.colors_to_labels, plain_labels, picture, 50),
        ("reduction to 32x32", reduce_labels, plain_reduction, mask, 5),
    ):
        (fast, result), (slow, expected) = cpu_seconds(15, ours, value), cpu_seconds(3, plain, value)
        np.testing.assert_array_equal(result, expected)
        print(f"  {name:19} plain {1000 * slow:7.1f}  ours {1000 * fast:6.2f} ({slow / fast:.0f}x)  aim {aim}x")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        compare_vpq(Path(folder), frames=60, width=960, height=720)
    compare_pictures(width=2048, height=1536)


if __name__ == "__main__":
    main()
