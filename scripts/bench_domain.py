"""CPU seconds of the domain package, beside those of the published code.

The published code needs 45 s for the online memory of the 1156 timepoints of 007_TKA and 8 s for the similar samples of
3000 timepoints (data specification, section 11, fix 4). Each number is the best of five runs; loading is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from timing import cpu_seconds

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.memory import Memory
from operating_room.graphs.scene_graph import Sample, parse, target_text
from operating_room.graphs.similarity import SimilarSamples
from operating_room.recordings.dataset import Dataset
from operating_room.scores.scoring import score
from operating_room_simulator.story.story import script_surgery

MEMORY_TAKE = "007_TKA_MMOR"
PUBLISHED_MEMORY_S, PUBLISHED_SIMILAR_S = 45.0, 8.0
SIMILAR_SAMPLES = 3000
VALIDATION_SIZES = {"004_4DOR": 682, "008_4DOR": 650, "002_PKA_MMOR": 867, MEMORY_TAKE: 1156, "009_TKA_MMOR": 547}
IMPORTS = (
    "import operating_room.recordings.dataset, operating_room.scores.downstream, "
    "operating_room.graphs.prompts, operating_room.graphs.similarity"
)
COMMANDS = {  # name -> arguments of a fresh interpreter, aim in wall seconds on an idle machine
    "mmor --help": (["-m", "mmor.cli", "--help"], 0.5),
    "import operating_room": (["-c", "import operating_room"], 0.3),
    "import of its modules": (["-c", IMPORTS], 0.3),
}
RUNS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--relations", type=Path, help="relationships_validation.json, plain or .gz; default: generated"
    )
    parser.add_argument("--data", type=Path, help="folder with MM-OR_data and/or 4D-OR_data to index")
    arguments = parser.parse_args()
    if arguments.relations:
        samples = load_samples(arguments.relations)
        print(f"{len(samples)} samples of {arguments.relations}")
    else:
        samples = generated_samples()
        print(f"no --relations given: {len(samples)} generated samples in takes of the validation set's lengths")

    take = [sample for sample in samples if sample.take_name == MEMORY_TAKE]
    report(f"online memory, {len(take)} timepoints", cpu_seconds(RUNS, online_memory, take)[0], PUBLISHED_MEMORY_S)
    some = samples[:SIMILAR_SAMPLES]
    report(f"similar samples, {len(some)} samples", cpu_seconds(RUNS, draw_similar, some)[0], PUBLISHED_SIMILAR_S)
    predictions = {sample.sample_id: parse(target_text(sample.triplets)) for sample in samples}
    report(f"scoring, {len(samples)} samples", cpu_seconds(RUNS, score, samples, predictions)[0])
    if arguments.data:
        count = index(arguments.data)
        report(f"indexing, {count} timepoints", cpu_seconds(RUNS, index, arguments.data)[0])
    for name, (command, limit) in COMMANDS.items():
        print(f"{name}: {min(wall(command) for _ in range(RUNS)):.2f} s wall, aim {limit} s")


def generated_samples() -> list[Sample]:
    """Scripted surgeries as long as the takes of the validation set."""
    samples = []
    for take in mmor().split_takes("val"):
        surgery = script_surgery(take, seed=0, seconds=VALIDATION_SIZES[take.sample_name])
        samples += [Sample(take.sample_name, f"{m.second:06d}", m.triplets) for m in surgery.moments]
    return samples


def online_memory(samples: Sequence[Sample]) -> None:
    """What evaluation with online memory does besides running the model."""
    memory = Memory(mmor().language.forgotten_spellings)
    for sample in samples:
        memory.text()
        memory.add(sample.triplets, int(sample.frame_id))


def draw_similar(samples: Sequence[Sample]) -> None:
    """The similar samples of every sample, drawn as for training."""
    finder, generator = SimilarSamples(samples, mmor()), Random(0)
    for position in range(len(samples)):
        finder.draw(position, generator)


def index(root: Path) -> int:
    """Number of timepoints of all takes on disk."""
    dataset = Dataset(root)
    return sum(len(dataset.take(take).timepoints) for take in dataset.takes())


def wall(command: list[str]) -> float:
    """Wall seconds of a fresh interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def report(name: str, seconds: float, published_s: float | None = None) -> None:
    """Print one line."""
    ratio = f", published code {published_s:.0f} s: {published_s / seconds:.0f} times faster" if published_s else ""
    print(f"{name}: {seconds:.4f} CPU s{ratio}")


if __name__ == "__main__":
    main()
