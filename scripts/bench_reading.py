"""How long a model waits for the files of a timepoint: seven views of 2048x1536 px, read ahead, prepared, and neither.

Everything is made here: a take of MM-OR with JPEG pictures that are smooth with some noise. The model is a pause, as
one on a GPU is for the processors. Waits are wall time (medians) and hold for the processors that are free.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import torch
from PIL import Image
from timing import cpu_seconds

from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_bytes, write_json
from operating_room.files.readers import read_picture
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.dataset import Dataset
from operating_room.work.ahead import Ahead
from scene_graph_generation.config.settings import MM2SGConfig, TrainConfig
from scene_graph_generation.inputs.evidence import HELD, Evidence, ExampleReader
from scene_graph_generation.inputs.tokens import Tokens, train_tokens
from scene_graph_generation.inputs.views import PAD_COLOR, ViewReader
from scene_graph_generation.preprocess.views import preprocess_views
from scene_graph_generation.samples.records import Record, SampleOptions, training_records
from scene_graph_generation.samples.training_data import TrainingSamples, record_text

TAKE = mmor().find_take("001_PKA")
WIDTH, HEIGHT = 2048, 1536  # px
SIZE = MM2SGConfig().vision.image_size
WORKERS = (1, 2, 4)
BATCH = 4
PROMPT = "<image>\nwhat is done ASSISTANT:"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timepoints", type=int, default=24)
    parser.add_argument("--busy", type=int, nargs="+", default=[200, 500], help="ms that a model takes per timepoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than there are processors
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_take(root, arguments.timepoints)
        dataset = Dataset(root)
        evidence = [Evidence.of_timepoint(timepoint) for timepoint in dataset.take(TAKE).timepoints]
        paths = [path for path in evidence[0].views if path is not None]
        print(
            f"{len(paths)} views of {WIDTH}x{HEIGHT} px, {paths[0].stat().st_size / 1e6:.2f} MB each; "
            f"{len(os.sched_getaffinity(0))} CPU cores"
        )
        plain_s, plain = cpu_seconds(5, lambda: torch.stack([plain_view(path) for path in paths]))
        anew_s, anew = cpu_seconds(5, lambda: ViewReader(SIZE)(paths))
        assert torch.equal(plain, anew)
        records = make_records(dataset, arguments.timepoints)
        tokens = train_tokens(map(record_text, records), 1000, dataset.domain.language)
        waits = {"read anew": evaluation(evidence, tokens, arguments.busy)}
        feeding = {"read anew": training(records, dataset, tokens)}
        prepare_s, views = cpu_seconds(1, lambda: preprocess_views(dataset, [TAKE], SIZE).require())
        read = ViewReader(SIZE)
        prepared_s, prepared = cpu_seconds(20, lambda: read(paths))
        assert torch.equal(plain, prepared)
        waits["prepared"] = evaluation(evidence, tokens, arguments.busy)
        feeding["prepared"] = training(records, dataset, tokens)
        each = 1000 / len(paths)
        print("CPU ms a view, the same bits:")
        print(f"  plain (square, then resize)   {plain_s * each:7.2f}")
        print(f"  columns first, fewer copies   {anew_s * each:7.2f}  {plain_s / anew_s:.2f} times less")
        print(f"  prepared                      {prepared_s * each:7.2f}  {anew_s / prepared_s:.0f} times less")
        print(f"  preparing                     {prepare_s / views * 1000:7.2f}")
        report("wait per timepoint in evaluation, ms", waits)
        report(f"wait per step of {BATCH} samples in training, ms", feeding)


def report(title: str, tables: dict[str, dict[str, float]]) -> None:
    """A row for each way of reading."""
    print(f"{title}:")
    for row in next(iter(tables.values())):
        print(f"  {row:42}" + "".join(f"{name} {table[row] * 1000:7.1f}   " for name, table in tables.items()))


def plain_view(path: Path) -> torch.Tensor:
    """The whole square is resized, as published."""
    picture = read_picture(path)
    square = Image.new("RGB", (WIDTH, WIDTH), PAD_COLOR)
    square.paste(Image.fromarray(picture), (0, (WIDTH - HEIGHT) // 2))
    resized = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)


def evaluation(evidence: list[Evidence], tokens: Tokens, busy: Iterable[int]) -> dict[str, float]:
    """Seconds of waiting per timepoint, a timepoint at a time, by number of threads."""
    found = {}
    for pause in busy:
        for threads in (0, *WORKERS):
            read = ExampleReader(MM2SGConfig(modalities=("views",)), tokens)
            read._ahead = Ahead(read._read, HELD, threads or None)

            def wish(number: int, read: ExampleReader = read, threads: int = threads) -> None:
                if threads:
                    read.read_ahead(evidence[number : number + 4])

            def ask(number: int, read: ExampleReader = read) -> object:
                return read(evidence[number], PROMPT)

            name = f"model {pause} ms, " + (f"{threads} threads ahead" if threads else "nothing ahead")
            found[name] = wait_s(len(evidence), wish, ask, pause / 1000)
            read._ahead.close()
    return found


def wait_s(count: int, wish: Callable[[int], None], ask: Callable[[int], object], pause: float) -> float:
    """The median of the waits but the first: others may use the processors for a while."""
    waited = []
    for number in range(count):
        start = time.perf_counter()
        wish(number)
        ask(number)
        waited.append(time.perf_counter() - start)
        time.sleep(pause)
    return median(waited[1:])


def training(records: list[Record], dataset: Dataset, tokens: Tokens) -> dict[str, float]:
    """Seconds of waiting per step of 1 s, by number of DataLoader's processes."""
    found = {}
    for workers in (0, *WORKERS):
        read = ExampleReader(MM2SGConfig(modalities=("views",)), tokens)
        samples = TrainingSamples(records, dataset, replace(TrainConfig(), modality_dropout=0.0), read)
        places = [(0, place) for place in range(len(records))]
        loader = iter(torch.utils.data.DataLoader(samples, BATCH, sampler=places, num_workers=workers, collate_fn=list))
        steps = len(records) // BATCH
        found[f"{workers} workers"] = wait_s(steps, lambda _: None, lambda _, loader=loader: next(loader), 1.0)
    return found


def make_records(dataset: Dataset, timepoints: int) -> list[Record]:
    """Training samples of the take."""
    graph = (Triplet("head_surgeon", "patient", "cutting"),)
    samples = [Sample(TAKE.sample_name, f"{number:06d}", graph) for number in range(timepoints)]
    return list(training_records(dataset, samples, SampleOptions(permutations=1), Random(0)))


def write_take(root: Path, timepoints: int) -> None:
    """The pictures of five room cameras, a station camera and the tracking camera, and the index."""
    generator = np.random.default_rng(0)
    pictures = [encoded(generator) for _ in range(7)]
    take, index = root / "MM-OR_data" / TAKE.folder, []
    for second in range(timepoints):
        number = f"{second:06d}"
        index.append([number, {"azure": number, "simstation": number, "trackercam": number}])
        names = [f"colorimage/camera{camera:02d}_colorimage-{number}.jpg" for camera in range(1, 6)]
        for name, data in zip((*names, f"simstation/camera01_{number}.jpg", f"trackercam/{number}.jpg"), pictures):
            write_bytes(take / name, data)
    write_json(take / "timestamp_to_pcd_and_frames_list.json", index)


def encoded(generator: np.random.Generator) -> bytes:
    """A JPEG of about the size that cameras write."""
    rough = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    smooth = np.asarray(rough.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + generator.integers(-3, 4, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
