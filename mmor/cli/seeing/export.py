"""`mmor export` and `mmor import`: takes in the formats of other tools, and corrected masks back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmor.cli.options import Data, DomainFile, finish, open_dataset, open_takes
from operating_room.work.processes import ended_as_by_ctrl_c

if TYPE_CHECKING:
    from operating_room.recordings.take import RecordedTake

app = typer.Typer(help="Takes in the formats of other tools.", no_args_is_help=True)
import_app = typer.Typer(help="What was corrected in other tools, back into a take.", no_args_is_help=True)

Takes = Annotated[list[str], typer.Argument(metavar="TAKE...", help="Takes or splits.")]
Out = Annotated[Path, typer.Option(help="Folder of the export; each take gets a file or folder of its name in it.")]
Predictions = Annotated[
    Path | None,
    typer.Option(help="Masks of stage 1 (OUT/inference/pan_pred) in place of annotated ones, to be corrected."),
]
Pictures = Annotated[bool, typer.Option("--pictures", help="Also copy the pictures.")]


@app.command("coco-panoptic")
def coco_panoptic(
    take: Takes,
    out: Out,
    data: Data = Path("data"),
    domain: DomainFile = None,
    predictions: Predictions = None,
    pictures: Pictures = False,
) -> None:
    """Masks as COCO panoptic. A panoptic.json, and PNGs whose pixels are segment ids."""
    from mmor.exports.coco_panoptic import export_coco_panoptic

    _export(data, domain, take, partial(export_coco_panoptic, out=out, predictions=predictions, pictures=pictures))


@app.command("cvat")
def cvat(
    take: Takes,
    out: Out,
    data: Data = Path("data"),
    domain: DomainFile = None,
    predictions: Predictions = None,
    pictures: Pictures = False,
) -> None:
    """Masks to be corrected in CVAT. In its form `Segmentation mask 1.1`; `mmor import masks` brings them back."""
    from mmor.exports.cvat import export_cvat

    _export(data, domain, take, partial(export_cvat, out=out, predictions=predictions, pictures=pictures))


@app.command("mcap")
def mcap(take: Takes, out: Out, data: Data = Path("data"), domain: DomainFile = None) -> None:
    """Everything of a take as one MCAP file. For Foxglove, rerun and FiftyOne. Pictures stay as stored."""
    from mmor.exports.mcap import export_mcap, require_mcap

    require_mcap()
    _export(data, domain, take, partial(export_mcap, out=out))


@app.command("rerun")
def rerun(take: Takes, out: Out, data: Data = Path("data"), domain: DomainFile = None) -> None:
    """Everything of a take as an .rrd file of rerun. With the names of classes and the graphs."""
    from mmor.exports.rerun import export_rerun, require_rerun

    require_rerun()
    _export(data, domain, take, partial(export_rerun, out=out))


@app.command("fiftyone")
def fiftyone(
    take: Takes, out: Out, data: Data = Path("data"), domain: DomainFile = None, pictures: Pictures = False
) -> None:
    """Pictures, masks and graphs for FiftyOne. A take is a FiftyOne dataset, in plain files."""
    from mmor.exports.fiftyone import export_fiftyone

    _export(data, domain, take, partial(export_fiftyone, out=out, pictures=pictures))


@import_app.command("masks")
def masks(
    source: Annotated[Path, typer.Argument(help="COCO panoptic folder or file, or an export of CVAT (zip or folder).")],
    take: Annotated[str, typer.Argument(help="Name of the take.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over annotated masks that differ.")] = False,
) -> None:
    """Write corrected masks as the label masks of a take.

    What does not fit - size, class, colour, a frame that the take does not have - is refused, and nothing is written
    then. Exit code: 1 if masks that differ were there and --replace was not given.
    """
    from mmor.exports.masks_back import import_masks

    dataset = open_dataset(data, domain)
    recorded = dataset.take(dataset.named(take))
    with ended_as_by_ctrl_c():  # an archive is unpacked first
        done = import_masks(recorded, source, replace)
    typer.echo(f"{len(done.written)} masks written, {done.unchanged} were so already")
    if done.kept:
        finish(
            [f"{len(done.kept)} masks differ from what is there and were kept ({done.kept[0]}, ...); give --replace"]
        )


def _export(data: Path, domain: Path | None, names: list[str], export: Callable[[RecordedTake], Path]) -> None:
    """Export takes one after the other, telling where each is; exit code 1 if one was left out."""
    from mmor.exports.frames import each_take

    dataset, takes = open_takes(data, domain, names)
    finish(each_take(dataset, takes, export, typer.echo))
