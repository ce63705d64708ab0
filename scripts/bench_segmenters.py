"""The four segmenters in one run: parameters, seconds per frame, and whether memory grows.

    python scripts/bench_segmenters.py [small] [published] [memory] [--device cpu|cuda] [--runs N]

`small`: the models of the demo at 192x256 px. `published`: ViT-S, B, L at 640x640 and 720x960 px beside R50 CTVIS and
online. `memory`: the small models through 2000 frames. A CPU counts CPU seconds of one thread, a camera at a time; a
GPU is measured in bfloat16, with one camera and with ten in a batch, the encoder-only ones compiled, too. Random
weights, no post-processing. The rows take turns and the fastest of each counts; ratios are to the first row.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from bench_segmentation import fastest
from torch import Tensor, nn

from computing.machine import autocast, choose_device, seeded
from panoptic_segmentation.inference.video import causal_frames, offline_video
from panoptic_segmentation.model.encoder_only.segmenter import published_encoder_only
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.matching import follow
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.tracker import TrackerState
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OfflineDVIS, VideoConfig
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model

SMALL_SIZE, SIZES = (192, 256), ((640, 640), (720, 960))  # height, width, px
SMALL_VIT = SegmenterConfig(  # configs/panoptic/small_encoder_only.yaml
    classes=24, queries=30, width=96, heads=3, patch=8, grid=(24, 32), mask_stride=2, encoder_layers=4,
    decoder_layers=2, decoder_hidden=384,
)  # fmt: skip
VITS: tuple[Literal["small", "base", "large"], ...] = ("small", "base", "large")
FRAMES, LONG = 5, 2000
CAMERAS = 10


def small_models() -> dict[str, VideoModel]:
    """Of the demo, with random weights."""
    with seeded(0):
        models = {
            kind: build_model(kind, small_segmenter(24), SMALL_VIDEO).eval() for kind in ("ctvis", "online", "offline")
        }
        return models | {"encoder_only": EncoderOnly(SMALL_VIT).eval()}


def whole(model: VideoModel, frames: Tensor) -> None:
    """A video, masks included."""
    if isinstance(model, OfflineDVIS):
        for _ in offline_video(model, frames.split(1)).masks():
            pass
        return
    for _ in causal_frames(model, frames.split(1)):
        pass


def second(model: VideoModel, frames: Tensor) -> Callable[[], None]:
    """One second of several cameras, as live segmenting does it; each call goes on where the last one was."""
    states: list[Tensor | TrackerState | None] = [None] * len(frames)
    queries = model.segmenter.first_queries(len(frames)) if isinstance(model, EncoderOnly) else None

    def step() -> None:
        nonlocal queries
        if isinstance(model, EncoderOnly):
            queries = model.segmenter(frames, queries).queries
            return
        seen = model.segmenter(frames)
        for i in range(len(frames)):
            state, one = states[i], slice(i, i + 1)
            if isinstance(model, CTVIS):
                order = follow(state if isinstance(state, Tensor) else None, seen.reid[one])[0]
                states[i] = seen.reid[i][order]
            elif isinstance(state, TrackerState | None):
                found = model.tracker(seen.embeddings[one], seen.embeddings_raw[one], seen.mask_features[one], state)
                states[i] = found.state

    return step


def show(title: str, seconds: Mapping[str, float], frames: int) -> None:
    """Seconds of a frame of each row, and how many times faster than the first."""
    print(title)
    for name, time_ in seconds.items():
        show_row(name, time_, next(iter(seconds.values())), frames)


def show_row(name: str, seconds: float, first: float, frames: int) -> None:
    """Seconds of a frame, and how many times faster than the first row's."""
    rate = f"{frames / seconds:9.2f} frames/s"
    print(f"  {name:44}{seconds / frames:9.4f} s a frame{rate}{first / seconds:7.2f}x", flush=True)


def parameters(model: nn.Module) -> str:
    """In millions."""
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M"


@torch.inference_mode()
def compare_small(device: torch.device, runs: int) -> None:
    """Whole videos of the small models."""
    frames = 255 * torch.rand(FRAMES, 3, *SMALL_SIZE, device=device)
    rows: dict[str, Callable[[], object]] = {}
    for kind, model in small_models().items():
        model.to(device)
        rows[f"{kind}, {parameters(model)}"] = lambda model=model: whole(model, frames)
    fastest(rows, device, 1, of_cpu=False)
    title = f"small models, {SMALL_SIZE[0]}x{SMALL_SIZE[1]} px, {FRAMES} frames, {device.type}"
    show(title, fastest(rows, device, runs, of_cpu=device.type == "cpu"), FRAMES)


@torch.inference_mode()
def compare_published(device: torch.device, runs: int) -> None:
    """One second of the cameras, in the published sizes; one model is on a GPU at a time."""
    on_cpu = device.type == "cpu"
    for size in SIZES:
        for cameras in (1,) if on_cpu else (1, CAMERAS):
            frames = 255 * torch.rand(cameras, 3, *size, device=device)
            what = f"{size[0]}x{size[1]} px, {cameras} cameras, {device.type}, {'float32' if on_cpu else 'bfloat16'}"
            print(what, flush=True)
            rows: dict[str, float] = {}
            for name, kind, segmenter in (
                ("R50 CTVIS", "ctvis", SegmenterConfig()),
                ("R50 online", "online", SegmenterConfig()),
                *((f"ViT-{of[0].upper()}", "encoder_only", published_encoder_only(of)) for of in VITS),
            ):
                model = build_model(kind, segmenter, VideoConfig()).eval().to(device)
                for row, seconds in measured(f"{name}, {parameters(model)}", model, frames, device, runs).items():
                    rows[row] = seconds
                    show_row(row, seconds, next(iter(rows.values())), cameras)  # told as it is done: some take minutes


def measured(name: str, model: VideoModel, frames: Tensor, device: torch.device, runs: int) -> dict[str, float]:
    """Seconds of one second of the cameras, as it is and, on a GPU and where there is no tracker, compiled."""
    on_cpu = device.type == "cpu"
    found: dict[str, float] = {}
    for how in ("",) if on_cpu or not isinstance(model, EncoderOnly) else ("", ", compiled"):
        if how:
            nn.Module.compile(model.segmenter)
        with autocast(device, None if on_cpu else torch.bfloat16):
            step = second(model, frames)
            for _ in range(0 if on_cpu else 3):  # compiled and set up in the first ones
                step()
            found |= fastest({name + how: step}, device, runs, on_cpu)
    return found


@torch.inference_mode()
def compare_memory(device: torch.device) -> None:
    """Bytes of this process after the first frames and after many; the offline model keeps all, and is left out."""
    frame = 255 * torch.rand(1, 3, *SMALL_SIZE, device=device)
    print(f"memory over {LONG} frames of {SMALL_SIZE[0]}x{SMALL_SIZE[1]} px, {device.type}")
    for kind, model in small_models().items():
        if isinstance(model, OfflineDVIS):
            continue
        taken = []
        for i, _ in enumerate(causal_frames(model.to(device), (frame for _ in range(LONG)))):
            if i in (50, LONG - 1):
                taken.append(_bytes(device))
        print(f"  {kind:20}{taken[0] / 1e6:9.1f} MB after 50 frames{(taken[1] - taken[0]) / 1e6:+9.2f} MB after {LONG}")


def _bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()  # resident, not the most ever


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="small, published, memory; default: all")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(options.device)
    what = options.what or ["small", "published", "memory"]
    if "small" in what:
        compare_small(device, options.runs)
    if "published" in what:
        compare_published(device, options.runs if device.type == "cpu" else 10 * options.runs)
    if "memory" in what:
        compare_memory(device)


if __name__ == "__main__":
    main()
