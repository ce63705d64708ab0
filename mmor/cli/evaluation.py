"""`mmor scene-graph infer | evaluate | evaluate-all`: generate the scene graphs of takes, score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmor.cli.options import (
    MODEL,
    Bits,
    BitsOption,
    Data,
    Device,
    DomainFile,
    Limit,
    MaxNewTokens,
    Relations,
    ScoredTakes,
    Split,
    Takes,
    choose_samples,
    chosen_domain,
    finish,
    load_split,
    open_dataset,
    open_takes,
    split_file,
)

if TYPE_CHECKING:
    from operating_room.domain.domain import Domain
    from operating_room.graphs.scene_graph import Sample
    from operating_room.recordings.dataset import Dataset
    from scene_graph_generation.inference.evaluate import Evaluation
    from scene_graph_generation.inference.generator import SceneGraphGenerator

app = typer.Typer()  # its commands are commands of `mmor scene-graph`


class Config(StrEnum):
    """The published configurations of the evaluation."""

    MMOR = "mmor"
    MMOR_TEMPORAL_PRED = "mmor_temporal_pred"


ConfigOption = Annotated[
    Config,
    typer.Option(
        parser=lambda name: Config(str(name).removesuffix(".json")),
        metavar="|".join(Config),
        help="mmor: without memory; mmor_temporal_pred: with the memory of the take's own predictions.",
    ),
]


class Roles(StrEnum):
    """Who asks and who answers, as the conversation calls them."""

    AS_TRAINED = "as_trained"
    AS_EVALUATED = "as_evaluated"

    @property
    def names(self) -> tuple[str, str]:
        """In the conversation; EgoExOR's published evaluator asks with other ones than its training."""
        return ("USER", "ASSISTANT") if self == Roles.AS_TRAINED else ("human", "gpt")


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
) -> None:
    """Generate the scene graphs of whole takes. A run that was interrupted is continued."""
    from scene_graph_generation.inference.generator import check_sees
    from scene_graph_generation.inference.infer import answers_path, first_frames, infer, seen_of

    answers_path(out)  # refuses an unusable name before a model is loaded
    dataset, takes = open_takes(data, domain, take)
    generator = load_generator(model, dataset.domain, device, bits, batch_size, max_new_tokens, roles.names)
    check_sees(generator, model)
    predictions = infer(generator, dataset, first_frames(dataset, takes, limit), out, memory, batch_size)
    seen = seen_of(generator, dataset, predictions, takes, memory)
    typer.echo(str(seen))
    typer.echo(f"{len(predictions)} scene graphs in {out}")
    _tell(seen.warnings())


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
            "evaluation/checkpoint-N/CONFIG_SPLIT.json beside it)."
        ),
    ] = None,
    batch_size: BatchSize = 8,
    device: Device = None,
    bits: BitsOption = None,
    roles: RolesOption = Roles.AS_TRAINED,
) -> None:
    """Score a model or a predictions file. A run that was interrupted is continued."""
    from operating_room.errors import UserError
    from scene_graph_generation.inference.evaluate import evaluate_file, require_results
    from scene_graph_generation.inference.evaluate_all import results_path

    if out is not None:
        require_results(out)
    if (model_path is None) == (predictions is None):
        raise UserError("evaluate needs either --model-path FOLDER or --predictions FILE")
    dataset = open_dataset(data, domain)
    samples = choose_samples(load_split(relations, split, dataset), take, limit, dataset.domain)
    truth = split_file(relations or dataset.root, split)
    if predictions is not None:
        evaluation = evaluate_file(samples, predictions, dataset.domain, out, truth)
    else:
        assert model_path is not None
        name = _results_name(config, split, take, limit, dataset.domain)
        name += "" if roles == Roles.AS_TRAINED else f"_{roles}"
        out = out or results_path(model_path, name)
        run = _Evaluator(samples, truth, config, split, dataset, batch_size, device, bits, max_new_tokens, roles=roles)
        evaluation = run(model_path, out)
    typer.echo(str(evaluation))
    if out is not None:
        typer.echo(f"results in {out}")
    _tell(evaluation.notes)
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
    wandb: Annotated[str | None, typer.Option(help="Also log to this project of Weights & Biases.")] = None,
) -> None:
    """Evaluate all checkpoints of a training. What was evaluated already is kept; one table of all."""
    from computing.tracking import finish_wandb
    from scene_graph_generation.inference import evaluate_all

    dataset = open_dataset(data, domain)
    name = _results_name(config, split, take, limit, dataset.domain)
    samples = choose_samples(load_split(relations, split, dataset), take, limit, dataset.domain)
    truth = split_file(relations or dataset.root, split)
    run = _Evaluator(samples, truth, config, split, dataset, batch_size, device, bits, max_new_tokens, aside=True)
    log = None if wandb is None else _wandb_log(wandb, f"{folder.name} {name}")
    table = evaluate_all.evaluate_all(folder, name, run, run.about, every, log)
    finish_wandb()
    typer.echo(evaluate_all.table(table.rows))
    typer.echo(f"table in {folder / f'{name}.csv'}")
    _tell(table.notes)
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


def load_generator(
    model: Path,
    domain: Domain,
    device: str | None,
    bits: Bits | None,
    batch_size: int,
    max_new_tokens: int,
    roles: tuple[str, str] = Roles.AS_TRAINED.names,
) -> SceneGraphGenerator:
    """The model of a folder on a device; says how much memory a batch can take beside it.

    Raises:
        UserError: there are several processes, which would write the same file; the model or the device is not there;
            or the model is of another domain than the data.
    """
    from computing.machine import choose_device
    from operating_room.domain.stored import require_domain
    from operating_room.errors import UserError
    from operating_room.work.processes import share
    from scene_graph_generation.inference.generator import SceneGraphGenerator, memory_note
    from scene_graph_generation.weights import precision
    from scene_graph_generation.weights.checkpoints import load_model

    if share().processes > 1:
        raise UserError(
            "answers are generated by one process; start it without torchrun, on several GPUs once for each: --device "
            "cuda:0 --take A --out a.json, --device cuda:1 --take B --out b.json"
        )
    chosen = choose_device(device)
    choices: dict[Bits | None, precision.Bits | None] = {None: None, "4": 4, "16": 16, "32": 32}
    require_domain(model, domain)
    loaded = load_model(model, bits=choices[bits], device=str(chosen))
    generator = SceneGraphGenerator(*loaded, str(chosen), max_new_tokens, domain, roles)
    if note := memory_note(generator, batch_size):
        typer.echo(f"note: {note}", err=True)
    return generator


@dataclass
class _Evaluator:
    """Evaluates a model folder into a results file."""

    samples: list[Sample]
    truth: Path  # the file they are from
    config: Config
    split: str
    dataset: Dataset
    batch_size: int
    device: str | None
    bits: Bits | None
    max_new_tokens: int
    roles: Roles = Roles.AS_TRAINED
    aside: bool = False  # texts of another model at the place of ours are put aside, not refused

    def __call__(self, model: Path, out: Path) -> Evaluation:
        from scene_graph_generation.inference.answers import put_aside
        from scene_graph_generation.inference.evaluate import evaluate_model
        from scene_graph_generation.inference.evaluate_all import weights_fingerprint
        from scene_graph_generation.inference.generator import check_sees
        from scene_graph_generation.inference.infer import about_answers, answers_path

        answers = answers_path(out)  # refuses an unusable name before a model is loaded
        generator = load_generator(
            model,
            self.dataset.domain,
            self.device,
            self.bits,
            self.batch_size,
            self.max_new_tokens,
            self.roles.names,
        )
        check_sees(generator, model)
        memory = self.config == Config.MMOR_TEMPORAL_PRED
        if self.aside:
            put_aside(answers, about_answers(generator, memory, self.batch_size))
        about = {
            "folder": str(model),
            "weights": weights_fingerprint(model),
            "bits": self.bits,
            "config": str(self.config),
            "split": self.split,
            **({} if self.roles == Roles.AS_TRAINED else {"roles": str(self.roles)}),
        }
        return evaluate_model(generator, self.dataset, self.samples, out, about, memory, self.batch_size, self.truth)

    def about(self, model: Path) -> Mapping[str, Any]:
        """What the results of a model folder must say of themselves to be those of this run."""
        from scene_graph_generation.inference.evaluate_all import weights_fingerprint

        settings = {"config": str(self.config), "split": self.split, "bits": self.bits}
        settings["max_new_tokens"] = self.max_new_tokens
        return {**settings, **self._data, "weights": weights_fingerprint(model)}

    @cached_property
    def _data(self) -> dict[str, Any]:
        from operating_room.scores.fingerprints import annotations_fingerprint, code_version, inputs_fingerprint

        return {
            "annotations": annotations_fingerprint(self.samples),
            "inputs": inputs_fingerprint(self.dataset, self.samples),
            "code": code_version(),
        }


def _results_name(config: Config, split: str, takes: list[str] | None, limit: int | None, domain: Domain) -> str:
    """Of a results file: that of some takes or timepoints never replaces that of the whole split."""
    parts = [str(config), split, *sorted({domain.find_take(name).name for name in takes or ()})]
    return "_".join(parts if limit is None else [*parts, f"first{limit}"])


def _tell(notes: list[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)


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
        run.log(dict(zip(COLUMNS[1:], scores)), step=step if isinstance(step, int) else None)

    return log
