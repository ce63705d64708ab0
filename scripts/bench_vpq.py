"""VPQ and mask pictures: our ways and plain ones, which count and look up as the published code does.

Part of `bench_panoptic.py`, which prints; the tests check our VPQ against the plain count here. Plain VPQ decodes and
counts every picture anew in each of its windows (data specification, sections 7.5 and 11, fix 4); plain pictures are
compared with one colour after the other, and reduced cell by cell (sections 8 and 11, fix 3).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from operating_room.categories import CATEGORIES, COLORS, colors_to_labels
from operating_room.masks import reduce_labels
from panoptic_segmentation.overlap import read_overlaps
from panoptic_segmentation.predictions import picture_path, write_frame
from panoptic_segmentation.vpq import video_quality

Segments = Sequence[dict[str, Any]]
Sums = dict[int, list[float]]  # category -> IoU, TP, FP, FN
SIDES = ("truth", "predicted")


def plain_window_sums(
    truth: np.ndarray, predicted: np.ndarray, truth_segments: Sequence[Segments], predicted_segments: Sequence[Segments]
) -> Sums:
    """Sums of one window: ids of its frames, and the records of each frame (data specification, section 7.5)."""
    true_tubes: dict[int, dict[str, Any]] = {}
    predicted_tubes: dict[int, dict[str, Any]] = {}
    for frame, segments, predictions in zip(predicted, truth_segments, predicted_segments, strict=True):
        for segment in segments:
            true_tubes.setdefault(segment["id"], segment | {"area": 0})["area"] += segment["area"]
        for segment in predictions:
            predicted_tubes.setdefault(segment["id"], segment | {"area": 0})
        for number, area in zip(*np.unique(frame, return_counts=True), strict=True):
            if int(number) in predicted_tubes:
                predicted_tubes[int(number)]["area"] += int(area)
    pairs, counts = np.unique(truth.astype(np.int64) << 24 | predicted, return_counts=True)
    overlap = defaultdict(int, {(int(p) >> 24, int(p) & 0xFFFFFF): int(c) for p, c in zip(pairs, counts, strict=True)})
    sums: Sums = defaultdict(lambda: [0.0, 0, 0, 0])
    matched = set()
    for true_id, true_tube in true_tubes.items():
        for predicted_id, tube in predicted_tubes.items():
            if true_tube["iscrowd"] or true_tube["category_id"] != tube["category_id"]:
                continue
            shared = overlap[true_id, predicted_id]
            union = true_tube["area"] + tube["area"] - shared - overlap[0, predicted_id]
            if shared and shared / union > 0.5:
                sums[tube["category_id"]][0] += shared / union
                sums[tube["category_id"]][1] += 1
                matched |= {("true", true_id), ("predicted", predicted_id)}
    crowds = {}
    for true_id, tube in true_tubes.items():
        if tube["iscrowd"]:
            crowds[tube["category_id"]] = true_id
        elif ("true", true_id) not in matched:
            sums[tube["category_id"]][3] += 1
    for predicted_id, tube in predicted_tubes.items():
        crowd = crowds.get(tube["category_id"])
        ignored = overlap[0, predicted_id] + (0 if crowd is None else overlap[crowd, predicted_id])
        if ("predicted", predicted_id) not in matched and ignored / tube["area"] <= 0.5:
            sums[tube["category_id"]][2] += 1
    return dict(sums)


def plain_ids(path: Path) -> np.ndarray:
    """R + 256 G + 65536 B of a picture file, channel by channel."""
    with Image.open(path) as image:
        channels = np.asarray(image).astype(np.uint32)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def plain_labels(picture: np.ndarray) -> np.ndarray:
    """Colours to labels, one colour after the other."""
    labels = np.zeros(picture.shape[:2], np.uint8)
    for category in CATEGORIES:
        labels[(picture == np.array(category.color)).all(-1)] = category.label
    return labels


def plain_reduction(labels: np.ndarray, size: int = 32) -> np.ndarray:
    """Label map reduced, cell by cell."""
    height, width = labels.shape[0] // size, labels.shape[1] // size
    values, counts = np.unique(labels[: height * size, : width * size], return_counts=True)
    count = dict(zip(values.tolist(), counts.tolist(), strict=True))
    result = np.empty((size, size), np.uint8)
    for row, column in np.ndindex(size, size):
        cell = labels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        result[row, column] = min(np.unique(cell).tolist(), key=lambda label: (count[label], label))
    return result


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
        windows = video_quality(overlaps, {c.category_id: c.name for c in CATEGORIES}, lengths).windows
        return [100 * windows[length].average["pq"] for length in lengths]

    def plain_vpq(self, lengths: Sequence[int]) -> list[float]:
        """The same, window by window."""
        return [self._plain_vpq(length) for length in lengths]

    def _plain_vpq(self, length: int) -> float:
        frames = [self.files[side]["annotations"][0]["annotations"] for side in SIDES]
        sums: Sums = defaultdict(lambda: [0.0, 0, 0, 0])
        for start in range(len(frames[0]) - length + 1):
            window = [side[start : start + length] for side in frames]
            truth, predicted = (
                np.stack([plain_ids(self.picture(side, frame["file_name"])) for frame in frames])
                for side, frames in zip(SIDES, window, strict=True)
            )
            records = [[frame["segments_info"] for frame in side] for side in window]
            for category, values in plain_window_sums(truth, predicted, records[0], records[1]).items():
                sums[category] = [a + b for a, b in zip(sums[category], values, strict=True)]
        return 100 * sum(iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in sums.values()) / len(sums)

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
            records.append(write_frame(folder / side, "video", f"{frame:06d}.jpg", ids, labels, (width, height)))
        categories = [{"id": category.category_id} for category in CATEGORIES]
        files[side] = {"categories": categories, "annotations": [{"video_id": "video", "annotations": records}]}
    return Video(files, folder)


def cpu_seconds(runs: int, task: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of the fastest of some runs, and the result."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        result = task(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds), result


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
    picture = COLORS[blobs(np.random.default_rng(0).uniform(0, 1, (23, 2)), height, width)]
    labels = colors_to_labels(picture)
    print(f"mask pictures of {width}x{height} px, CPU ms; published code 1370 and 43")
    for name, ours, plain, value, aim in (
        ("colours to labels", colors_to_labels, plain_labels, picture, 50),
        ("reduction to 32x32", reduce_labels, plain_reduction, labels, 5),
    ):
        (fast, result), (slow, expected) = cpu_seconds(15, ours, value), cpu_seconds(3, plain, value)
        np.testing.assert_array_equal(result, expected)
        print(f"  {name:19} plain {1000 * slow:7.1f}  ours {1000 * fast:6.2f} ({slow / fast:.0f}x)  aim {aim}x")
