"""`mmor data`: what is on disk, relation files, simulated takes; imports are in `data_import`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmor.cli import data_import
from mmor.cli.options import (
    CPUS,
    DATA_FOLDER,
    Data,
    DomainFile,
    Takes,
    chosen_domain,
    open_dataset,
    open_takes,
    parse_size,
    tell_notes,
)
from operating_room.errors import UserError, one_line

if TYPE_CHECKING:
    from operating_room.recordings.dataset import Dataset
    from operating_room.recordings.take import RecordedTake

app = typer.Typer(help="What is on disk; simulated takes; relation files; imports.", no_args_is_help=True)
app.add_typer(data_import.app, name="import")

Root = Annotated[Path, typer.Argument(help=DATA_FOLDER)]


@app.command("check")
def check(
    root: Root = Path("data"),
    domain: DomainFile = None,
    take: Annotated[
        list[str] | None,
        typer.Option(help="Only this take, or the takes of this split; repeat for several (default: all on disk)."),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(help="File of persons by take and role: tell who is on both sides of a split."),
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Only this: by how much the cameras of a take disagree in depth.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tell what is on disk and what is wrong with it. Exit code: 0 complete, 1 gaps, 2 broken files.

    Takes that are not there are gaps if their split is asked for, else they are only noted.
    With --calibration the exit code is 1 if something could not be measured.
    """
    if calibration and people is not None:
        raise UserError("--calibration looks at nothing else; leave out --people, or look for them apart")
    if calibration:
        _check_calibration(open_dataset(root, domain), take, as_json)
    from dataclasses import replace

    from operating_room.doctor import checkup as doctor
    from operating_room.domain.people import people_of_splits, read_people

    dataset = open_dataset(root, domain)
    known = () if people is None else tuple(people_of_splits(read_people(people, dataset.domain), dataset.domain))
    report = replace(doctor.check(dataset, take), people=known)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else str(report))
    raise typer.Exit(report.exit_code)


def _check_calibration(dataset: Dataset, names: list[str] | None, as_json: bool) -> None:
    from operating_room.doctor.calibration import check_calibration

    found = check_calibration(dataset, dataset.choose(names))
    typer.echo(json.dumps([take.to_json() for take in found], indent=1) if as_json else "\n".join(map(str, found)))
    raise typer.Exit(1 if any(take.problems for take in found) else 0)


@app.command("show")
def show(
    take: Annotated[str, typer.Argument(help="Name of the take.")],
    frame: Annotated[str, typer.Argument(help="Position of the timepoint in the take's index, like 12 or 000012.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Put the memory of the labelled graphs before it into the prompt.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show all that belongs to one timepoint.

    Every file and what is wrong with it, prompt, scene graph and downstream labels.

    Exit code: 0 all there is can be read, 2 something is broken.
    """
    from operating_room.doctor.contents import contents, describe

    recorded = _recorded(data, domain, take)
    found = contents(recorded, frame, memory)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else describe(found, recorded.root.parent))
    raise typer.Exit(2 if found.problems else 0)


@app.command("table")
def table(
    take: Annotated[str, typer.Argument(help="Name of the take.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    out: Annotated[Path | None, typer.Option(help="CSV file (default: print it).")] = None,
) -> None:
    """Write as CSV which labels belong to which picture.

    A row for each picture of a take. Masks and pictures share a frame number; the scene-graph label is that of the
    timepoint. A file that is not there is an empty cell.
    """
    import csv
    from io import StringIO

    from operating_room.doctor.contents import COLUMNS, picture_table
    from operating_room.files.atomic import require_own, write_text

    if out is not None:
        require_own(out, ",".join(COLUMNS), "such table")
    recorded = _recorded(data, domain, take)
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(picture_table(recorded, recorded.root.parent))
    if out is None:
        typer.echo(text.getvalue(), nl=False)
    else:
        write_text(out, text.getvalue())
        typer.echo(f"{text.getvalue().count(chr(10)) - 1} pictures in {out}", err=True)


@app.command("stats")
def stats(
    root: Root = Path("data"),
    domain: DomainFile = None,
    take: Takes = None,
    page: Annotated[Path | None, typer.Option(help="Also write one HTML page with figures.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Also write a row for each number.")] = None,
) -> None:
    """Count seconds, triplets, predicates, gaps, pixels. Predicates also over time and together.

    Exit code: 1 if a file could not be read; it is named and left out.
    """
    from operating_room.doctor.statistics import statistics
    from operating_room.files.atomic import require_folder, require_own, write_json, write_text

    head = ("of", "kind", "what", "number", "value")
    kinds = (
        (page, "<!doctype html>", "page"),
        (as_json, '{\n "total"', "statistics"),
        (as_csv, ",".join(head), "table"),
    )
    for path, begins, what in kinds:
        if path is not None:
            require_own(path, begins, what)  # before all masks are read
            require_folder(path.parent)
    given = [path for path, *_ in kinds if path is not None]
    if len({os.path.realpath(path) for path in given}) < len(given):
        raise UserError("--page, --json and --csv: name the same file twice; give each a file of its own")
    dataset, takes = open_takes(root, domain, take)
    found = statistics(dataset, takes)
    typer.echo(str(found))
    if as_json is not None:
        write_json(as_json, found.to_json(), indent=1)
    if as_csv is not None:
        import csv
        from io import StringIO

        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(row for each in (found.total, *found.takes) for row in each.rows())
        write_text(as_csv, text.getvalue())
    if page is not None:
        from mmor.stats_page import write_page

        write_page(page, found, f"{dataset.domain.name}: {len(found.takes)} takes")
    raise typer.Exit(1 if found.total.problems else 0)


def _recorded(data: Path, domain: Path | None, take: str) -> RecordedTake:
    dataset = open_dataset(data, domain)
    return dataset.take(dataset.named(take))


@app.command("convert-relations")
def convert_relations(
    root: Root = Path("data"),
    domain: DomainFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files (default: the data folder, where --relations looks).")
    ] = None,
) -> None:
    """Make relationships_*.json out of the raw labels.

    Of train, validation and test, each for the takes that are there; also classes.txt and relationships.txt. What files
    of these names have of other takes stays.
    """
    from operating_room.recordings.conversion import convert

    dataset = open_dataset(root, domain)
    conversion = convert(dataset, out or dataset.root)
    for path in conversion.written:
        typer.echo(path)
    tell_notes(conversion.notes)
    for problem in conversion.problems:
        typer.echo(f"left out: {one_line(problem)}", err=True)
    raise typer.Exit(1 if conversion.problems else 0)


@app.command("synthesize")
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder that gets MM-OR_data and 4D-OR_data, or the takes of --domain.")],
    take: Annotated[list[str] | None, typer.Option(help="Take or split (default: test); repeat for several.")] = None,
    seconds: Annotated[
        int,
        typer.Option(
            help="Length of each take: 40 or more in MM-OR and 4D-OR without --relations, whose timepoints are 1 s "
            "apart.",
            min=1,
            max=100_000,
        ),
    ] = 60,
    domain: Annotated[
        Path | None,
        typer.Option(help="Takes of the room that this domain describes, in the house layout: a file, or egoexor."),
    ] = None,
    layout: Annotated[
        Literal["house", "egoexor-hdf5"] | None,
        typer.Option(help="Of the takes of --domain: house, or egoexor-hdf5, files like those of EgoExOR."),
    ] = None,
    period: Annotated[
        float | None, typer.Option(help="With a domain: s between timepoints (default: as the domain says).", min=0.001)
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    size: Annotated[str, typer.Option(help="Width x height of the pictures in px.")] = "320x240",
    workers: Annotated[int, typer.Option(help="Processes at most (fewer where memory is short).", min=1)] = CPUS,
    relations: Annotated[
        Path | None,
        typer.Option(help="Render the graphs of this relationships_*.json (the stretch with most predicates)."),
    ] = None,
    without_room_cameras: Annotated[list[str] | None, typer.Option(help="Fault: a take without room cameras.")] = None,
    without_cameras: Annotated[list[str] | None, typer.Option(help="Fault: a take without any picture.")] = None,
    without_tracker: Annotated[list[str] | None, typer.Option(help="Fault: a take without tracker file.")] = None,
    missing_frames: Annotated[float, typer.Option(help="Fault: share of single files that are lost.", min=0)] = 0.0,
    mask_stride: Annotated[int, typer.Option(help="Only every n-th timepoint has label masks.", min=1)] = 1,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also camera files and depth pictures of the room cameras.")
    ] = False,
    news: Annotated[
        bool, typer.Option("--news", help="A richer room: each modality has something that only it tells.")
    ] = False,
    breaches: Annotated[
        int | None,
        typer.Option(help="How often somebody breaks sterility (MM-OR; default: about once in 2 min).", min=0),
    ] = None,
) -> None:
    """Write simulated takes in the published layout. A finished take is left as it is; an interrupted one is redone."""
    if domain is not None or layout is not None:
        faulty = without_room_cameras or without_cameras or without_tracker or missing_frames
        if relations or faulty or calibration or news or breaches is not None:
            raise UserError(
                "--relations, --without-..., --missing-frames, --calibration, --news and --breaches are of MM-OR and "
                "4D-OR; leave out --domain"
            )
        count = _synthesize_rooms(out, take, seconds, seed, size, workers, domain, layout, period, mask_stride)
        typer.echo(f"{count} takes are in {out}")
        return
    if period is not None:
        raise UserError("--period goes with --domain; timepoints of MM-OR and 4D-OR are 1 s apart")
    if relations is not None and breaches is not None:
        raise UserError("--breaches: what happens is what --relations says; leave one of them out")
    from operating_room.domain.stored import require_visible
    from operating_room.graphs.graph_files import load_samples
    from operating_room_simulator import writer
    from operating_room_simulator.story import annotated, story

    faults = writer.Faults(
        no_room_cameras=tuple(without_room_cameras or ()),
        no_cameras=tuple(without_cameras or ()),
        no_tracker=tuple(without_tracker or ()),
        missing_frames=missing_frames,
    )
    takes = writer.named_takes(take or ["test"])
    require_visible(out, {each.dataset for each in takes})
    if relations is None:
        surgeries = [story.script_surgery(each, seed, seconds, news, breaches) for each in takes]
    else:
        samples = load_samples(relations)
        surgeries = [annotated.annotated_surgery(each, samples, seed, seconds, news) for each in takes]
    writer.write_takes(
        out,
        surgeries,
        size=parse_size(size),
        workers=workers,
        faults=faults,
        mask_stride=mask_stride,
        calibration=calibration,
    )
    typer.echo(f"{len(surgeries)} takes are in {out}")


def _synthesize_rooms(
    out: Path,
    names: list[str] | None,
    seconds: int,
    seed: int,
    size: str,
    workers: int,
    domain: Path | None,
    layout: Literal["house", "egoexor-hdf5"] | None,
    period: float | None,
    mask_stride: int,
) -> int:
    """Write takes of any domain; how many there are."""
    from operating_room.domain.collection import SEPARATED_SPLITS
    from operating_room.domain.domain import bundled
    from operating_room.domain.slips import takes_to_make
    from operating_room_simulator.any_room import hdf5, house, story

    if domain is None and layout == "house":
        raise UserError("--layout house needs --domain: whose takes?")
    if layout == "egoexor-hdf5" and mask_stride != 1:
        raise UserError("--mask-stride: files like EgoExOR's hold no masks; leave it out")
    room = chosen_domain(domain) or bundled("egoexor")
    if not names:
        raise UserError("--domain needs --take NAME, once for each take")
    if absent := [name for name in names if name in SEPARATED_SPLITS and name not in room.splits]:
        raise UserError(f"domain {room.name} has no split {absent[0]!r}; give the names of takes")
    given = takes_to_make(names, room)
    takes = [
        take for name in given for take in (room.split_takes(name) if name in room.splits else [room.find_take(name)])
    ]
    stories = [story.tell(room, take, seed, seconds, period) for take in dict.fromkeys(takes)]
    if layout == "egoexor-hdf5":
        hdf5.write_files(out, stories, parse_size(size))
    else:
        house.write_takes(out, stories, parse_size(size), workers, mask_stride)
    return len(stories)


@app.command("people")
def people(
    file: Annotated[Path, typer.Argument(help="Persons by take and role (mmor_human_names_per_take_anonymized.json).")],
    domain: DomainFile = None,
    data: Annotated[Path | None, typer.Option(help="Data folder, for a domain.yaml and splits.yaml in it.")] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="Only people in this role count; repeat for several (default: all).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a domain file whose splits share nobody; give it as --domain to any command."),
    ] = None,
) -> None:
    """Tell who is on both sides of a split.

    With --out, make splits that share nobody. Takes only ever leave a split. Models know nothing of splits, so those of
    the domain go with the new file.
    """
    from operating_room.domain.domain import mmor
    from operating_room.domain.people import disjoint_splits, people_of_splits, people_table, read_people
    from operating_room.domain.stored import DOMAIN_FILE
    from operating_room.files.atomic import require_own, write_text

    for read in (file, domain, None if data is None else data / DOMAIN_FILE):
        if out is not None and read is not None and os.path.realpath(out) == os.path.realpath(read):
            raise UserError(f"{out}: is read here and would be replaced; choose another --out")
    if out is not None:
        require_own(out, "name:", "domain file")
    room = open_dataset(data, domain).domain if data is not None else chosen_domain(domain) or mmor()
    persons = read_people(file, room)
    typer.echo("\n".join(people_table(people_of_splits(persons, room))))
    if out is None:
        return
    made = disjoint_splits(persons, room, tuple(role or ()))
    write_text(out, made.domain.to_yaml())
    typer.echo("")
    for split, names in made.kept.items():
        typer.echo(f"{split}: {', '.join(names) or 'nothing'}")
    for name, why in made.left_out.items():
        typer.echo(f"left out: {name} {why}", err=True)
    for title in made.untold:
        typer.echo(f"note: {file.name} names nobody of {title}; its splits are as they were", err=True)
    typer.echo(f"{out}: domain with these splits; give it as --domain, and convert the relations anew with it")
