"""Does a query stay with its person while somebody else is in front? A table, and a figure of each second.

    python scripts/identity.py PREDICTIONS [PREDICTIONS ...] --data DIR --take TAKE --camera 1 --figure FILE.svg

PREDICTIONS: folders of `mmor panoptic predict`, whose second pictures hold one number per query. A person of the labels
has the number of the prediction that overlaps most, if by an IoU of 0.25 or more. Hidden: less than 30 px are seen for
two seconds or more, after which the number is compared with the one before.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from operating_room.domain.domain import mmor
from operating_room.files.picture_files import read_label_mask, read_picture
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.data.videos import Video, find_videos
from panoptic_segmentation.inference.predictions import instance_path

SEEN = 30  # px
LEAST_IOU = 0.25
HIDDEN = 2  # s
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
STEP, ROW, LEFT, TOP = 8, 16, 230, 8  # px of the figure
Track = list[int | None]  # second by second: 0 hidden, None seen and not found, else the number


def tracks(video: Video, predictions: Path, people: Mapping[int, str]) -> dict[str, Track]:
    """The number of each person that is ever seen."""
    labels = video.domain.labels
    found: dict[str, Track] = {name: [] for name in people.values()}
    for picture, mask in zip(video.pictures(), video.masks(), strict=True):
        truth = labels.label_to_category[read_label_mask(mask)]
        numbers = read_picture(instance_path(predictions, video.video_id, picture.name))[..., 0]
        if numbers.shape != truth.shape:
            raise SystemExit(f"{picture}: predicted in another size than its mask; choose a room camera")
        areas = np.bincount(numbers.ravel(), minlength=256)
        for category, name in people.items():
            of_person = truth == category
            size = int(of_person.sum())
            if size < SEEN:
                found[name].append(0)
                continue
            joint = np.bincount(numbers[of_person], minlength=256)
            iou = joint / (areas + size - joint)
            iou[0] = 0
            found[name].append(int(iou.argmax()) if iou.max() >= LEAST_IOU else None)
    return {name: track for name, track in found.items() if any(number != 0 for number in track)}


def returns(track: Track) -> tuple[int, int, int]:
    """How often a person comes back after being hidden, with the same number, and without having been found again."""
    back = same = lost = 0
    before: int | None = 0
    gone = 0
    for number in track:
        if number == 0:
            gone += 1
            continue
        if before and gone >= HIDDEN:
            back += 1
            same += number == before
            lost += number is None
        gone = 0
        before = number or before
    return back, same, lost


def switches(track: Track) -> tuple[int, int]:
    """Changes of the number from one second in which a person is found to the next, of how many."""
    numbers = [number for number in track if number]
    return sum(a != b for a, b in pairwise(numbers)), max(len(numbers) - 1, 0)


def draw(models: Mapping[str, Mapping[str, Track]]) -> str:
    """One row for each person and model: a colour is a query, a hollow bar is not found, none is hidden."""
    rows = [(model, name, track) for model, of in models.items() for name, track in of.items()]
    length = max(len(track) for *_, track in rows)
    height = TOP + ROW * len(rows) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + STEP * length + 10}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, (model, name, track) in enumerate(rows):
        y = TOP + ROW * row
        parts.append(f'<text x="4" y="{y + 11}">{escape(f"{model}: {name}")}</text>')
        order = list(dict.fromkeys(number for number in track if number))
        second = 0
        for number, same in groupby(track):  # a stretch is one cell
            first, second = second, second + len(list(same))
            if number == 0:
                continue
            color = "none" if number is None else COLORS[min(order.index(number), len(COLORS) - 1)]
            told = "not found" if number is None else f"query {number - 1}"
            parts.append(
                f'<rect x="{LEFT + STEP * first}" y="{y + 2}" width="{STEP * (second - first) - 1}" height="{ROW - 4}" '
                f'fill="{color}" stroke="#888" stroke-width="0.5"><title>{first} to {second} s: {told}</title></rect>'
            )
    for second in range(0, length, 10):
        parts.append(f'<text x="{LEFT + STEP * second}" y="{height - 8}">{second} s</text>')
    return "".join([*parts, "</svg>"])


def people_of(names: Sequence[str]) -> dict[int, str]:
    """Categories of people by name."""
    known = {category.name: place for place, category in enumerate(mmor().labels.categories)}
    return {known[name]: name for name in names}


def main() -> None:
    """Print the table, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--take", required=True)
    parser.add_argument("--camera", required=True)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument(
        "--people", nargs="+", default=["head_surgeon", "assistant_surgeon", "nurse", "circulator", "anest"]
    )
    asked = parser.parse_args()
    take = mmor().find_take(asked.take)
    videos = [video for video in find_videos(Dataset(asked.data), [take]) if video.camera == asked.camera]
    if len(videos) != 1:
        raise SystemExit(f"{take.name} has {len(videos)} videos of camera {asked.camera}; choose a shorter take")
    models = {folder.name: tracks(videos[0], folder, people_of(asked.people)) for folder in asked.predictions}
    print(f"{'model':24}{'person':20}{'changes':>9}{'of':>5}{'hidden':>8}{'same':>6}{'not found':>11}")
    for model, of in models.items():
        for name, track in of.items():
            (changed, of_all), (back, same, lost) = switches(track), returns(track)
            print(f"{model:24}{name:20}{changed:9}{of_all:5}{back:8}{same:6}{lost:11}")
    asked.figure.write_text(draw(models), encoding="utf-8")


if __name__ == "__main__":
    main()
