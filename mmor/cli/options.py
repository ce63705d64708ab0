"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from operating_room.errors import UserError, one_line
from operating_room.work.processes import Share, cpu_threads, is_first

if TYPE_CHECKING:
    from operating_room.domain.collection import Take
    from operating_room.domain.domain import Domain
    from operating_room.graphs.scene_graph import Sample
    from operating_room.recordings.dataset import Dataset

MODEL = "--model", "--model-path", "--model_path"  # published: the last
DATA_FOLDER = "Folder that holds MM-OR_data and/or 4D-OR_data."
Data = Annotated[Path, typer.Option(help=DATA_FOLDER)]
DomainFile = Annotated[
    Path | None,
    typer.Option(
        "--domain",
        help="Domain: a file, mmor or egoexor (default: domain.yaml in the data folder, else mmor, with 4D-OR).",
    ),
]
Takes = Annotated[list[str] | None, typer.Option(help="Take or split; repeat for several (default: all on disk).")]
Relations = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the relationships_*.json files (default: the data folder, as convert-relations), or one file."
    ),
]
Split = Annotated[str, typer.Option(help="train, val, test, or own (takes in no published list).")]
ScoredTakes = Annotated[
    list[str] | None, typer.Option("--take", help="Score this take of the split only; repeat for several.")
]
Limit = Annotated[int | None, typer.Option(help="Only the first N timepoints of each take, for a first try.", min=1)]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens of an answer at most (published: 300).", min=1)]
Workers = Annotated[int, typer.Option(help="Processes that prepare and compare ground truth.", min=1)]
CPUS = cpu_threads()
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")]
Bits = Literal["4", "16", "32"]
BitsOption = Annotated[Bits | None, typer.Option(help="Of the weights (default: 16; 32 for a small model on a CPU).")]
Valid = Annotated[
    bool, typer.Option("--valid", help="Answers are made to be scene graphs of the domain; a valid one stays as it is.")
]
# Of the commands that write training samples.
SamplesFolder = Annotated[
    Path | None, typer.Option(help="Folder for the training JSON (default: llava_samples in the data folder).")
]
SkipBadSamples = Annotated[
    bool, typer.Option("--skip-bad-samples", help="Go on without samples that cannot be used, and count them.")
]
Seed = Annotated[int, typer.Option(help="Of all random draws.")]
# Of both commands that train stage 2: published options go through, and any may be spelled with - or _.
TRAINING_OPTIONS = {"ignore_unknown_options": True, "token_normalize_func": lambda name: name.replace("_", "-")}


class TrainingCommand(TyperCommand):
    """Takes True and False behind a flag of ours, too, as behind the published options: --skip-bad-samples True."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Called by typer; a value that was left behind would become that of a published option before the flag."""
        flags = {name for option in self.params if getattr(option, "is_flag", False) for name in option.opts}
        words, others, on = list(args), list[str](), dict[str, bool]()
        while words:
            word = words.pop(0)
            name, sign, value = word.partition("=")
            name = name.replace("_", "-")
            if not sign and words and words[0].lower() in ("true", "false"):
                value = words[0]
            if name not in flags or value.lower() not in ("", "true", "false"):
                others.append(word)
                continue
            if value and not sign:
                del words[0]
            on[name] = value.lower() != "false"  # of one that is repeated the last holds
        return super().parse_args(ctx, [*(name for name, given in on.items() if given), *others])


# None: as in the experiment file.
TrainedModel = Annotated[Path | None, typer.Option(help="Folder of the model.")]
TrainingData = Annotated[Path | None, typer.Option(help=DATA_FOLDER)]
# Of all commands that can be divided; published: the second name.
Gpus = Annotated[
    int,
    typer.Option("--gpus", "--num-gpus", help="Processes on this machine, one per GPU; torchrun does as well.", min=1),
]
Part = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Do this share only, as one of N jobs; run it without to collect what they did."),
]


def open_dataset(data: Path, domain: Path | None) -> Dataset:
    """The dataset of a folder, in the domain of a file or in that of the folder."""
    from operating_room.recordings.dataset import Dataset

    return Dataset(data, chosen_domain(domain))


def chosen_domain(path: Path | None) -> Domain | None:
    """The domain of a file or name, if one is given."""
    from operating_room.domain.domain import find_domain

    return None if path is None else find_domain(path)


def open_takes(data: Path, domain: Path | None, names: list[str] | None) -> tuple[Dataset, list[Take]]:
    """The dataset and the chosen takes on disk; a split means those of its takes that are there."""
    dataset = open_dataset(data, domain)
    return dataset, dataset.choose(names)


def load_split(relations: Path | None, split: str, dataset: Dataset) -> list[Sample]:
    """The samples of a split whose takes are on disk."""
    from operating_room.files.readers import require
    from operating_room.graphs.graph_files import load_samples
    from operating_room.recordings.conversion import changes_since

    path = split_file(relations or dataset.root, split)
    on_disk = {take.sample_name for take in dataset.takes()}
    if relations is None and not path.exists() and not dataset.select(split):
        raise UserError(f"{path}: no such file, and no take in {dataset.root} is of the split {split}; choose another")
    convert = f"`mmor data convert-relations {shlex.quote(str(dataset.root))}`"
    require(path, f"give its folder as --relations, or {convert}")
    found = load_samples(path)
    if not found:
        raise UserError(f"{path}: holds no timepoint; make it again with {convert} once a take of {split} has labels")
    absent = list(dict.fromkeys(sample.take_name for sample in found if sample.take_name not in on_disk))
    if absent and is_first():
        typer.echo(f"note: {len(absent)} takes of {path.name} are not in {dataset.root}: {', '.join(absent)}", err=True)
    is_own = relations is None or relations.resolve() == dataset.root.resolve()  # another may differ on purpose
    if is_own and is_first() and (changes := changes_since(dataset, split, path, found)):
        typer.echo(f"note: {path} {changes}; {convert} makes it anew", err=True)
    samples = [sample for sample in found if sample.take_name in on_disk]
    if not samples:
        raise UserError(f"{path}: none of its takes is in {dataset.root}; unpack or simulate one of the split {split}")
    return samples


def samples_folder(chosen: Path | None, root: Path) -> Path:
    """The folder for training samples: one of the published name in that of the dataset, if none is chosen."""
    return chosen or root / "llava_samples"


def split_file(relations: Path, split: str) -> Path:
    """The file with the samples of a split in a folder; or the one that was given.

    Raises:
        UserError: there is no such split, or the file is that of another one by its name.
    """
    from operating_room.domain.domain import OWN
    from operating_room.graphs.graph_files import SPLIT_NAMES

    names = SPLIT_NAMES | {OWN: OWN}
    if relations.is_file():
        of = next((name for name, called in names.items() if relations.name == f"relationships_{called}.json"), split)
        if of != split:  # what is made of it would be called after the wrong one
            raise UserError(f"{relations}: is of the split {of}, not of {split}; add --split {of}")
        return relations
    if split not in names:
        raise UserError(f"split {split!r} has no relations file; choose one of {', '.join(names)}")
    return relations / f"relationships_{names[split]}.json"


def choose_samples(samples: list[Sample], takes: list[str] | None, limit: int | None, domain: Domain) -> list[Sample]:
    """Those of the named takes, or of all, in the order of time; the first `limit` of each.

    Raises:
        UserError: a take has no sample here, or is a split.
    """
    from operating_room.domain.domain import OWN
    from operating_room.domain.slips import nearly
    from operating_room.graphs.graph_files import SPLIT_NAMES
    from operating_room.graphs.scene_graph import by_take

    there = by_take(samples)
    if split := next((name for name in takes or () if name in (*SPLIT_NAMES, OWN)), None):
        raise UserError(f"--take {split}: is a split; give --split {split}, of which all takes are scored")
    wanted = list(there) if takes is None else [domain.find_take(name).sample_name for name in takes]
    if missing := [name for name in wanted if name not in there]:
        told = f"take {missing[0]} is not among those of this split on disk{nearly(missing[0], there)}"
        raise UserError(f"{told}: {', '.join(there)}")
    return [sample for name in dict.fromkeys(wanted) for sample in there[name][:limit]]


def experiment_file(path: Path) -> Path:
    """An experiment file of the user's, or of those that come with the software, which is said then."""
    from computing.experiments import find_experiment

    found = find_experiment(path)
    if found != path:
        typer.echo(f"note: {path} is not there; taking {found}, which comes with the software", err=True)
    return found


def segmenter_file(path: Path | None) -> Path:
    """The experiment file of a segmenter: the small one, if none is given."""
    from computing.experiments import CONFIGS

    return CONFIGS / "panoptic" / "small.yaml" if path is None else experiment_file(path)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in px of `320x240`.

    Raises:
        UserError: the text has another form, or no picture has such a size.
    """
    from operating_room.files.picture_files import MAX_PIXELS, MAX_SIDE

    width, _, height = text.partition("x")
    is_size = all(side.isdecimal() and len(side) < 10 and 0 < int(side) <= MAX_SIDE for side in (width, height))
    if not is_size or int(width) * int(height) > MAX_PIXELS:
        told = f"write width x height, for example 320x240, of 1 to {MAX_SIDE} px and {MAX_PIXELS} px in all at most"
        raise UserError(f"size {text[:40]!r}: {told}")
    return int(width), int(height)


def note_left_out(own: Share, problems: Sequence[str]) -> None:
    """What a job of an array has left out: the run that collects tries again. Other processes say nothing."""
    for problem in () if own.together else problems:
        typer.echo(f"note: {one_line(problem)}", err=True)


def tell_part_done(own: Share) -> None:
    """How to go on after a job of an array; other processes say nothing."""
    if not own.together:
        typer.echo(
            f"part {own.rank + 1} of {own.processes} is done; when all are, run the same command without --part: it "
            "collects, and does what is missing"
        )


def tell_notes(notes: Sequence[str]) -> None:
    """What is to be known before results are believed."""
    for note in notes:
        typer.echo(f"note: {one_line(note)}", err=True)


def finish(problems: Sequence[str]) -> None:
    """Tell the problems of what was left out; exit code 1 if there are any."""
    for problem in problems:
        for line in problem.split("\n"):  # as of an error that ends the command
            typer.echo(f"error: {one_line(line)}", err=True)
    if problems:
        raise typer.Exit(1)
