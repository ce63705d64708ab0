"""Stage 1 in numbers: CPU seconds per frame of each model, memory of long videos.

    python scripts/bench_panoptic.py [models] [memory]

CPU time of one thread, random weights: they change no time, except that nothing would be certain enough for
post-processing, which therefore gets made-up scores for twelve objects.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from operating_room.domain.domain import mmor
from panoptic_segmentation.inference.panoptic import CausalPanoptic, panoptic_video
from panoptic_segmentation.inference.video import ctvis_frames, offline_video, online_frames
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OfflineDVIS, OnlineDVIS, VideoConfig

CERTAIN = 12  # objects that post-processing gets
PARTS = ("backbone", "pixel decoder", "decoder", "tracker", "refiner", "post-processing")


class Stopwatch:
    """CPU seconds of a model's parts, by name."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        for name, module in parts.items():
            module.register_forward_pre_hook(lambda *_, name=name: self._add(name, -1))
            module.register_forward_hook(lambda *_, name=name: self._add(name, 1))

    def _add(self, name: str, sign: int) -> None:
        self.seconds[name] += sign * time.process_time()


def windows(frames: int, size: tuple[int, int], length: int = 1) -> Iterator[Tensor]:
    """Random pictures of a height and width, some at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, frames, length):
        yield 255 * torch.rand(min(length, frames - start), 3, *size, generator=generator)


def scores(like: Tensor) -> Tensor:
    """Class logits of which twelve queries are certain."""
    made_up = torch.zeros_like(like)
    made_up[:, -1] = 20
    made_up[torch.arange(CERTAIN), torch.arange(CERTAIN)] = 40
    return made_up


def time_model(model: CTVIS | OnlineDVIS | OfflineDVIS, frames: int, size: tuple[int, int]) -> dict[str, float]:
    """CPU seconds per frame of each part."""
    segmenter = model.segmenter
    parts = {"backbone": segmenter.backbone, "pixel decoder": segmenter.pixel_decoder, "decoder": segmenter.decoder}
    parts |= {name: getattr(model, name) for name in ("tracker", "refiner") if hasattr(model, name)}
    watch = Stopwatch(parts)
    start = time.process_time()
    if isinstance(model, OfflineDVIS):
        video = offline_video(model, windows(frames, size))
        sizes, watched = video.sizes, time.process_time()
        with torch.no_grad():
            panoptic_video(
                scores(video.refined_logits).softmax(-1), video.masks(), sizes, len(mmor().labels.categories)
            )
        post = time.process_time() - watched
    else:
        seen = (
            ctvis_frames(model, windows(frames, size))
            if isinstance(model, CTVIS)
            else online_frames(model, windows(frames, size))
        )
        post, causal = 0.0, None
        for frame in seen:
            watched = time.process_time()
            causal = causal or CausalPanoptic(frame.sizes, len(mmor().labels.categories))
            causal.add(scores(frame.logits), frame.masks)
            post += time.process_time() - watched
    watch.seconds["post-processing"] = post
    total = time.process_time() - start
    return {name: seconds / frames for name, seconds in {**watch.seconds, "all": total}.items()}


def compare_models(frames: int, size: tuple[int, int]) -> None:
    """Print the time of the published models, part by part."""
    print(f"published R50 models, {frames} frames of {size[1]}x{size[0]} px, one at a time: CPU s per frame")
    print(f"  {'':8}{'all':>7}{'frames/s':>10}" + "".join(f"{part:>17}" for part in PARTS))
    config = SegmenterConfig()
    for name, build in (
        ("CTVIS", lambda: CTVIS(config)),
        ("online", lambda: OnlineDVIS(config, VideoConfig())),
        ("offline", lambda: OfflineDVIS(config, VideoConfig())),
    ):
        torch.manual_seed(0)
        seconds = time_model(build().eval(), frames, size)
        row = f"  {name:8}{seconds['all']:7.2f}{1 / seconds['all']:10.3f}"
        print(row + "".join(f"{seconds.get(part, 0):17.3f}" for part in PARTS), flush=True)
    print("  (CTVIS has no tracker: matching embeddings is the small rest)")


@torch.no_grad()
def run_online(frames: int) -> None:
    """The online model and its post-processing over a long video; prints the largest memory so far in MiB."""
    torch.manual_seed(0)
    model = OnlineDVIS(small_segmenter(len(mmor().labels.categories)), SMALL_VIDEO).eval()
    causal = None
    for frame in online_frames(model, windows(frames, (64, 64), length=3)):
        causal = causal or CausalPanoptic(frame.sizes, len(mmor().labels.categories))
        causal.add(scores(frame.logits), frame.masks)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare_memory() -> None:
    """Print the peak memory of short and long videos, a process each."""
    print("peak memory of online inference, small model, frames made on the fly:")
    for frames in (200, 2000):
        command = [sys.executable, __file__, "memory", "--frames", str(frames)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"  {frames:5} frames {float(result.stdout):7.1f} MiB", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="models, memory; default: both")
    parser.add_argument("--frames", type=int, help="with models: how many; with memory: only a run of this length")
    options = parser.parse_args()
    torch.set_num_threads(1)
    what = options.what or ["models", "memory"]
    if "models" in what:
        compare_models(options.frames or 2, (720, 960))
    if "memory" in what:
        run_online(options.frames) if options.frames and what == ["memory"] else compare_memory()


if __name__ == "__main__":
    main()
