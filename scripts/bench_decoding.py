"""Passes and seconds of an answer: one token a pass, by drafts, by drafts and the grammar of scene graphs.

    python scripts/bench_decoding.py model --data FOLDER    the bundled model, every take there with its own memory
    python scripts/bench_decoding.py teacher [--relations FILE] [--answers 12]
    python scripts/bench_decoding.py count [--relations FILE]    passes of annotated graphs, counted without any model

`model` checks that the texts are equal (in float32; in 16 bits it counts those that differ). `teacher` has no trained
model: random Llamas of 30 and 300 million parameters, whose scores are altered so that they say the annotated graphs
(by default those of simulated takes). It shows what passes cost at sizes that nobody has trained here. Seconds are wall
time, of one run after the other on one device; ratios are of that run.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from teaching import END, Taught, lessons
from timing import timed

from computing.machine import choose_device
from mmor.demo import BUNDLED, GRAPHS
from operating_room.domain.domain import mmor
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.scene_graph import Sample, by_take, parse
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room_simulator.story.story import script_surgery
from scene_graph_generation.config.settings import LanguageConfig, read_experiment
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.grammar import Grammar
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, generate
from scene_graph_generation.model.draft_decoding import Generated, decode
from scene_graph_generation.model.drafts import FIRST, Said, next_reach
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.checkpoints import load_model

WAYS = ("plain", "drafts", "drafts and grammar")
SMALL = Path(__file__).parents[1] / "configs" / "scene_graph" / "small.yaml"
PROMPT = 600  # tokens of a question to a random model
SIZES = {"30 M": (8, 512, 8, 1408), "300 M": (24, 1024, 16, 2816)}  # layers, width, heads, hidden


class Tally:
    """What a way of decoding has taken so far."""

    def __init__(self) -> None:
        self.answers = self.passes = self.tokens = self.drafted = self.accepted = 0
        self.seconds = 0.0

    def add(self, found: Generated, seconds: float) -> None:
        """One batch."""
        self.answers += len(found.ids)
        self.tokens += sum(map(len, found.ids))
        self.passes += found.passes
        self.drafted += found.drafted
        self.accepted += found.accepted
        self.seconds += seconds


def plain(model: MM2SG, examples: Sequence[Example], end_ids: Sequence[int]) -> Generated:
    """One token a pass; a batch has as many passes as its longest answer has tokens, with the end."""
    ids = generate(model, examples, end_ids)
    return Generated(ids, min(MAX_NEW_TOKENS, 1 + max(map(len, ids))), 0, 0)


def show(name: str, tallies: dict[str, Tally], differing: int) -> None:
    """A line for each way."""
    first = tallies[WAYS[0]]
    print(f"{name}: {first.answers} answers of {first.tokens / first.answers:.1f} tokens, {differing} texts differ")
    for way, tally in tallies.items():
        print(
            f"  {way:20} {tally.passes / tally.answers:6.2f} passes an answer ({first.passes / tally.passes:5.2f}x)  "
            f"{tally.seconds / tally.answers:7.3f} s ({first.seconds / tally.seconds:5.2f}x)  "
            f"accepted {tally.accepted} of {tally.drafted}",
            flush=True,
        )


def bench_model(data: Path, device: torch.device, limit: int | None) -> None:
    """The bundled model on all takes of a dataset, alone and side by side."""
    dataset = Dataset(data)
    loaded = load_model(BUNDLED / GRAPHS)
    generator = SceneGraphGenerator(*loaded, str(device))
    lanes = {take.sample_name: list(dataset.take(take).timepoints)[:limit] for take in dataset.takes()}
    for name, lane in lanes.items():
        ask(name, [lane], generator, loaded, device)
    for size in (1, 8):
        chosen = list(lanes.values())[:size]
        ask(f"{len(chosen)} takes at once", chosen, generator, loaded, device)


def ask(
    name: str,
    lanes: Sequence[Sequence[Timepoint]],
    generator: SceneGraphGenerator,
    loaded: tuple[MM2SG, Any],
    device: torch.device,
) -> None:
    """Second after second of takes side by side, each question in all ways."""
    (model, tokens), language = loaded, generator.domain.language
    grammar = Grammar(tokens, language)
    memories = [Memory.of(language) for _ in lanes]
    histories = {way: [Said() for _ in lanes] for way in WAYS[1:]}
    tallies, differing = {way: Tally() for way in WAYS}, 0
    for second in range(max(map(len, lanes))):
        there = [place for place, lane in enumerate(lanes) if second < len(lane)]
        asked = [generator.read(lanes[place][second], truncate(memories[place].text())) for place in there]
        examples = [example.to(device) for example in asked]
        results = {}
        for way in WAYS:
            said = [histories[way][place] for place in there] if way != WAYS[0] else None
            known = grammar if way == WAYS[2] else None
            if said is None:
                results[way], seconds = timed(device, plain, model, examples, tokens.end_ids)
            else:
                asking = model, examples, tokens.end_ids, MAX_NEW_TOKENS, said, known
                results[way], seconds = timed(device, decode, *asking)
            tallies[way].add(results[way], seconds)
        for row, place in enumerate(there):
            ids = results[WAYS[0]].ids[row]
            differing += any(results[way].ids[row] != ids for way in WAYS)
            memories[place].add(parse(tokens.decode(ids)), int(lanes[place][second].time))
            for way in WAYS[1:]:
                histories[way][place].add([*results[way].ids[row], tokens.end_id])
    show(name, tallies, differing)


def bench_teacher(graphs: Sequence[Sample], device: torch.device, count: int) -> None:
    """Random Llamas that say annotated graphs, in pieces of the length of Llama's tokens."""
    answers = lessons(graphs)
    for name, (layers, width, heads, hidden) in SIZES.items():
        language = LanguageConfig(vocabulary=32_000, width=width, layers=layers, heads=heads, mlp=hidden)
        torch.manual_seed(0)
        model = MM2SG(replace(read_experiment(SMALL).model, language=language)).eval().to(device)
        taught = Taught(model.language)
        model.language = taught  # ty: ignore[invalid-assignment]
        for batch in (1, 8):
            tallies, differing = {way: Tally() for way in WAYS[:2]}, 0
            lanes = [answers[lane * count : lane * count + count] for lane in range(batch)]
            histories = [Said() for _ in lanes]
            for second in range(count):
                taught.lessons = [lane[second] for lane in lanes]
                ids, nothing = torch.arange(PROMPT, device=device) + 3, torch.zeros(0, 3, 28, 28, device=device)
                examples = [Example(ids, nothing)] * batch
                one, seconds = timed(device, plain, model, examples, [END])
                tallies[WAYS[0]].add(one, seconds)
                other, seconds = timed(device, decode, model, examples, [END], MAX_NEW_TOKENS, histories)
                tallies[WAYS[1]].add(other, seconds)
                differing += sum(a != b for a, b in zip(one.ids, other.ids))
                for history, lane in zip(histories, lanes):
                    history.add(lane[second])
            show(f"{name} parameters, {batch} at once", tallies, differing)


def count(graphs: Sequence[Sample]) -> None:
    """Passes that annotated graphs would need by drafts, the one over each question included."""
    ids = dict(zip((sample.sample_id for sample in graphs), lessons(graphs)))
    passes = 0
    for of_take in by_take(graphs).values():
        said = Said()
        for answer in (ids[sample.sample_id] for sample in of_take):
            done, reach = 0, FIRST
            while done < len(answer):
                guess = said.guess(answer[:done], min(reach, MAX_NEW_TOKENS - done - 1))
                pairs = zip(guess, answer[done:-1])
                right = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(guess), len(answer) - 1 - done))
                done, passes, reach = done + right + 1, passes + 1, next_reach(reach, len(guess), right)
            said.add(answer)
    tokens = sum(map(len, ids.values()))
    print(
        f"{len(ids)} graphs of {tokens / len(ids):.1f} tokens: {passes / len(ids):.2f} passes ({tokens / passes:.1f}x)"
    )


def read_graphs(path: Path | None) -> list[Sample]:
    """The graphs of a relationships_*.json, or of simulated takes."""
    if path is None:
        return [
            Sample(take.sample_name, f"{moment.second:06d}", moment.triplets)
            for take in mmor().split_takes("test")
            for moment in script_surgery(take, 2026, 120).moments
        ]
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    samples = [Sample.from_record(record) for record in json.loads(content)]
    return [sample for of_take in by_take(samples).values() for sample in of_take if sample.triplets]


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "teacher", "count"))
    parser.add_argument("--data", type=Path, help="takes with small masks and sound vectors (scene-graph preprocess)")
    parser.add_argument("--relations", type=Path)
    parser.add_argument("--answers", type=int, default=12, help="of each lane of a random model")
    parser.add_argument("--limit", type=int, help="timepoints of each take")
    options = parser.parse_args()
    device = choose_device()
    if options.what == "count":
        count(read_graphs(options.relations))
    elif options.what == "teacher":
        bench_teacher(read_graphs(options.relations), device, options.answers)
    elif options.data is None:
        parser.error("model needs --data FOLDER")
    else:
        bench_model(options.data, device, options.limit)


if __name__ == "__main__":
    main()
