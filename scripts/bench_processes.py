"""Two processes against one, with the bundled small model on simulated takes: the same bytes, and how much faster.

Without memory a take is divided; with it (`--memory`) takes are dealt, and a process batches those that it has.

What starting costs (imports, loading the model) is left out on both sides. On a machine that others use, too, the ratio
that counts is that of CPU seconds: those of one process against those of the busier of two, which is what two free
cores would make of it. The ratio of wall seconds is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import share

SEED = 11  # of the takes; the bundled model was trained on others


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=240, help="length of each simulated take")
    parser.add_argument("--memory", action="store_true", help="with the memory of each take")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, of which the fastest counts")
    parser.add_argument("--answer", type=Path, nargs=2, help=argparse.SUPPRESS)  # one process: data, output
    arguments = parser.parse_args()
    if arguments.answer:
        answer(*arguments.answer, arguments.memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        simulate(root / "data", arguments.takes, arguments.seconds)
        cpu, wall = {1: float("inf"), 2: float("inf")}, {1: float("inf"), 2: float("inf")}
        for number in range(arguments.rounds):
            for processes in (1, 2):
                told = run(root / "data", root / f"{processes}_{number}" / "p.json", processes, arguments.memory)
                cpu[processes] = min(cpu[processes], max(one["cpu"] for one in told))
                wall[processes] = min(wall[processes], told[0]["wall"])
        outputs = [{path.name: path.read_bytes() for path in root.glob(f"{n}_0/*")} for n in (1, 2)]
        if outputs[0] != outputs[1]:
            raise SystemExit("one process and two have not written the same files")
        count = len(json.loads(outputs[0]["p.json"]))
    names = ", ".join(sorted(outputs[0]))
    how = "with" if arguments.memory else "without"
    print(f"{count} timepoints of {arguments.takes} takes {how} memory; {names}: the same bytes")
    for name, seconds in (("CPU s of the busier process", cpu), ("wall s on this machine now", wall)):
        rates = ", ".join(f"{n} process{'es' * (n - 1)} {count / seconds[n]:.2f} timepoints/s" for n in (1, 2))
        print(f"{name}: {seconds[1]:.1f} and {seconds[2]:.1f}: {rates}: {seconds[1] / seconds[2]:.2f} times")


def simulate(root: Path, takes: int, seconds: int) -> None:
    """Takes with everything that the model reads."""
    from mmor.demo import prepare
    from operating_room_simulator.writer import synthesize

    chosen = [*mmor().split_takes("test"), *mmor().split_takes("val")][:takes]
    synthesize(root, chosen, seconds, SEED)
    prepare(root, chosen, None)


def run(data: Path, out: Path, processes: int, memory: bool) -> list[dict[str, float]]:
    """Seconds of each process, the first one first; started as torchrun does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--answer", str(data), str(out)]
        command += ["--memory"] if memory else []
        started.append(subprocess.Popen(command, env=os.environ | place, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process has failed")
    return [json.loads(text.splitlines()[-1]) for text in told]


def answer(data: Path, out: Path, memory: bool) -> None:
    """What `mmor scene-graph infer` does in each process once the model is there."""
    import torch

    from computing.meeting import wait_for_others
    from mmor.demo import BUNDLED, GRAPHS
    from mmor.launch import do_share
    from scene_graph_generation.inference.generator import SceneGraphGenerator
    from scene_graph_generation.inference.infer import answer_share, first_frames, infer
    from scene_graph_generation.weights.checkpoints import load_model

    torch.set_num_threads(1)
    own, dataset = share(), Dataset(data)
    frames = first_frames(dataset, dataset.takes())
    generator = SceneGraphGenerator(*load_model(BUNDLED / GRAPHS))
    first = next(iter(frames))
    generator.answer([generator.read(dataset.take(first).timepoints[0], None)])  # what only the first question costs
    wait_for_others()
    cpu, wall = time.process_time(), time.perf_counter()
    if do_share(own, lambda: answer_share(generator, dataset, frames, out, own, memory)) is not None:
        infer(generator, dataset, frames, out, memory)
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))


if __name__ == "__main__":
    main()
