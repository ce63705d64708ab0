"""Predicting masks in numbers: frames/s by number format and memory layout, what overlapping writing saves.

    python scripts/bench_segmentation.py [formats] [writing] [--frames N] [--device cpu|cuda]

`formats`: the published online model (R50) with its post-processing at 960x720 px. `writing`: a small model and
pictures of 2048x1536 px, written after each frame or while the next ones are segmented. On a GPU the clock is read
after all that it was given is done; on a CPU `formats` counts CPU seconds of one thread. Random weights: scores are
made up (`bench_panoptic.scores`). Ratios are of one run; every row is measured `--runs` times, the rows taking turns,
and the fastest counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_panoptic import scores, windows
from torch import Tensor

from computing.machine import autocast, choose_device, wait_for
from operating_room.domain.domain import mmor
from operating_room.work.behind import behind
from panoptic_segmentation.inference.panoptic import CausalPanoptic
from panoptic_segmentation.inference.predictions import write_frame
from panoptic_segmentation.inference.video import online_frames
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.video_models import SMALL_VIDEO, OnlineDVIS, VideoConfig

SIZE = (720, 960)  # height, width
CANVAS = (2048, 1536)  # width, height
WINDOW = 3  # frames that go through the segmenter together
LABELS = mmor().labels


@torch.inference_mode()
def label_maps(
    model: OnlineDVIS, pictures: list[Tensor], dtype: torch.dtype | None
) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Segment ids and (id, class) of each frame, as `predict` makes them."""
    causal = None
    with autocast(pictures[0].device, dtype):
        for frame in online_frames(model, pictures):
            causal = causal or CausalPanoptic(frame.sizes, len(LABELS.categories), overlap_threshold=0.0)
            found = causal.add(scores(frame.logits.float()), frame.masks)
            yield found.ids[0].numpy(), [(segment.id, segment.category_id) for segment in found.segments]


def fastest(
    rows: Mapping[str, Callable[[], object]], device: torch.device, runs: int, of_cpu: bool
) -> dict[str, float]:
    """Seconds of each row's best run; the rows take turns, so that other work of the machine meets all of them."""
    clock = time.process_time if of_cpu else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(runs):
        for name, run in rows.items():
            wait_for(device)
            start = clock()
            run()
            wait_for(device)
            seconds[name].append(clock() - start)
    return {name: min(times) for name, times in seconds.items()}


def show(title: str, seconds: dict[str, float], frames: int) -> None:
    """Frames/s of each row, and how many times those of the first."""
    print(title)
    first = next(iter(seconds.values()))
    for name, time_ in seconds.items():
        print(f"  {name:44}{frames / time_:9.3f} frames/s{first / time_:7.2f}x", flush=True)


def compare_formats(device: torch.device, frames: int, runs: int) -> None:
    """float32 and bfloat16; planes or, as pictures are read, pixel after pixel (`channels_last`)."""
    torch.manual_seed(0)
    model = OnlineDVIS(SegmenterConfig(), VideoConfig()).eval().to(device)
    planes = [window.to(device) for window in windows(frames, SIZE, WINDOW)]
    pixels = [window.contiguous(memory_format=torch.channels_last) for window in planes]

    backbone: Any = model.segmenter.backbone  # whether the types of torch know `memory_format` depends on its version

    def run(pictures: list[Tensor], weights: torch.memory_format, dtype: torch.dtype | None) -> Callable[[], None]:
        def segment() -> None:
            backbone.to(memory_format=weights)
            for _ in label_maps(model, pictures, dtype):
                pass

        return segment

    rows = {}
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        rows[f"{name}, planes"] = run(planes, torch.contiguous_format, dtype)
        rows[f"{name}, channels_last pictures (as read)"] = run(pixels, torch.contiguous_format, dtype)
        rows[f"{name}, channels_last pictures and weights"] = run(pixels, torch.channels_last, dtype)
    if device.type != "cpu":
        fastest(rows, device, 1, of_cpu=False)  # the first pass of a process sets things up
    title = f"R50 online, {SIZE[1]}x{SIZE[0]} px, {frames} frames in windows of {WINDOW}, {device.type}"
    show(title, fastest(rows, device, runs, of_cpu=device.type == "cpu"), frames)


def compare_writing(device: torch.device, frames: int, runs: int) -> None:
    """Pictures written in turn with the model, and behind it."""
    torch.manual_seed(0)
    model = OnlineDVIS(small_segmenter(len(LABELS.categories)), SMALL_VIDEO).eval().to(device)
    pictures = [window.to(device) for window in windows(frames, (SIZE[0] // 4, SIZE[1] // 4), WINDOW)]
    with tempfile.TemporaryDirectory() as folder:

        def write(frame: tuple[int, tuple[np.ndarray, list[tuple[int, int]]]]) -> object:
            number, (ids, segments) = frame
            instances = {segment: segment for segment, _ in segments}
            return write_frame(Path(folder), "video", f"{number}.jpg", ids, segments, CANVAS, LABELS, instances)

        maps = [*enumerate(label_maps(model, pictures, None))]
        rows: dict[str, Callable[[], object]] = {
            "one after the other": lambda: list(map(write, enumerate(label_maps(model, pictures, None)))),
            "written behind": lambda: list(behind(write, enumerate(label_maps(model, pictures, None)))),
            "(the model alone)": lambda: list(label_maps(model, pictures, None)),
            "(writing alone, one thread)": lambda: list(map(write, maps)),
        }
        seconds = fastest(rows, device, runs, of_cpu=False)
    show(f"small online model, pictures of {CANVAS[0]}x{CANVAS[1]} px, {frames} frames, {device.type}", seconds, frames)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="formats, writing; default: both")
    parser.add_argument("--frames", type=int, help="default: 3 on a CPU, 30 on a GPU; with writing: 12 and 30")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(options.device)
    on_cpu = device.type == "cpu"
    what = options.what or ["formats", "writing"]
    if "formats" in what:
        compare_formats(device, options.frames or (3 if on_cpu else 30), options.runs)
    if "writing" in what:
        compare_writing(device, options.frames or (12 if on_cpu else 30), options.runs)


if __name__ == "__main__":
    main()
