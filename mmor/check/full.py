"""Self-test at the published size, with random weights made on the device: does it fit, and how long does it take?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from computing.machine import autocast, half_dtype, require_memory
from mmor.check import graphs, segmenters
from mmor.check.measure import KINDS, Outcome, Result, measure, not_run
from operating_room.errors import UserError

SEGMENTED_CAMERAS = 3  # whose masks a timepoint shows, at most
_STREAM = "online", 16  # what a live stream is asked about: this segmenter, and a language model of so many bits
_TOKENS = {"cpu": 20, "cuda": 64}  # generated; the time of a whole answer follows from them
_GB = 1_000_000_000
_SEGMENT = 4 * _GB
# On a GPU, with autocast in bfloat16, an H200 took 15.7, 4.4, 4.7 and 16.1 GB (docs/gpu.md). On a CPU, the encoder-only
# one is not measured: counted on shapes it takes a little less than the first.
_TRAIN_SEGMENTER = {
    "cpu": {"ctvis": 44 * _GB, "online": 14 * _GB, "offline": 14 * _GB, "encoder_only": 44 * _GB},
    "cuda": {"ctvis": 20 * _GB, "online": 7 * _GB, "offline": 7 * _GB, "encoder_only": 20 * _GB},
}
_WRITE_GRAPH = 18 * _GB  # also in 4 bits: the weights are drawn in 16 bits and become smaller layer by layer
_TRAIN_GRAPHS = 46 * _GB


def published_size(device: torch.device) -> Iterator[Result]:
    """Rows for every model at the published size, as they are done.

    A part that would not fit is not begun, since a process that is killed for memory cannot say so. What a part needs
    is known from measurements (docs/gpu.md, docs/panoptic.md, docs/training.md), rounded up.
    """
    half = half_dtype(device)
    for kind in KINDS:
        yield _row(
            f"segment, {kind}, {_body(kind)} 720x960", device, half, _SEGMENT, partial(_segment, kind, device, half)
        )
    for kind in KINDS:
        part = f"train, {kind}, {_body(kind)} 720x960, {segmenters.PUBLISHED.clip} frames"
        need = _TRAIN_SEGMENTER[device.type][kind]
        yield _row(part, device, half, need, partial(_train_segmenter, kind, device, half))
    for bits in (16, 4):
        run = partial(_write_graph, device, bits, half)
        yield _row(f"scene graph, 7B, {bits} bits", device, half, _WRITE_GRAPH, run)
    part = f"train scene graphs, 7B, 4 bits, LoRA, batch {graphs.PUBLISHED.batch}"
    yield _row(part, device, half, _TRAIN_GRAPHS, partial(_train_graphs, device, half))


def _body(kind: str) -> str:
    return "ViT-S" if kind == "encoder_only" else "R50"


def live(rows: Sequence[Result]) -> str:
    """Whether a timepoint a second can be answered, by the measured rows."""
    kind, bits = _STREAM
    right = [row for row in rows if row.state == "ok"]
    # Without the comma it would be the row of the small model on the CPU, which comes first.
    frame = next((row.each for row in right if row.part.startswith(f"segment, {kind}, ")), None)
    graph = next((row.each for row in right if row.part == f"scene graph, 7B, {bits} bits"), None)
    if frame is None or graph is None:
        return "a stream of one timepoint a second: not known, since not every part of it was run and right"
    whole = SEGMENTED_CAMERAS * frame + graph
    return (
        f"a stream of one timepoint a second {'can' if whole <= 1 else 'cannot'} be kept up with: "
        f"{SEGMENTED_CAMERAS} cameras x {frame:.3f} s + a graph of {graphs.PUBLISHED.answer} tokens {graph:.2f} s "
        f"= {whole:.2f} s, without reading files"
    )


def _row(part: str, device: torch.device, half: torch.dtype, need: int, run: Callable[[], Outcome]) -> Result:
    name = str(half).removeprefix("torch.")
    try:
        require_memory(need, "it", device)
    except UserError as error:
        return not_run(part, device, name, str(error))
    return measure(part, device, name, run)[0]


def _segment(kind: str, device: torch.device, half: torch.dtype) -> Outcome:
    size = segmenters.PUBLISHED
    model = segmenters.make_model(kind, size, device)
    segmenters.inference(model, size, half)  # the first pass of a process sets things up
    return segmenters.inference(model, size, half)


def _train_segmenter(kind: str, device: torch.device, half: torch.dtype) -> Outcome:
    size = segmenters.PUBLISHED
    return segmenters.training_step(segmenters.make_model(kind, size, device), size, half, update=True)


def _write_graph(device: torch.device, bits: int, half: torch.dtype) -> Outcome:
    size = graphs.PUBLISHED
    model = graphs.make_model(size, device, bits)
    with autocast(device, half if half == torch.float16 else None):  # a GPU without bfloat16
        return graphs.generation(model, size, None, _TOKENS[device.type])


def _train_graphs(device: torch.device, half: torch.dtype) -> Outcome:
    size = graphs.PUBLISHED
    model = graphs.make_model(size, device, 4)
    graphs.prepare_training(model, size, checkpointing=True)
    return graphs.training_step(model, size, half, update=True)
