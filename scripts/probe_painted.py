"""What a segmenter paints where something small is annotated: is it seen, and is it taken for something else?

Usage: python scripts/probe_painted.py GROUND_TRUTH PREDICTIONS NAME...; GROUND_TRUTH is a file of `mmor panoptic
evaluate --ground-truth FOLDER` (FOLDER/datasets/ground_truth_test.json), PREDICTIONS the folder inference/pan_pred of
`mmor panoptic predict`, NAMEs are categories (default: the tools). Of each dataset and category: in how many pictures
it is annotated, how large, which of the named are painted within its box, and what share of its size as itself where it
is. Pictures have the size of the ground truth.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_json, read_picture

TOOLS = ("drill", "hammer", "saw", "cementer")


def main(ground_truth: Path, predictions: Path, names: tuple[str, ...]) -> None:
    """Print a line for each dataset and category."""
    truth, domain = read_json(ground_truth), mmor()
    category = {entry["id"]: entry["name"] for entry in truth["categories"]}
    label = {entry.label: entry.name for entry in domain.labels.categories}
    pictures: Counter[str] = Counter()
    painted_in: Counter[str] = Counter()  # pictures with any of the named
    sizes, seen, found = defaultdict(list), defaultdict(Counter), defaultdict(list)
    folders = {video["video_id"]: video["video_folder"] for video in truth["videos"]}
    for video in truth["annotations"]:
        dataset = domain.find_take(folders[video["video_id"]]).dataset
        for frame in video["annotations"]:
            pictures[dataset] += 1
            path = predictions / video["video_id"] / Path(frame["file_name"]).with_suffix(".png").name
            painted = domain.labels.colors_to_labels(read_picture(path))
            painted_in[dataset] += any(label[int(value)] in names for value in np.unique(painted))
            for segment in frame["segments_info"]:
                if (name := category[segment["category_id"]]) in names:
                    x, y, width, height = segment["bbox"]
                    box = [label[int(value)] for value in painted[y : y + height, x : x + width].flat]
                    there = {*box}
                    if name in there:
                        found[dataset, name].append(box.count(name) / segment["area"])
                    sizes[dataset, name].append(segment["area"])
                    seen[dataset, name][", ".join(sorted(there & {*names})) or "none of them"] += 1
    for dataset, count in pictures.items():
        print(f"{dataset}: {count} pictures, {painted_in[dataset]} in which any of them is painted")
        for name in names:
            if areas := sizes[dataset, name]:
                told = "; ".join(f"{what} {often}" for what, often in seen[dataset, name].most_common())
                share = f"; as itself at {np.mean(of):.2f} of its size" if (of := found[dataset, name]) else ""
                print(
                    f"  {name}: annotated in {len(areas)}, {np.mean(areas):.0f} px; painted in its box: {told}{share}"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]) or TOOLS)
