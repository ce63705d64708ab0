"""What the size of a segmenter's masks costs: VPQ of perfect masks that went through a grid of that size and back.

Usage: python scripts/probe_mask_grid.py DATA OUT; DATA holds test takes (320x240 px), every fourth video counts. OUT
gets predictions in the published form, a folder for each grid.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.work.progress import track
from panoptic_segmentation.data.label_masks import category_map, clean
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.inference.predictions import write_frame, write_split, write_video
from panoptic_segmentation.scores.evaluate import evaluate

GRIDS = ((48, 64), (72, 96), (96, 128), (120, 160))  # height, width
SIZE = (320, 240)  # of the pictures, width and height in px
NAMED = ("hammer", "cementer", "tracker", "secondary_table", "patient")


def main(data: Path, out: Path) -> None:
    """Print a table row for each grid."""
    videos = find_videos(Dataset(data), mmor().split_takes("test"))[::4]
    records: dict[tuple[int, int], list[dict[str, Any]]] = {grid: [] for grid in GRIDS}
    for video in track(videos, "videos"):
        names = [path.name for path in video.pictures()]
        perfect = [category_map(clean(read_label_mask(path)), SIZE, mmor().labels) for path in video.masks()]
        for grid, there in records.items():
            folder, frames = _folder(out, grid), []
            for name, categories in zip(names, perfect):
                ids = through_grid(categories, grid)
                labels = [(int(category), int(category)) for category in np.unique(ids[ids > 0])]
                frames.append(write_frame(folder, video.video_id, name, ids, labels, SIZE, mmor().labels))
            there.append(write_video(folder, video.video_id, frames))
    print(f"| grid of masks | VPQ 4 | {' | '.join(NAMED)} |\n|---|---|{'---|' * len(NAMED)}")
    for grid, there in records.items():
        folder = _folder(out, grid)
        write_split(folder, "test", there)
        quality = evaluate(videos, folder, "test", out / "ground_truth", "test", SIZE).classes
        window = quality.windows[4]
        by_name = {quality.names[category]: total.scores["pq"] for category, total in window.total.items()}
        values = [window.average["pq"], *(by_name[name] for name in NAMED)]
        print(f"| {folder.name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")


def through_grid(
    categories: UInt8[np.ndarray, "height width"], grid: tuple[int, int]
) -> UInt8[np.ndarray, "height width"]:
    """Each category's mask averaged into the grid's cells, enlarged bilinearly, and the best above one half taken."""
    masks = F.one_hot(torch.from_numpy(categories).long(), len(mmor().labels.categories)).permute(2, 0, 1)[None].float()
    small = F.interpolate(masks, size=grid, mode="area")
    scores, best = F.interpolate(small, size=categories.shape, mode="bilinear", align_corners=False)[0, 1:].max(0)
    return torch.where(scores >= 0.5, best + 1, 0).numpy().astype(np.uint8)


def _folder(out: Path, grid: tuple[int, int]) -> Path:
    return out / f"{grid[0]}x{grid[1]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
