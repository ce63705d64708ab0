"""What each modality is worth to the small scene-graph model with eyes: one training from nothing for each row.

Usage: python scripts/ablation_eyes.py FOLDER [ROW ...] [options], after `ONLY=samples bash scripts/train_eyes.sh
FOLDER` and with held-out takes, prepared as well, in FOLDER/test. All rows are trained side by side, a process for
each, on the GPU if there is one, with the same steps, samples and settings. `no_speech` is of seed 0, `no_speech_2` of
seed 2; of rows with several seeds the table has mean and spread. Vision towers are taught their patches and hands once
for each seed, and triplets, which look at no text, once for rows that differ in text alone. A row with
memory is trained first with the true past, then with what it said itself of the takes of --answered. FOLDER/rows/ROW
gets models, logs, and what it says of the held-out takes; what is finished is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from computing.machine import allow_tf32, free_memory
from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.graphs.graph_files import SPLIT_NAMES, load_predictions, load_samples
from operating_room.graphs.scene_graph import Sample, split_sample_id
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import score
from scene_graph_generation.config.settings import Experiment, read_experiment
from scene_graph_generation.inference.infer import SceneGraphGenerator, infer
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.samples.patches import Grid, Patched, read_patched
from scene_graph_generation.samples.training_data import read_records
from scene_graph_generation.training import pretrain, train
from scene_graph_generation.weights.checkpoints import load_model

VIEWS = ("room_views", "station_views", "tracker_view")
SHARED = ("vision.", "pooler.views.", "projector.")  # what learns from patches and hands
TEXTS = ("robot", "tracker", "speech")
MOST_BYTES = 24 << 30  # of views and their patches, for all processes together


@dataclass(frozen=True)
class Row:
    """A training.

    Attributes:
        without: modalities that the model is not made for.
        dark: all views are black; their masks stay.
        memory: prompts have a memory of the past.
        seed: of all draws.
    """

    without: tuple[str, ...] = ()
    dark: bool = False
    memory: bool = True
    seed: int = 0


BESIDE_VIEWS = ("cloud", "audio", "masks", "robot", "tracker", "speech")
ROWS = {
    "all": Row(),
    "no_views": Row(dark=True),
    "no_views_masks": Row(("masks",), dark=True),
    "no_cloud": Row(("cloud",)),
    "no_speech": Row(("speech",)),
    "no_memory": Row(memory=False),
    "views_only": Row(BESIDE_VIEWS, memory=False),
}
USUAL = ("all_0", "all_1", "all_2", *(name for name in ROWS if name != "all"))


def row_of(name: str) -> tuple[str, Row]:
    """What kind of row this is, and the row with the seed that its name ends with, if it ends with one.

    Raises:
        KeyError: there is no such row.
    """
    kind, _, seed = name.rpartition("_")
    return (kind, replace(ROWS[kind], seed=int(seed))) if seed.isdecimal() else (name, ROWS[name])


class InTheDark(ExampleReader):
    """Reads samples with black views in place of all pictures."""

    def __call__(self, evidence: Evidence, prompt: str, answer: str | None = None, reserve: int = 0) -> Example:
        """As `ExampleReader`."""
        return super().__call__(replace(evidence, views=(None,) * len(evidence.views)), prompt, answer, reserve)


class Generator(SceneGraphGenerator):
    """A generator that is shown black views, if so asked."""

    dark = False

    def read(self, timepoint: Timepoint, memory: str | None) -> Example:
        """The question about a timepoint."""
        return super().read(timepoint.without(VIEWS) if self.dark else timepoint, memory)


def row_experiment(experiment: Experiment, row: Row, of: argparse.Namespace) -> Experiment:
    """The settings of a row."""
    modalities = tuple(name for name in experiment.model.modalities if name not in row.without)
    phases = experiment.pretrain
    assert phases is not None
    patches, hands = (0, 0) if row.dark else (of.patches, of.hands)
    return replace(
        experiment,
        model=replace(experiment.model, modalities=modalities),
        pretrain=replace(phases, patch_steps=patches, hand_steps=hands, steps=of.triplets, batch_size=of.seen),
        train=replace(
            experiment.train,
            max_steps=of.language + (0 if row.memory else of.again),
            epochs=10_000.0,
            batch_size=of.batch,
            workers=of.readers,
            seed=row.seed,
            memory_dropout=experiment.train.memory_dropout if row.memory else 1.0,
            save_steps=200,
            tf32=torch.cuda.is_available(),
            vision_rests=experiment.train.vision_rests and patches > 0,
        ),
    )


def kept(model: Any, names: tuple[str, ...], path: Path, learn: Callable[[], object]) -> None:
    """What a model has learnt under these names: from the file, or by learning and then in it.

    One of the processes learns, the others wait. Of a process that ends before that, they hear by the lock, which ends
    with it; the next one takes its place.
    """
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            learn()
            seen = {name: value for name, value in model.state_dict().items() if name.startswith(names)}
            torch.save(seen, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            return
    found = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    known = model.state_dict()
    model.load_state_dict({name: found.get(name, known[name]) for name in known})


def taught_once(work: Path, seed: int, patches: bool) -> Any:
    """`pretrain._look`, but done by one of the processes with this seed."""
    learn = pretrain._look

    def look(model: Any, *rest: Any) -> bool:
        kept(model, SHARED, work / "rows" / f"eyes_{seed}.pt", lambda: learn(model, *rest))
        return patches

    return look


def seen_once(work: Path, row: Row, of: argparse.Namespace) -> Any:
    """`pretrain.pretrain`, but done by one of the rows with this seed that differ in text alone."""
    learn, others = train.pretrain, sorted(set(row.without) - set(TEXTS))
    name = "_".join(["triplets", str(row.seed), str(of.triplets), *others, *(["dark"] if row.dark else [])])

    def see(model: Any, *rest: Any, **options: Any) -> tuple[None, bool]:
        kept(model, pretrain.SEEING, work / "rows" / f"{name}.pt", lambda: learn(model, *rest, **options))
        return None, of.patches > 0 and not row.dark

    return see


def already_read(groups: list[Patched]) -> Any:
    """`read_patched` of what the parent process has read."""

    def read(dataset: Dataset, places: Any, *rest: Any) -> list[Patched]:
        wanted, found = set(places), []
        for group in groups:
            if chosen := [i for i, place in enumerate(group.places) if place in wanted]:
                parts = (part[chosen] for part in (group.views, group.shares, group.depth))
                found.append(Patched(tuple(group.places[i] for i in chosen), *parts))
        return found

    return read


def learnt(experiment: Experiment, samples: Path, work: Path, out: Path) -> None:
    """Train, unless that is done."""
    if not (out / "model.safetensors").exists():
        train.train(experiment, [samples], Dataset(work / "data"), out)


def with_answers(of: argparse.Namespace, out: Path) -> Path:
    """Training samples in whose memory there is what this row said before."""
    found = list(out.glob("own_1perm_*.json"))
    if not found:
        words = ["--temporal", "--no-temporal-augmentation", "--permutations", "1", "--split", "own"]
        words += ["--own-share", "0.8", "--stale-memory", "0.3", "--repeat-rare", "0.05"]
        files = ["--data", of.folder / "data", "--relations", of.folder / "data", "--answers", out / "answers.json"]
        command = [sys.executable, "-m", "mmor.cli", "scene-graph", "samples", *words, *files, "--out", out]
        subprocess.run(command, check=True)
        found = list(out.glob("own_1perm_*.json"))
    return found[0]


def frames_of(samples: Sequence[Sample], domain: Domain) -> dict[Take, list[str]]:
    """The frames of each take."""
    frames: dict[Take, list[str]] = {}
    for sample in samples:
        frames.setdefault(domain.find_take(sample.take_name), []).append(sample.frame_id)
    return frames


def answer(row: Row, model: Path, root: Path, frames: Mapping[Take, Sequence[str] | None], out: Path) -> None:
    """What a row's model says of takes, one timepoint of each at once."""
    generator = Generator(*load_model(model))
    generator.dark = row.dark
    infer(generator, Dataset(root), frames, out, row.memory, len(frames))


def run_row(name: str, of: argparse.Namespace, experiment: Experiment, groups: list[Patched]) -> None:
    """Train a row and let it answer; in a process of its own."""
    work, (_, row) = of.folder, row_of(name)
    out = work / "rows" / name
    out.mkdir(parents=True, exist_ok=True)
    log = os.open(out / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        if torch.cuda.is_available():
            allow_tf32()
        if row.dark:
            vars(train)["ExampleReader"] = InTheDark
        pretrain._look = taught_once(work, row.seed, of.patches > 0)
        vars(train)["pretrain"] = seen_once(work, row, of)
        pretrain.read_patched = already_read(groups)
        wanted = row_experiment(experiment, row, of)
        learnt(wanted, of.samples, work, out / "first")
        final = out / "first"
        if row.memory and of.again:
            final = out / "model"
            takes = dict.fromkeys(map(Dataset(work / "data").domain.find_take, of.answered))
            answer(row, out / "first", work / "data", takes, out / "answers.json")
            again = replace(
                wanted,
                pretrain=None,
                start=replace(wanted.start, curriculum=out / "first"),
                train=replace(wanted.train, max_steps=of.again),
            )
            learnt(again, with_answers(of, out), work, final)
        if of.only_train:
            os._exit(0)
        samples = load_samples(work / "test" / f"relationships_{SPLIT_NAMES[of.split]}.json")
        answer(row, final, work / "test", frames_of(samples, Dataset(work / "test").domain), out / "predictions.json")
    except BaseException:  # noqa: BLE001 - of a forked process, which must not go on where its parent was
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def table(of: argparse.Namespace, names: list[str]) -> None:
    """Macro F1 by row and dataset, then F1 by predicate and row."""
    dataset = Dataset(of.folder / "test")
    domain = dataset.domain
    samples = load_samples(of.folder / "test" / f"relationships_{SPLIT_NAMES[of.split]}.json")
    parts = {"all takes": samples}
    for dataset_name in reversed(domain.datasets):
        of_it = [sample for sample in samples if domain.find_take(sample.take_name).dataset == dataset_name]
        parts |= {dataset_name.replace("OR", "-OR"): of_it} if of_it else {}
    scores = {}
    for name in names:
        file = of.folder / "rows" / name / "predictions.json"
        if file.exists():
            scores[name] = [score(part, load_predictions(file), domain) for part in parts.values()]
    print(f"| row | macro F1 | {' | '.join([*parts][1:])} |\n|---|{'---|' * len(parts)}")
    kinds: dict[str, list[list[float]]] = {}
    for name, found in scores.items():
        macro = [one.overall.macro_f1 for one in found]
        kinds.setdefault(row_of(name)[0], []).append(macro)
        print(f"| {name} | {' | '.join(f'{f1:.3f}' for f1 in macro)} |")
    for kind, of_seeds in kinds.items():
        if len(of_seeds) > 1:
            spread = (f"{fmean(part):.3f} ({min(part):.3f} to {max(part):.3f})" for part in zip(*of_seeds))
            print(f"| {kind}, mean of {len(of_seeds)} trainings (lowest to highest) | {' | '.join(spread)} |")
    for number, title in enumerate(parts):
        print(f"\n| F1, {title} | {' | '.join(scores)} |\n|---|{'---|' * len(scores)}")
        reports = [one[number].overall.predicates for one in scores.values()]
        for i, predicate in enumerate(reports[0].names if reports else ()):
            if reports[0].support[i]:
                print(f"| {predicate} | {' | '.join(f'{report.f1[i]:.2f}' for report in reports)} |")


def asked(words: Sequence[str]) -> argparse.Namespace:
    """What the command line says; options and rows in any order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "rows", nargs="*", help=f"some of {', '.join(ROWS)}, each also with _SEED (default: {' '.join(USUAL)})"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/scene_graph/small_eyes.yaml"))
    steps = {"patches": 700, "hands": 200, "triplets": 900, "language": 1200, "again": 300}
    for name, value in {**steps, "batch": 8, "seen": 8}.items():  # samples in a step, of language and before it
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--readers", type=int, default=0, help="processes that read, for each row")
    parser.add_argument("--decoders", type=int, default=1, help="processes that read patches, before")
    parser.add_argument("--split", default="test")
    parser.add_argument("--answered", nargs="*", default=(), help="takes of FOLDER/data to answer, for the memory")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument(
        "--only-train", action="store_true", help="the test takes are not answered, and need not be there"
    )
    of = parser.parse_intermixed_args(words)
    of.rows = of.rows or list(USUAL)
    try:
        rows = [row for _, row in map(row_of, of.rows)]
    except KeyError as error:
        parser.error(f"no such row: {error.args[0]}; there are {', '.join(ROWS)}, each also with a seed (all_1)")
    if of.again and not of.answered and not of.only_table and any(row.memory for row in rows):
        parser.error("--again needs takes to answer (--answered 401_SIM 401_4DOR ...); --again 0 leaves it out")
    return of


def main() -> None:
    """Train the rows that are asked for and print the table."""
    of = asked(sys.argv[1:])
    names, failed = of.rows, []
    if not of.only_table:
        work = of.folder
        (work / "rows").mkdir(exist_ok=True)
        (of.samples,) = (work / "first").glob("own_1perm_*.json")
        experiment = read_experiment(of.config)
        vision = experiment.model.vision
        places = sorted({split_sample_id(str(record["id"])) for record in read_records(of.samples)})
        grid = Grid(vision.image_size, vision.patch_size)
        assert experiment.pretrain is not None
        masked = pretrain.with_masks_of(Dataset(work / "data"), experiment.pretrain.patch_domain)
        seeds = {row_of(name)[1].seed for name in names}
        untaught = [seed for seed in seeds if not (work / "rows" / f"eyes_{seed}.pt").exists()]
        # Beside what is read here each seed that is taught holds what it learns from once more.
        most = min(MOST_BYTES, free_memory(torch.device("cpu")) // (2 + len(untaught)))
        groups = read_patched(masked, places, grid, most, of.decoders) if untaught and of.patches else []
        context = multiprocessing.get_context("fork")  # what was read is there for all of them, once
        running = {name: context.Process(target=run_row, args=(name, of, experiment, groups)) for name in names}
        for process in running.values():
            process.start()
        began = time.monotonic()
        while running:
            time.sleep(1)
            for name in [name for name, process in running.items() if not process.is_alive()]:
                how = f"failed, see {work / 'rows' / name / 'output.txt'}" if running.pop(name).exitcode else "is done"
                if how != "is done":
                    failed.append(name)
                print(f"{time.monotonic() - began:.0f} s: {name} {how}", file=sys.stderr, flush=True)
    if not of.only_train:
        table(of, names)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
