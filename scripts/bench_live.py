"""`mmor live` in numbers: how late the graphs of a take are that is being recorded, and what that takes.

    python scripts/bench_live.py [--seconds 600]

Another process writes a simulated MM-OR take in real time, one second a second: the pictures of all cameras, clouds,
clips of sound, words, robot screen, tracker. The bundled small models follow it, without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import psutil

from computing.machine import leave_a_processor
from mmor.demo import BUNDLED, GRAPHS, PICTURE_SIZE, SEGMENTER
from mmor.live.live import LiveSecond, live
from mmor.live.source import Follow
from mmor.live.take import take_of_folder
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads
from operating_room_simulator.writer import synthesize
from panoptic_segmentation.inference.live import LiveSegmenter
from panoptic_segmentation.inference.predict import load
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_encoder
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from scene_graph_generation.weights.checkpoints import load_model

TAKE = mmor().find_take("004_PKA")
SEED = 2026  # the demo's; no model was trained with it
SETTLED = 10  # seconds after which memory counts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="length of the take")
    parser.add_argument("--work", type=Path, help="folder that keeps the simulated take for another run")
    parser.add_argument("--queue", action="store_true", help="answer every second, however late")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recording = (arguments.work or Path(folder)) / f"recorded_{arguments.seconds}"
        synthesize(recording, [TAKE], arguments.seconds, SEED, size=PICTURE_SIZE, workers=cpu_threads())
        preprocess_audio(Dataset(recording), [TAKE], causal=True).require()
        preprocess_transcripts(Dataset(recording), [TAKE]).require()
        follow(recording, Path(folder) / "live", arguments.seconds, arguments.queue)


def follow(recording: Path, root: Path, seconds: int, queue: bool) -> None:
    """Follow a take that another process writes below `root`, and print what that was like."""
    folder = root / "MM-OR_data" / TAKE.folder
    folder.mkdir(parents=True)
    leave_a_processor()
    recorded = take_of_folder(folder)
    model, settings = load(BUNDLED / SEGMENTER, recorded.domain)
    segmenter = LiveSegmenter(model, settings, recorded.collection, recorded.domain.labels)
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))
    source = Follow(recorded, generator.model.settings.modalities, queue=queue)
    process, answers, memory = psutil.Process(), [], []
    writer = get_context("spawn").Process(target=write, args=(recording, root))
    writer.start()
    for answer in live(source, segmenter, generator, mel_encoder):
        answers.append(answer)
        memory.append(process.memory_info().rss / 1e6)
        if len(answers) == 1:
            used = cpu_seconds(process)
        if int(answer.frame_id) == seconds - 1:
            break
    writer.join()
    used = (cpu_seconds(process) - used) / max(1, len(answers) - 1)
    report(answers, memory, used)


def write(recording: Path, root: Path) -> None:
    """Record the take, in real time: each second gets its files, then its elements of index and tracks."""
    recorded = Dataset(recording).take(TAKE)
    index = json.loads(recorded.index_file.read_text())
    tracks = recorded.path("tracks")
    assert tracks is not None
    tools = json.loads(tracks.read_text())
    start = time.monotonic()
    for position, timepoint in enumerate(recorded.timepoints):
        time.sleep(max(0.0, start + position - time.monotonic()))
        for _, _, path in timepoint.files_by_camera():
            copy = root / path.relative_to(recording)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
        write_json(root / tracks.relative_to(recording), tools[: int(timepoint.time) + 1])
        write_json(root / recorded.index_file.relative_to(recording), index[: position + 1])


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds so far of this process alone."""
    times = process.cpu_times()
    return times.user + times.system


def report(answers: Sequence[LiveSecond], memory: Sequence[float], used: float) -> None:
    """Print a table."""
    skipped = sum(answer.skipped for answer in answers)
    print(f"{len(answers)} seconds answered, {skipped} skipped, on {cpu_threads()} cores")
    print(f"{'latency in s':12} {'p50':>6} {'p95':>6} {'max':>6}")
    for part in answers[0].latency_s:
        found = sorted(answer.latency_s[part] for answer in answers)
        shown = found[len(found) // 2], found[len(found) * 95 // 100], found[-1]
        print(f"{part:12}", *(f"{seconds:6.2f}" for seconds in shown))
    print(f"{used:.2f} CPU s for each answer")
    settled = memory[min(SETTLED, len(memory) - 1)]
    most = max(memory)
    print(f"memory: {settled:.0f} MB after {SETTLED} answers, {memory[-1]:.0f} MB at the end, {most:.0f} MB at most")


if __name__ == "__main__":
    main()
