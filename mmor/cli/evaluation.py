"""`mmor scene-graph infer | evaluate | evaluate-all`: generate the scene graphs of takes, score them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmor.cli.evaluator import Config, Evaluator, Roles, evaluate_parts, follow, load_generator
from mmor.cli.options import (
    MODEL,
    BitsOption,
    Data,
    Device,
    DomainFile,
    Gpus,
    Limit,
    MaxNewTokens,
    Part,
    Relations,
    ScoredTakes,
    Split,
    Takes,
    Valid,
    choose_samples,
    chosen_domain,
    finish,
    load_split,
    note_left_out,
    open_dataset,
    open_takes,
    split_file,
    tell_notes,
    tell_part_done,
)

if TYPE_CHECKING:
    from operating_room.domain.domain import Domain
    from scene_graph_generation.inference.generator import SceneGraphGenerator

app = typer.Typer()  # its commands are commands of `mmor scene-graph`


def _read_config(name: str) -> Config:
    """One of the published configurations; its file's name will do.

    Raises:
        BadParameter: it is none.
    """
    try:
        return Config(str(name).removesuffix(".json"))
    except ValueError as error:
        raise typer.BadParameter(f"{str(name)[:60]!r} is none; choose one of {', '.join(Config)}") from error


ConfigOption = Annotated[
    Config,
    typer.Option(
        parser=_read_config,
        metavar="|".join(Config),
        help="mmor: without memory; mmor_temporal_pred: with the memory of the take's own predictions.",
    ),
]


RolesOption = Annotated[
    Roles,
    typer.Option(help="as_evaluated: the model is asked as by EgoExOR's published evaluator, `human: ... gpt:`."),
]
BatchSize = Annotated[int, typer.Option(help="Timepoints at once; with memory: takes side by side.", min=1)]


@app.command("infer")
def infer(
    model: Annotated[Path, typer.Option(*MODEL, help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Predictions JSON.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    take: Takes = None,
    memory: Annotated[bool, typer.Option(help="Each prompt has the memory of the take's own predictions.")] = True,
    batch_size: BatchSize = 8,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 300,
    device: Device = None,
    bits: BitsOption = None,
    roles: RolesOption = Roles.AS_TRAINED,
    valid: Valid = False,
    gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Generate the scene graphs of whole takes. A run that was interrupted is continued."""
    from mmor.launch import divide, do_share
    from scene_graph_generation.inference.generator import check_sees
    from scene_graph_generation.inference.infer import answer_share, answers_path, first_frames, infer, seen_of

    answers_path(out)  # refuses an unusable name before a model is loaded
    if (own := divide(gpus, part, device)) is None:
        return
    dataset, takes = open_takes(data, domain, take)
    frames = first_frames(dataset, takes, limit)

    def share_done() -> SceneGraphGenerator:
        generator = load_generator(model, dataset.domain, device, bits, batch_size, max_new_tokens, roles.names, valid)
        check_sees(generator, model)
        note_left_out(own, answer_share(generator, dataset, frames, out, own, memory, batch_size))
        return generator

    if (generator := do_share(own, share_done)) is None:
        tell_part_done(own)
        return
    predictions = infer(generator, dataset, frames, out, memory, batch_size)
    seen = seen_of(generator, dataset, predictions, takes, memory)
    typer.echo(str(seen))
    typer.echo(f"{len(predictions)} scene graphs in {out}")
    tell_notes(seen.warnings())


@app.command("evaluate")
def evaluate(
    model_path: Annotated[Path | None, typer.Option(*MODEL, help="Folder of the model to evaluate.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this file of `mmor scene-graph infer` instead.")
    ] = None,
    config: ConfigOption = Config.MMOR,
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "test",
    take: ScoredTakes = None,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 300,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Results JSON (default with a model: evaluation/CONFIG_SPLIT.json in its folder; of a checkpoint-N: "
            "evaluation/checkpoint-N/CONFIG_SPLIT.json beside it; a --relations FILE is named in it, too)."
        ),
    ] = None,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
    roles: RolesOption = Roles.AS_TRAINED,
    valid: Valid = False,
    gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Score a model or a predictions file. A run that was interrupted is continued."""
    from mmor.launch import divide
    from operating_room.errors import UserError
    from operating_room.scores.triplets.timelines import times_of
    from scene_graph_generation.inference.evaluate import evaluate_file, require_results
    from scene_graph_generation.inference.evaluate_all import results_path

    if out is not None:
        require_results(out, "scene_graph")
    if (model_path is None) == (predictions is None):
        raise UserError("evaluate needs either --model-path FOLDER or --predictions FILE")
    of_model = {"--config": config != Config.MMOR, "--roles": roles != Roles.AS_TRAINED, "--valid": valid}
    if predictions is not None and (given := [option for option, is_given in of_model.items() if is_given]):
        raise UserError(f"{given[0]} is of a model that answers, --predictions is of answers; leave out one of the two")
    if (own := divide(gpus, part, device)) is None:
        return
    if predictions is not None and not own.is_whole:
        raise UserError("--predictions is scored by one process; leave out --gpus, --part or torchrun")
    dataset = open_dataset(data, domain)
    samples = choose_samples(load_split(relations, split, dataset), take, limit, dataset.domain)
    truth = split_file(relations or dataset.root, split)
    if predictions is not None:
        times = times_of(dataset, samples)
        evaluation = evaluate_file(samples, predictions, dataset.domain, out, truth, times)
    else:
        assert model_path is not None
        name = _results_name(config, split, take, limit, dataset.domain, truth)
        name += "" if roles == Roles.AS_TRAINED else f"_{roles}"
        name += "_valid" if valid else ""
        out = out or results_path(model_path, name)
        settings = config, split, dataset, batch_size, device, bits, max_new_tokens
        evaluation = Evaluator(samples, truth, *settings, roles=roles, own=own, valid=valid)(model_path, out)
        if evaluation is None:
            tell_part_done(own)
            return
    typer.echo(str(evaluation))
    if out is not None:
        typer.echo(f"results in {out}")
    tell_notes(evaluation.notes)
    finish(evaluation.problems)


@app.command("evaluate-all")
def evaluate_all(
    folder: Annotated[Path, typer.Argument(help="Folder of a training, with its checkpoints.")],
    config: ConfigOption = Config.MMOR,
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "test",
    take: ScoredTakes = None,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 300,
    every: Annotated[int, typer.Option(help="Only every n-th checkpoint.", min=1)] = 1,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
    valid: Valid = False,
    wandb: Annotated[str | None, typer.Option(help="Also log to this project of Weights & Biases.")] = None,
    gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Evaluate all checkpoints of a training. What was evaluated already is kept; one table of all."""
    from computing.meeting import from_first
    from computing.tracking import finish_wandb
    from mmor.launch import divide
    from operating_room.errors import UserError
    from scene_graph_generation.inference import evaluate_all

    if (own := divide(gpus, part, device)) is None:
        return
    dataset = open_dataset(data, domain)
    samples = choose_samples(load_split(relations, split, dataset), take, limit, dataset.domain)
    truth = split_file(relations or dataset.root, split)
    name = _results_name(config, split, take, limit, dataset.domain, truth) + ("_valid" if valid else "")
    settings = config, split, dataset, batch_size, device, bits, max_new_tokens
    run = Evaluator(samples, truth, *settings, aside=True, own=own, valid=valid)
    if not own.together:
        evaluate_parts(run, evaluate_all.left_to_evaluate(folder, name, run.about, every))
        return
    if own.rank > 0:
        follow(run)
        return

    def evaluate(model: Path, results: Path) -> None:
        from_first((model, results))  # the others begin with it, too
        run(model, results)

    try:
        log = None if wandb is None else _wandb_log(wandb, f"{folder.name} {name}")
        table = evaluate_all.evaluate_all(folder, name, evaluate, run.about, every, log)
    except UserError:
        from_first(None)
        raise
    # After anything else this process ends, and the others with it: they may be waiting for its share.
    from_first(None)
    finish_wandb()
    typer.echo(evaluate_all.table(table.rows))
    typer.echo(f"table in {folder / f'{name}.csv'}")
    tell_notes(table.notes)
    finish(table.problems)


def compare(
    first: Annotated[Path, typer.Argument(help="Results JSON of `evaluate`.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same task.")],
    domain: Annotated[Path | None, typer.Option(help="A file, mmor or egoexor (default: mmor, with 4D-OR).")] = None,
) -> None:
    """Tell what changed between two evaluations. Also whether it is more than chance."""
    from operating_room.domain.domain import mmor
    from operating_room.scores.comparison import compare

    typer.echo(str(compare(first, second, chosen_domain(domain) or mmor())))


def _results_name(
    config: Config, split: str, takes: list[str] | None, limit: int | None, domain: Domain, truth: Path
) -> str:
    """Of a results file: that of some takes or timepoints, or by another file, never replaces that of the split."""
    other = [] if truth.name == split_file(Path(), split).name else [truth.stem]
    parts = [str(config), split, *other, *sorted({domain.find_take(name).name for name in takes or ()})]
    return "_".join(parts if limit is None else [*parts, f"first{limit}"])


def _wandb_log(project: str, name: str) -> Callable[[tuple[Any, ...]], None]:
    """Logs rows of the table."""
    from computing.tracking import check_wandb
    from scene_graph_generation.inference.evaluate_all import COLUMNS

    check_wandb("--wandb")
    import wandb

    run = wandb.init(project=project, name=name)

    def log(row: tuple[Any, ...]) -> None:
        step, *scores = row
        # The final model has no step of its own: it is logged behind the last checkpoint.
        known = {name: score for name, score in zip(COLUMNS[1:], scores) if score is not None}
        run.log(known, step=step if isinstance(step, int) else None)

    return log
