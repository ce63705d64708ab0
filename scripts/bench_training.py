"""Training of scene graphs around its steps: the time before the first one, and how long steps wait for their data.

    python scripts/bench_training.py [before] [waiting] [formats] [muon] [lasting]

`before`: made samples with their shards, one process, CPU s. `waiting`: configs/scene_graph/small.yaml on a simulated
take, without learning to see first, with 0, 1 and 2 reading processes one after the other; what log.jsonl says of the
steps after the first ones; by the clock, so let nothing else run. `formats`: a step of small_eyes.yaml on made samples,
forward and back, in float32, in bfloat16, and in bfloat16 with attention in float32 (how it is trained), CPU s.
`muon`: what the optimiser takes of such a step, PyTorch's Muon and ours (`computing/muon.py`), CPU s.
`lasting`: the same step on samples of all lengths, some with a point cloud: what a step takes at the beginning and
after hundreds of them, where memory is in pieces; with and without LD_PRELOAD=.../libjemalloc.so.2, CPU s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from timing import cpu_seconds

from computing.cpu_attention import forward_pass
from computing.machine import autocast
from computing.muon import Muon, matrices_of
from operating_room.domain.domain import mmor
from operating_room.graphs.prompts import human_prompt
from operating_room.graphs.scene_graph import Triplet, target_text
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import read_experiment
from scene_graph_generation.inputs.example import IGNORED, IMAGE, Example
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import Record, turns
from scene_graph_generation.samples.sample_files import shard_folder, write_samples
from scene_graph_generation.samples.survey import survey
from scene_graph_generation.samples.training_data import open_records
from scene_graph_generation.training.loss import loss_weights
from scene_graph_generation.training.train import train

SMALL = Path(__file__).parents[1] / "configs" / "scene_graph" / "small.yaml"
TAKE = "001_PKA"
PERMUTATIONS = 20
VOCABULARY = 1024


def made_records(count: int) -> Iterator[Record]:
    """Records as large as real ones, 3 kB: a timepoint in several orders, with memory."""
    draw, language = Random(0), mmor().language

    def triplet() -> Triplet:
        return Triplet(draw.choice(language.entities), draw.choice(language.entities), draw.choice(language.predicates))

    for number in range(count // PERMUTATIONS):
        triplets = [triplet() for _ in range(draw.randint(3, 10))]
        memory = "Long: " + "; ".join(f"{3 * i}: {','.join(triplet())}" for i in range(40))
        question = human_prompt(language, None, None, None, memory)
        for _ in range(PERMUTATIONS):
            draw.shuffle(triplets)
            yield {
                "id": f"{TAKE}_{number:06d}",
                "conversations": turns(question, target_text(triplets)),
                "image": [f"MM-OR_processed/{TAKE}/colorimage/camera{i}-{number:06d}.jpg" for i in range(7)],
            }


def bench_before(root: Path, count: int) -> None:
    """All that a training asks of its samples before step 1, and what opening the files takes of it."""
    path = root / "samples.json"
    write_samples(path, made_records(count), count, Random(0))
    print(f"{count} made samples, {path.stat().st_size / 1e6:.0f} MB of JSON: CPU s before step 1")
    opened, _ = cpu_seconds(3, open_records, path)
    alone, _ = cpu_seconds(3, lambda: sum(1 for _ in open_records(path)))
    looked, (_, known, _) = cpu_seconds(3, survey, [path], False, True, lambda _: None)
    both, (_, _, tokens) = cpu_seconds(
        1, survey, [path], False, True, lambda texts: train_tokens(texts, VOCABULARY, mmor().language)
    )
    weighed, _ = cpu_seconds(1, loss_weights, None, known, tokens, tokens.size)
    print(f"  {'comparing the JSON with its shards':48}{opened:7.2f}")
    print(f"  {'and parsing each record once':48}{alone:7.2f}")
    print(f"  {'and all that training asks, a base at hand':48}{looked:7.2f} ({looked / alone:.1f}x of parsing alone)")
    print(f"  {'and a new tokenizer of all texts':48}{both:7.2f}")
    print(f"  {'weights of answer tokens besides':48}{weighed:7.2f}", flush=True)
    if len(known.lengths) != len(open_records(shard_folder(path))):
        raise SystemExit("samples were lost")


def bench_waiting(root: Path, steps: int) -> None:
    """Steps of the small model with different numbers of reading processes."""
    take = root / "take"
    for command in (
        f"data synthesize --out {take} --take {TAKE} --seconds 40 --size 640x480 --workers 1",
        f"data convert-relations {take} --out {take}",
        f"scene-graph preprocess all --data {take} --take {TAKE} --audio-encoder mel --from-annotations",
        f"scene-graph samples --data {take} --relations {take} --out {root / 'samples'} --temporal",
    ):
        subprocess.run([sys.executable, "-m", "mmor.cli", *command.split()], check=True, stdout=subprocess.DEVNULL)
    (samples,) = (root / "samples").glob("train_*perm_*.json")
    experiment = read_experiment(SMALL)
    print(f"small model, batches of {experiment.train.batch_size}, 640x480: steps {steps + 1} to {2 * steps}")
    for workers in (0, 1, 2):
        options = replace(experiment.train, workers=workers, max_steps=2 * steps, log_steps=steps, save_steps=10**6)
        out = root / f"out{workers}"
        train(replace(experiment, pretrain=None, train=options), [samples], Dataset(take), out)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        told = next(line for line in lines if line["step"] == 2 * steps and "data_wait" in line)
        wait, rate = told["data_wait"], told["samples_per_s"]
        print(f"  {workers} reading processes: {rate:6.2f} samples/s, data wait {wait:6.1%}", flush=True)


def bench_formats(batch: int) -> None:
    """A training step of the model with eyes in different formats of numbers."""
    config = read_experiment(SMALL.with_name("small_eyes.yaml")).model
    torch.manual_seed(0)
    model, size = MM2SG(config), config.vision.image_size
    ids = torch.randint(5, 300, (120,))  # as many as a question and its answer usually have
    ids[0], labels = IMAGE, torch.where(torch.arange(120) < 80, IGNORED, ids)
    masks = torch.randint(0, 20, (3, 32, 32), dtype=torch.uint8)
    examples = [Example(ids, torch.randn(7, 3, size, size), labels, {"masks": masks}) for _ in range(batch)]

    def step(forward: AbstractContextManager[object]) -> None:
        with forward:
            output = model(examples)
        torch.nn.functional.cross_entropy(output.logits.float(), output.labels).backward()

    device = torch.device("cpu")
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "float32": nullcontext,
        "bfloat16": partial(autocast, device, torch.bfloat16),
        "bfloat16, attention in float32": partial(forward_pass, device, True),
    }
    print(f"small model with eyes, batches of {batch}: CPU s of a step")
    plain = 0.0
    for name, way in ways.items():
        seconds, _ = cpu_seconds(5, lambda way=way: step(way()))
        plain = plain or seconds
        print(f"  {name:36}{seconds:7.2f} ({plain / seconds:.2f}x)", flush=True)


def bench_muon() -> None:
    """One step of Muon for the matrices of the model with eyes."""
    torch.manual_seed(0)
    model = MM2SG(read_experiment(SMALL.with_name("small_eyes.yaml")).model)
    matrices = list(matrices_of(model))
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    optimizers = {
        "PyTorch's, in bfloat16": torch.optim.Muon(matrices, lr=1e-3),
        "ours": Muon([{"params": matrices, "lr": 1e-3, "weight_decay": 0.1}]),
    }
    print(f"Muon, {len(matrices)} matrices of the small model with eyes: CPU s of a step")
    plain = 0.0
    for name, optimizer in optimizers.items():
        seconds, _ = cpu_seconds(3, optimizer.step)
        plain = plain or seconds
        print(f"  {name:36}{seconds:7.3f} ({plain / seconds:.1f}x)", flush=True)


def bench_lasting(steps: int, batch: int) -> None:
    """What a training step takes at first and later: samples are of other sizes each time."""
    config = read_experiment(SMALL.with_name("small_eyes.yaml")).model
    torch.manual_seed(0)
    model, size, draw = MM2SG(config), config.vision.image_size, Random(0)

    def example() -> Example:
        length = draw.randint(40, 400)
        ids = torch.randint(5, 300, (length,))
        ids[0], labels = IMAGE, torch.where(torch.arange(length) < length // 2, IGNORED, ids)
        others = {"masks": torch.randint(0, 20, (3, 32, 32), dtype=torch.uint8)}
        if draw.random() < 0.5:
            others["cloud"] = torch.rand(3000, 6) * torch.tensor([6.0, 6.0, 3.0, 1.0, 1.0, 1.0])
        return Example(ids, torch.randn(draw.randint(4, 7), 3, size, size), labels, others)

    def step() -> None:
        examples = [example() for _ in range(batch)]
        with forward_pass(torch.device("cpu"), True):
            output = model(examples)
        torch.nn.functional.cross_entropy(output.logits.float(), output.labels).backward()
        model.zero_grad()

    print(f"small model with eyes, batches of {batch} of all lengths: CPU s of a step, each the mean of 50", flush=True)
    took = [cpu_seconds(1, lambda: [step() for _ in range(50)])[0] / 50 for _ in range(max(steps // 50, 1))]
    print(f"  {', '.join(f'{seconds:.2f}' for seconds in took)}; the last is {took[-1] / took[0]:.2f} of the first")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="before, waiting, formats, muon, lasting; default: all")
    parser.add_argument("--records", type=int, default=50_000, help="made samples of `before`")
    parser.add_argument("--steps", type=int, default=15, help="of `waiting`, twice: the first ones are not counted")
    parser.add_argument("--lasting", type=int, default=200, help="steps of `lasting`, 50 or more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.what or ("before", "waiting", "formats", "muon", "lasting"):
            part = Path(folder) / name
            part.mkdir()
            if name == "before":
                bench_before(part, arguments.records)
            elif name == "waiting":
                bench_waiting(part, arguments.steps)
            elif name == "formats":
                bench_formats(8)
            elif name == "muon":
                bench_muon()
            elif name == "lasting":
                bench_lasting(arguments.lasting, 8)
            else:
                parser.error(f"{name}: expected before, waiting, formats, muon or lasting")


if __name__ == "__main__":
    main()
