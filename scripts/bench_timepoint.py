"""Seconds of a timepoint from files to text: the published way, and ours alone and side by side.

    python scripts/bench_timepoint.py [--size small|published] [--data FOLDER] [--seconds 24]

The published way: one timepoint after the other, its pictures read and resized between two answers, one token a pass.
Ours: files are read while the model answers, and answers are checked drafts. The model has random weights and says the
true graphs of the takes (`teaching.Taught`), in pieces as long as Llama's tokens; `published` is 7 billion parameters
in 16 bits, which a GPU of 24 GB has room for. Without --data a take with pictures of 2048x1536 is simulated, which
takes 9 s of CPU a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from teaching import END, Taught, lessons

from computing.machine import choose_device, wait_for
from mmor.check.graphs import PUBLISHED, make_model
from mmor.check.graphs import SMALL as TOY
from mmor.demo import BUNDLED, GRAPHS, TAKE, prepare
from operating_room.domain.domain import mmor
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room_simulator.story.story import script_surgery
from operating_room_simulator.writer import write_take
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, generate
from scene_graph_generation.model.draft_decoding import decode
from scene_graph_generation.model.drafts import Said

SEED = 2026
Lane = Sequence[tuple[Timepoint, Sample, list[int]]]  # timepoints in the order of time, their graphs as said and as ids


def simulate(folder: Path, seconds: int) -> None:
    """A stretch of a take with pictures of real size, prepared for stage 2."""
    surgery = script_surgery(TAKE, SEED, max(40, seconds))
    write_take(folder, replace(surgery, moments=surgery.moments[:seconds]), size=(2048, 1536))
    prepare(folder, [TAKE], None)


def lanes_of(data: Path, seconds: int, count: int) -> list[Lane]:
    """The first seconds of a take in so many stretches, which stand for takes side by side."""
    graphs = {m.second: m.triplets for m in script_surgery(TAKE, SEED, max(40, seconds)).moments}
    timepoints = Dataset(data).take(TAKE).timepoints[:seconds]
    samples = [Sample(TAKE.sample_name, point.frame_id, graphs.get(point.second, ())) for point in timepoints]
    told = list(zip(timepoints, samples, lessons(samples), strict=True))
    size = len(told) // count
    return [told[lane * size : (lane + 1) * size] for lane in range(count)]


def answer_lanes(generator: SceneGraphGenerator, taught: Taught, lanes: Sequence[Lane], ours: bool) -> float:
    """Wall seconds of all timepoints of the lanes, one of each at once."""
    device = next(generator.model.parameters()).device
    memories, histories = [Memory.of(generator.domain.language) for _ in lanes], [Said() for _ in lanes]
    groups = list(zip(*lanes))
    wait_for(device)
    start = time.perf_counter()
    for group, following in zip(groups, [*groups[1:], ()]):
        asked = [generator.read(of[0], truncate(memory.text())) for of, memory in zip(group, memories)]
        if ours and following:
            generator.read_ahead([of[0] for of in following])
        examples = [example.to(device) for example in asked]
        taught.lessons = [ids for *_, ids in group]
        if ours:
            decode(generator.model, examples, [END], MAX_NEW_TOKENS, histories)
        else:
            generate(generator.model, examples, [END])
        for (_, sample, ids), memory, history in zip(group, memories, histories):
            memory.add(sample.triplets, sample.position)
            history.add(ids)
    wait_for(device)
    return time.perf_counter() - start


def main() -> None:
    """Run all three ways and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--data", type=Path, help="of an earlier run of this program")
    parser.add_argument("--seconds", type=int, default=24, help="of the take")
    options = parser.parse_args()
    device = choose_device()
    with TemporaryDirectory() as work:
        data = options.data or Path(work)
        if not (data / "MM-OR_data").exists():
            simulate(data, options.seconds)
        size = PUBLISHED if options.size == "published" else TOY
        config = replace(size.config, language=replace(size.config.language, vocabulary=32_000, positions=4096))
        model = make_model(replace(size, config=config), device, 16)
        taught = Taught(model.language)
        model.language = taught  # ty: ignore[invalid-assignment]
        generator = SceneGraphGenerator(model, read_tokens(BUNDLED / GRAPHS), str(device), domain=mmor())
        ways = {"published way": (1, False), "ours, alone": (1, True), "ours, 8 at once": (8, True)}
        first = None
        print(f"{options.size} model on {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'the CPU'}")
        for name, (count, ours) in ways.items():
            lanes = lanes_of(data, options.seconds, count)
            answer_lanes(generator, taught, [lane[:1] for lane in lanes], ours)  # sets things up
            seconds = answer_lanes(generator, taught, lanes, ours) / sum(map(len, lanes))
            first = first or seconds
            peak = f", peak {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB" if device.type == "cuda" else ""
            print(f"  {name:16} {seconds:7.3f} s a timepoint ({first / seconds:5.2f}x){peak}", flush=True)


if __name__ == "__main__":
    main()
