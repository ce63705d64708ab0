"""CPU seconds of VPQ, beside a plain count that decodes and counts every picture anew in each of its windows.

A made-up video of 60 frames of 960x720 px, class colours, ground truth and prediction, as PNG files. The published code
counts the plain way and was measured at 7.6 CPU s for windows of 4 frames (issue 3). Checks that both ways agree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operating_room.categories import CATEGORIES
from panoptic_segmentation.overlap import read_ids, read_overlaps
from panoptic_segmentation.predictions import write_frame
from panoptic_segmentation.vpq import video_quality

Segments = Sequence[dict[str, Any]]
Sums = dict[int, list[float]]  # category -> IoU, TP, FP, FN


def plain_window_sums(
    truth: np.ndarray, predicted: np.ndarray, truth_segments: Sequence[Segments], predicted_segments: Sequence[Segments]
) -> Sums:
    """Sums of one window: ids of its frames, and the records of each frame (data specification, section 7.5)."""
    true_tubes: dict[int, dict[str, Any]] = {}
    for segment in (segment for frame in truth_segments for segment in frame):
        tube = true_tubes.setdefault(segment["id"], segment | {"area": 0})
        tube["area"] += segment["area"]
    predicted_tubes: dict[int, dict[str, Any]] = {}
    for segment in (segment for frame in predicted_segments for segment in frame):
        predicted_tubes.setdefault(segment["id"], dict(segment))
    for number, area in zip(*np.unique(predicted, return_counts=True)):
        if int(number) in predicted_tubes:
            predicted_tubes[int(number)]["area"] = int(area)
    pairs, counts = np.unique(truth.astype(np.int64) << 24 | predicted, return_counts=True)
    overlap = defaultdict(int, {(int(p) >> 24, int(p) & 0xFFFFFF): int(c) for p, c in zip(pairs, counts)})
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


def plain_vpq(files: Sequence[tuple[Path, Path]], truth: Any, predicted: Any, length: int) -> float:
    """VPQ in percent of one video, window by window."""
    sums: Sums = defaultdict(lambda: [0.0, 0, 0, 0])
    for start in range(len(files) - length + 1):
        window = range(start, start + length)
        ids = (np.stack([read_ids(files[i][side]) for i in window]) for side in (0, 1))
        for category, values in plain_window_sums(
            *ids, [truth[i] for i in window], [predicted[i] for i in window]
        ).items():
            sums[category] = [a + b for a, b in zip(sums[category], values)]
    scores = [iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in sums.values()]
    return 100 * sum(scores) / len(scores)


def write_video(folder: Path, frames: int, width: int, height: int, seed: int) -> tuple[Any, Any]:
    """Write wandering blobs of all classes, and predictions that are a little off; return both JSON files."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 1, (23, 2)), rng.normal(0, 0.004, (23, 2))
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    files = []
    for side, error in (("truth", 0.0), ("predicted", 0.012)):
        records = []
        for frame in range(frames):
            centre = place + frame * speed + rng.normal(0, error, place.shape)
            ids = np.zeros((height, width), np.int32)
            for number, (y, x) in enumerate(centre, start=1):
                ids[(rows - y % 1) ** 2 + (columns - x % 1) ** 2 < 0.1**2 * (1 + 0.2 * np.sin(40 * columns))] = number
            labels = [(number, number) for number in range(1, 24)]
            records.append(write_frame(folder / side, "video", f"{frame:06d}.jpg", ids, labels, (width, height)))
        files.append({"annotations": [{"video_id": "video", "annotations": records}]})
    return files[0], files[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", type=int, nargs=2, default=(960, 720), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth, predicted = write_video(folder, options.frames, *options.size, seed=0)

        def picture(side: str, name: str) -> Path:
            return folder / side / "inference" / "pan_pred" / "video" / f"{Path(name).stem}.png"

        def ours(lengths: Sequence[int]) -> list[float]:
            overlaps = read_overlaps(
                truth, lambda _, name: picture("truth", name), predicted, lambda _, name: picture("predicted", name)
            )
            names = {category.category_id: category.name for category in CATEGORIES}
            windows = video_quality(overlaps, names, lengths).windows
            return [100 * windows[length].average["pq"] for length in lengths]

        def plain(lengths: Sequence[int]) -> list[float]:
            records = [
                [frame["segments_info"] for frame in file["annotations"][0]["annotations"]]
                for file in (truth, predicted)
            ]
            names = [frame["file_name"] for frame in truth["annotations"][0]["annotations"]]
            files = [(picture("truth", name), picture("predicted", name)) for name in names]
            return [plain_vpq(files, *records, length) for length in lengths]

        print(f"{options.frames} frames of {options.size[0]}x{options.size[1]} px")
        for lengths in ((4,), (4, 8)):
            times, scores = [], []
            for way in (ours, plain):
                start = time.process_time()
                scores.append(way(lengths))
                times.append(time.process_time() - start)
            if not np.allclose(*scores, rtol=0, atol=1e-9):
                raise SystemExit(f"the two ways disagree: {scores}")
            what = " and ".join(map(str, lengths))
            print(f"windows of {what:7}  ours {times[0]:6.2f} s  plain {times[1]:6.2f} s  {times[1] / times[0]:5.1f}x")


if __name__ == "__main__":
    main()
