"""`mmor scene-graph`: from prepared takes to scene graphs and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmor.cli import evaluation as cli_evaluation
from mmor.cli import preprocess as cli_preprocess
from mmor.cli.options import (
    TRAINING_OPTIONS,
    DomainFile,
    Gpus,
    SkipBadSamples,
    TrainedModel,
    TrainingCommand,
    TrainingData,
    experiment_file,
    open_dataset,
)
from mmor.launch import note_tasks, start_processes
from operating_room.work.processes import is_first, is_started, machines, share

if TYPE_CHECKING:
    from scene_graph_generation.config.published_options import Options

app = typer.Typer(help="Scene graphs: prepare, train, generate, score.", no_args_is_help=True)
app.add_typer(cli_preprocess.app)
app.add_typer(cli_evaluation.app)


@app.command("train", cls=TrainingCommand, context_settings=TRAINING_OPTIONS)
def train(
    options: Annotated[list[str] | None, typer.Argument(help="Options of the published commands.")] = None,
    samples: Annotated[
        list[Path] | None, typer.Option(help="Training JSON, from `mmor scene-graph samples`; may be repeated.")
    ] = None,
    out: TrainedModel = None,
    config: Annotated[
        Path | None, typer.Option(help="Experiment file (default: small.yaml; a published command needs none).")
    ] = None,
    data: TrainingData = None,
    domain: DomainFile = None,
    gpus: Gpus = 1,
    skip_bad_samples: SkipBadSamples = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would happen: sizes, memory, steps, files, inputs.")
    ] = False,
) -> None:
    """Train a model. A training that was interrupted goes on from its last checkpoint in --out.

    All options of the published training commands are accepted as they are written there, and some of ours:
    --max_steps N, --pretrain_steps N (of small.yaml, which come first), --learning_rate X, --save_steps N,
    --report_to wandb, --seed N, ... (docs/training.md).
    """
    files = {"samples": samples, "out": out, "data": data, "domain": domain}
    train_model(options or [], config, "small.yaml", files, gpus, skip_bad_samples, dry)


def train_model(
    words: Sequence[str],
    config: Path | None,
    default: str,
    files: Mapping[str, Path | Sequence[Path] | None],
    gpus: int,
    skip_bad_samples: bool,
    dry: bool,
) -> None:
    """Train what an experiment file and the options of a published command say, or only say what would happen.

    Args:
        words: options of a published command.
        config: the experiment file; None: `default`, or nothing but the options if they are a whole published command.
        default: name of a file in configs/scene_graph.
        files: what `FilesConfig` names -> value; None leaves it as it is.
        gpus: processes.
        skip_bad_samples: go on without them.
        dry: train nothing.

    Raises:
        UserError: the training cannot start.
    """
    from operating_room.errors import UserError
    from scene_graph_generation.config.mapping import with_setting

    read = read_training(words, config, default, files)
    experiment = read.experiment
    if skip_bad_samples:
        experiment = with_setting(experiment, "train.skip_bad_samples", True, "--skip-bad-samples")
    if is_first():
        for note in read.notes:
            typer.echo(note, err=True)
    if dry:
        from scene_graph_generation.training.dry_run import dry_run

        # A start by torchrun, on several machines perhaps, knows of all processes; --gpus are those of this machine.
        report = dry_run(experiment, *((share().processes, machines()) if is_started() else (gpus, 1)))
        if not is_first():
            return
        typer.echo(report.text)
        if report.problems:
            raise UserError(f"training would not start: {len(report.problems)} problems, see above")
        return
    from scene_graph_generation.training.requirements import output_folder
    from scene_graph_generation.training.resuming import already_done
    from scene_graph_generation.training.train import train

    out = output_folder(experiment)
    if done := already_done(experiment, experiment.files.samples, out):
        if is_first():
            typer.echo(done)
        return
    note_tasks()
    if gpus > 1 and not is_started():
        start_processes(gpus)
        return
    dataset = open_dataset(experiment.files.data, experiment.files.domain)
    train(experiment, experiment.files.samples, dataset, out)
    if is_first():
        typer.echo(f"model in {out}")


def read_training(
    words: Sequence[str], config: Path | None, default: str, files: Mapping[str, Path | Sequence[Path] | None]
) -> Options:
    """The training that `train_model` is asked for, and what to tell the user about it.

    Raises:
        UserError: an option or the experiment file is wrong.
    """
    from computing.experiments import CONFIGS
    from scene_graph_generation.config.mapping import with_setting
    from scene_graph_generation.config.published_options import BASE, read_options
    from scene_graph_generation.config.settings import read_experiment

    published = any(word.lstrip("-").replace("-", "_").startswith(BASE) for word in words)
    file = CONFIGS / "scene_graph" / default if config is None else experiment_file(config)
    read = read_options(words, None if published and config is None else read_experiment(file))
    experiment = read.experiment
    for name, value in files.items():
        if value:
            experiment = with_setting(experiment, f"files.{name}", value, f"--{name}")
    return replace(read, experiment=experiment)
