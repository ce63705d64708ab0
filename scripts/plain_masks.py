"""VPQ, colour lookup and reduction of masks as the published code does them: plainly, and slowly.

The tests check ours against these, the benchmark also their times. Plain VPQ counts every picture anew in each of its
windows (data specification, sections 7.5 and 11, fix 4); plain pictures are compared with one colour after the other,
and reduced cell by cell (sections 8 and 11, fix 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from operating_room.domain.domain import mmor
from panoptic_segmentation.scores.vpq import Quality

Segments = Sequence[dict[str, Any]]


def plain_window_sums(
    truth: np.ndarray, predicted: np.ndarray, truth_segments: Sequence[Segments], predicted_segments: Sequence[Segments]
) -> dict[int, Quality]:
    """Sums by category of one window: its ids and the records of each frame (data specification, section 7.5)."""
    true_tubes: dict[int, dict[str, Any]] = {}
    predicted_tubes: dict[int, dict[str, Any]] = {}
    for frame, segments, predictions in zip(predicted, truth_segments, predicted_segments, strict=True):
        for segment in segments:
            true_tubes.setdefault(segment["id"], segment | {"area": 0})["area"] += segment["area"]
        for segment in predictions:
            predicted_tubes.setdefault(segment["id"], segment | {"area": 0})
        recorded = {segment["id"] for segment in predictions}
        for number, area in zip(*np.unique(frame, return_counts=True), strict=True):
            if int(number) in recorded:  # 0 may be in other frames alone
                predicted_tubes[int(number)]["area"] += int(area)
    pairs, counts = np.unique(truth.astype(np.int64) << 24 | predicted, return_counts=True)
    overlap = defaultdict(int, {(int(p) >> 24, int(p) & 0xFFFFFF): int(c) for p, c in zip(pairs, counts, strict=True)})
    sums: defaultdict[int, Quality] = defaultdict(Quality)
    matched = set()
    for true_id, true_tube in true_tubes.items():
        for predicted_id, tube in predicted_tubes.items():
            if true_tube["iscrowd"] or true_tube["category_id"] != tube["category_id"]:
                continue
            shared = overlap[true_id, predicted_id]
            union = true_tube["area"] + tube["area"] - shared - overlap[0, predicted_id]
            if shared and shared / union > 0.5:
                sums[tube["category_id"]] += Quality(iou=shared / union, tp=1)
                matched |= {("true", true_id), ("predicted", predicted_id)}
    crowds = {}
    for true_id, tube in true_tubes.items():
        if tube["iscrowd"]:
            crowds[tube["category_id"]] = true_id
        elif ("true", true_id) not in matched:
            sums[tube["category_id"]] += Quality(fn=1)
    for predicted_id, tube in predicted_tubes.items():
        crowd = crowds.get(tube["category_id"])
        ignored = overlap[0, predicted_id] + (0 if crowd is None else overlap[crowd, predicted_id])
        if ("predicted", predicted_id) not in matched and ignored / tube["area"] <= 0.5:
            sums[tube["category_id"]] += Quality(fp=1)
    return dict(sums)


def plain_ids(path: Path) -> np.ndarray:
    """R + 256 G + 65536 B of a picture file, channel by channel."""
    with Image.open(path) as image:
        channels = np.asarray(image).astype(np.uint32)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def plain_labels(picture: np.ndarray) -> np.ndarray:
    """Colours to labels, one colour after the other."""
    labels = np.zeros(picture.shape[:2], np.uint8)
    for category in mmor().labels.categories:
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
