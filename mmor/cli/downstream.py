"""`mmor downstream`: next action, robot phase and sterility breach from scene graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmor.cli.evaluator import load_generator
from mmor.cli.options import (
    MODEL,
    TRAINING_OPTIONS,
    BitsOption,
    Data,
    Device,
    DomainFile,
    Gpus,
    Limit,
    MaxNewTokens,
    Part,
    Relations,
    SamplesFolder,
    ScoredTakes,
    Seed,
    SkipBadSamples,
    Split,
    TrainedModel,
    TrainingCommand,
    TrainingData,
    choose_samples,
    finish,
    load_split,
    note_left_out,
    open_dataset,
    samples_folder,
    split_file,
    tell_notes,
    tell_part_done,
)
from mmor.cli.scene_graph import train_model

if TYPE_CHECKING:
    from operating_room.recordings.dataset import Dataset
    from scene_graph_generation.inference.generator import SceneGraphGenerator

app = typer.Typer(help="Next action, robot phase, sterility breach.", no_args_is_help=True)

Labels = Annotated[
    Path | None, typer.Option(help="Folder of `mmor downstream labels` (default: the dataset's own label folders).")
]
RuleFile = Annotated[
    Path | None, typer.Option(help="Rule file (default: ours, operating_room/scores/downstream_rules.yaml).")
]
PublishedMemory = Annotated[
    bool, typer.Option("--published-memory", help="Memory with object and predicate swapped, as published.")
]


@app.command("labels")
def labels(
    out: Annotated[Path, typer.Option(help="Folder that gets the three label folders.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "train",
    rules: RuleFile = None,
    derive_all: Annotated[bool, typer.Option("--derive-all", help="Ignore the dataset's own labels.")] = False,
) -> None:
    """Collect the labels of a split. The dataset's own, or derived from its scene graphs where it has none."""
    from collections import Counter

    from operating_room.scores.downstream import label_class
    from operating_room.scores.downstream_rules import OUR_FILE, collect_labels, load_rules

    dataset = _open_dataset(data, domain)
    samples = load_split(relations, split, dataset)
    collected = collect_labels(dataset, samples, load_rules(rules or OUR_FILE, dataset.domain), out, derive_all)
    for take, sources in collected.sources.items():
        typer.echo(f"{take}: " + ", ".join(f"{task} from {source}" for task, source in sources.items()))
    for name, takes in collected.labels.items():
        task = dataset.domain.task(name)
        counts = Counter(label_class(task, label) for of_take in takes.values() for label in of_take.values())
        typer.echo(f"{name}: " + ", ".join(f"{label} {count}" for label, count in counts.most_common()))
    typer.echo(f"labels in {out}")
    finish(collected.problems)


@app.command("samples")
def samples(
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "train",
    out: SamplesFolder = None,
    labels: Labels = None,
    per_timepoint: Annotated[int, typer.Option(help="Records per timepoint.", min=1, max=10_000)] = 10,
    drop_history: Annotated[float, typer.Option(help="Share of memory entries that are dropped.", min=0, max=1)] = 0.5,
    temporal_augmentation: Annotated[bool, typer.Option(help="Style of the memory drawn at random.")] = True,
    published_memory: PublishedMemory = False,
    seed: Seed = 0,
) -> None:
    """Write the training JSON of all tasks. In the published mixture."""
    from random import Random

    from operating_room.errors import UserError
    from operating_room.scores.downstream import read_labels
    from scene_graph_generation.samples.downstream_samples import downstream_file_name, downstream_records
    from scene_graph_generation.samples.sample_files import write_samples

    dataset = _open_dataset(data, domain)
    truth = load_split(relations, split, dataset)
    known, problems = read_labels(dataset, truth, labels)
    generator, wrong = Random(seed), list[str]()
    memory = temporal_augmentation, drop_history, published_memory
    records = downstream_records(truth, known, dataset.domain, generator, per_timepoint, *memory, left_out=wrong)
    path = samples_folder(out, dataset.root) / downstream_file_name(
        split, temporal_augmentation, drop_history, published_memory
    )
    count = write_samples(path, records, len(truth) * per_timepoint, generator)
    problems += [f"{split_file(relations or dataset.root, split)}: {line}" for line in wrong]
    if not count:
        why = problems or ["no timepoint of the split has a label of a task (those of 4D-OR have none)"]
        raise UserError("; ".join(["no training sample can be made", *why]))
    typer.echo(f"{count} records in {path}")
    finish(problems)


@app.command("train", cls=TrainingCommand, context_settings=TRAINING_OPTIONS)
def train(
    options: Annotated[list[str] | None, typer.Argument(help="Options of the published command.")] = None,
    samples: Annotated[
        list[Path] | None, typer.Option(help="Training JSON, from `mmor downstream samples`; may be repeated.")
    ] = None,
    out: TrainedModel = None,
    config: Annotated[
        Path | None, typer.Option(help="Experiment file (default: small_downstream.yaml; published: downstream.yaml).")
    ] = None,
    data: TrainingData = None,
    domain: DomainFile = None,
    gpus: Gpus = 1,
    skip_bad_samples: SkipBadSamples = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
) -> None:
    """Train a model that answers from text alone. Options are those of `mmor scene-graph train`."""
    files = {"samples": samples, "out": out, "data": data, "domain": domain}
    train_model(options or [], config, "small_downstream.yaml", files, gpus, skip_bad_samples, dry)


@app.command("evaluate")
def evaluate(
    out: Annotated[Path, typer.Option(help="Results JSON.")],
    model_path: Annotated[Path | None, typer.Option(*MODEL, help="Folder of the model; none: the rule alone.")] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(
            help="Predictions of `mmor scene-graph infer`, results of `evaluate`, or a published all_scene_graphs "
            "file (default: the true graphs)."
        ),
    ] = None,
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "test",
    take: ScoredTakes = None,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 300,
    labels: Labels = None,
    rules: RuleFile = None,
    published_memory: PublishedMemory = False,
    batch_size: Annotated[int, typer.Option(help="Questions at once.", min=1)] = 16,
    device: Device = None,
    bits: BitsOption = None,
    gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Answer and score the three tasks. From true or predicted scene graphs; breaches also by the sterility rule."""
    from mmor.launch import divide, do_share
    from operating_room.errors import UserError
    from operating_room.scores.downstream_rules import OUR_FILE, load_rules
    from operating_room.work.processes import is_first
    from scene_graph_generation.inference.downstream import answer_downstream_share, evaluate_downstream, read_graphs
    from scene_graph_generation.inference.evaluate import require_results
    from scene_graph_generation.inference.infer import answers_path

    require_results(out, "downstream")
    answers_path(out)  # refuses an unusable name before a model is loaded
    if graphs is not None and os.path.realpath(out) == os.path.realpath(graphs):
        raise UserError(f"{out}: holds the graphs, which the results would replace; choose another output")
    if (own := divide(gpus, part, device)) is None:
        return
    if model_path is None and not own.is_whole:
        raise UserError("the rule alone is the work of one process; give --model-path, or leave out --gpus and --part")
    rule_file = rules or OUR_FILE
    dataset = _open_dataset(data, domain)
    truth = choose_samples(load_split(relations, split, dataset), take, limit, dataset.domain)
    about = {
        "folder": None if model_path is None else str(model_path),
        "split": split,
        "graphs_from": "annotations" if graphs is None else str(graphs),
        "rules": str(rule_file),
    }
    asked = truth if graphs is None else read_graphs(graphs)

    def share_done() -> SceneGraphGenerator:
        assert model_path is not None
        generator = load_generator(model_path, dataset.domain, device, bits, batch_size, max_new_tokens)
        if generator.model.settings.modalities and is_first():
            told = "reads pictures, as scene-graph models do; answers of one that `mmor downstream train` did not make"
            typer.echo(f"note: {model_path} {told} are chance", err=True)
        where = dataset, asked, truth, out, own, labels
        note_left_out(own, answer_downstream_share(generator, *where, published_memory, batch_size))
        return generator

    generator = None
    if model_path is not None and (generator := do_share(own, share_done)) is None:
        tell_part_done(own)
        return
    evaluation = evaluate_downstream(
        generator,
        dataset,
        asked,
        truth,
        load_rules(rule_file, dataset.domain).sterility_breach,
        out,
        about,
        labels,
        published_memory,
        batch_size,
    )
    typer.echo(str(evaluation))
    typer.echo(f"results in {out}")
    tell_notes(evaluation.notes)
    finish(evaluation.problems)


def _open_dataset(data: Path, domain: Path | None) -> Dataset:
    """As `open_dataset`; a room whose takes can have no label of any task is refused, before our rules are."""
    from operating_room.errors import UserError

    dataset = open_dataset(data, domain)
    chosen = dataset.domain
    if not any(task.name in collection.take_files for collection in chosen.collections for task in chosen.tasks):
        told = f"takes of domain {chosen.name} have no downstream tasks, only those of MM-OR have"
        raise UserError(f"{data}: {told}; give a folder with MM-OR_data")
    return dataset
