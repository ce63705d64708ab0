"""The self-test as a whole: every path on every device, the table of results, and the file of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from computing.machine import choose_device, gpus, half_dtype
from mmor.check import environment, graphs, processes, segmenters
from mmor.check.full import live, published_size
from mmor.check.measure import FORMATS, KINDS, Outcome, Result, measure, not_run
from mmor.check.whole import whole_path
from operating_room.files.atomic import require_folder, require_own, write_json

CPU = torch.device("cpu")
# Largest relative difference from the CPU in float32 that is taken for rounding. On a CPU the small models differ by
# up to 0.010 in bfloat16, 0.007 in float16 and 0.16 in 4 bits; float32 leaves room for convolutions in TF32, which
# cuDNN takes by itself and which have the mantissa of float16.
ALLOWED = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.03, "4 bits": 0.4}
TOKENS = 8  # that the small model generates


def self_test(full: bool) -> Iterator[Result]:
    """Rows as they are done, the slow ones last; the CPU in float32 comes first, since all others are compared with it.

    Args:
        full: also at the published size, on the first GPU or the CPU.
    """
    devices = [CPU, *(choose_device(f"cuda:{gpu.index}") for gpu in gpus())]
    for kind in KINDS:
        yield from _compared(devices, f"segment, {kind}", partial(_segmenter, kind, segmenters.inference))
        step = partial(segmenters.training_step, matched=[])
        yield from _compared(devices, f"train, {kind}", partial(_segmenter, kind, step))
    yield from _compared(devices, "read a timepoint", partial(_graphs, graphs.reading))
    yield from _compared(devices, "train scene graphs", partial(_graphs, graphs.training_step))
    yield from _compared(devices, "write a scene graph", partial(_graphs, _generation))
    yield from _two_processes(len(devices) - 1)
    yield measure("both stages, simulated take", choose_device(), "as set", partial(whole_path, choose_device()))[0]
    if full:
        yield from published_size(choose_device())


# Characters of the columns before the last; the first is as wide as the longest part.
WIDTHS = 46, 6, 8, 7, 7, 6, 15
HEAD = "part", "device", "format", "", "seconds", "GB", "difference", ""


def row_text(row: Result | None = None) -> str:
    """A row as text of fixed columns, so that it can be told before the next ones are known; without one, the head."""
    if row is None:
        return _columns(HEAD)
    difference = "" if row.difference is None else f"{row.difference:.1e}"
    if row.difference is not None and row.allowed is not None:
        difference += f" of {row.allowed:g}"
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    memory = "" if row.memory is None else f"{row.memory / 1e9:.2f}"
    return _columns((row.part, row.device, row.format, row.state, seconds, memory, difference, row.note))


def _columns(cells: Sequence[str]) -> str:
    return "  ".join((*(cell.ljust(width) for cell, width in zip(cells, WIDTHS)), cells[-1])).rstrip()


def check(data: Path, full: bool, out: Path | None, tell: Callable[[str], None]) -> bool:
    """Say what this machine has, run the self-test, and say what came of it.

    Args:
        data: folder of MM-OR_data and/or 4D-OR_data; it may be missing.
        full: also at the published size.
        out: file for all of it as JSON.
        tell: gets the lines.

    Returns:
        whether every part that could be run was right.

    Raises:
        UserError: `out` cannot be written.
    """
    if out is not None:  # before a test of minutes
        require_own(out, '{\n "environment"', "such check")
        require_folder(out.parent)
    found = environment.look(data)
    for line in environment.lines(found):
        tell(line)
    tell("")
    tell(row_text())
    rows: list[Result] = []
    for row in self_test(full):  # told as they are done: of a check that is ended early, everything before is known
        tell(row_text(row))
        rows.append(row)
    tell(EXPLANATION)
    verdicts = [live(rows)] if full else []
    bad = [row for row in rows if row.state == "FAIL"]
    left = sum(row.state == "not run" for row in rows)
    verdicts.append(f"{len(rows) - len(bad) - left} ok, {len(bad)} FAIL, {left} not run")
    for line in verdicts:
        tell(line)
    if out is not None:
        values: dict[str, Any] = {"environment": asdict(found), "rows": [asdict(row) for row in rows]}
        write_json(out, values | {"explanation": EXPLANATION, "verdicts": verdicts}, indent=1)
    return not bad


EXPLANATION = (
    "GB: memory at the worst moment beyond that at the part's start. difference: of outputs, or of loss and gradient, "
    "from those of the CPU in float32, relative, and what is taken for rounding."
)


def _compared(
    devices: Sequence[torch.device], part: str, run: Callable[[torch.device, str], Outcome]
) -> Iterator[Result]:
    """A part on every device in every format."""
    expected = None
    for device in devices:
        for name in (*FORMATS, "4 bits"):
            reason = _missing(part, device, name)
            if reason is not None:
                if reason:
                    yield not_run(part, device, name, reason)
                continue
            is_first = device == CPU and name == "float32"
            reference = None if is_first else expected
            allowed = None if reference is None or not reference.numbers else ALLOWED[name]
            row, outcome = measure(part, device, name, partial(run, device, name), reference, allowed)
            expected = outcome if is_first else expected
            yield row


def _missing(part: str, device: torch.device, name: str) -> str | None:
    """Why a part cannot be run in a format; "" if the format says nothing of it; None if it can."""
    if name == "4 bits" and "scene graph" not in part:
        return ""  # only the language model has 4 bits
    if name == "4 bits" and find_spec("bitsandbytes") is None:
        return 'bitsandbytes is not installed: pip install "mmor[quant]"'
    if name == "bfloat16" and half_dtype(device) != torch.bfloat16:
        return "the GPU has no bfloat16"
    return None


def _segmenter(kind: str, run: Callable[..., Outcome], device: torch.device, name: str) -> Outcome:
    return run(segmenters.make_model(kind, segmenters.SMALL, device), segmenters.SMALL, FORMATS[name])


def _graphs(run: Callable[..., Outcome], device: torch.device, name: str) -> Outcome:
    """4 bits are computed with as in training, in the device's 16-bit format."""
    model = graphs.make_model(graphs.SMALL, device, 4 if name == "4 bits" else 32)
    dtype = half_dtype(device) if name == "4 bits" else FORMATS[name]
    if run is graphs.training_step:
        graphs.prepare_training(model, graphs.SMALL, checkpointing=True)
    return run(model, graphs.SMALL, dtype)


def _generation(model: graphs.MM2SG, size: graphs.Size, dtype: torch.dtype | None) -> Outcome:
    return graphs.generation(model, size, dtype, TOKENS)


def _two_processes(gpu_count: int) -> Iterator[Result]:
    part = "train, two processes"
    first, expected = measure(part, CPU, "one process", processes.one_process)
    yield first
    yield measure(part, CPU, "float32", partial(processes.two_processes, "cpu"), expected, ALLOWED["float32"])[0]
    if gpu_count > 1:
        run = partial(processes.two_processes, "cuda")
        yield measure(part, torch.device("cuda", 0), "float32", run, expected, ALLOWED["float32"])[0]
    elif gpu_count:
        yield not_run(part, "cuda", "float32", "there is one GPU only")
