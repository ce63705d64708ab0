"""What exports share: the masks of a take with a name for each, several takes one after the other, folders, room.

A picture is called `<take>/<camera>/<name of its file>` in every export: pictures of two takes or two cameras may have
one name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from operating_room.domain.collection import Take
from operating_room.domain.labels import Labels, has_other_colors
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_folder, write_json
from operating_room.files.picture_files import picture_size
from operating_room.files.readers import check_picture, read_bytes, read_json, read_label_mask, read_picture
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.masks import predicted_pictures, predictions_origin
from operating_room.recordings.take import RecordedTake

BACKGROUND = 0  # the pixel value of what no category is drawn on
WRITTEN = ".export.json"  # in a folder that an export wrote: which export, and the state of each file


@dataclass(frozen=True)
class MaskedPicture:
    """A picture with its mask."""

    take: str
    camera: str
    picture: Path
    mask: Path  # a label mask; of a prediction a class-colour picture
    is_predicted: bool = False

    @property
    def name(self) -> str:
        """`001_PKA/1/camera01_colorimage-000100`."""
        return f"{self.take}/{self.camera}/{self.picture.stem}"

    def labels(self, labels: Labels) -> UInt8[np.ndarray, "height width"]:
        """The raw label of each pixel of the picture, in whose size a mask is that is to be corrected over it.

        Raises:
            UserError: mask or picture is damaged, or the mask has a label or colour that the domain does not know.
        """
        size = picture_size(self.picture)
        if self.is_predicted:  # in the size that the model predicts
            picture = read_picture(self.mask)
            mask = labels.colors_to_labels(picture)
            if has_other_colors(picture, mask):
                raise UserError(
                    f"{self.mask}: has colours of no class of the domain; give the folder of class colours, unblended "
                    "(inference/pan_pred in the --out of `mmor panoptic predict`)"
                )
            return in_size(mask, size)
        mask = read_label_mask(self.mask)
        known = {*labels.labels.tolist(), *labels.mistakes, BACKGROUND}
        if unknown := sorted(set(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - known):
            raise UserError(
                f"{self.mask}: has labels that are in no table: {', '.join(map(str, unknown))}; export the mask again, "
                "or add them to the domain"
            )
        return in_size(mask, size)


def in_size(mask: UInt8[np.ndarray, "height width"], size: tuple[int, int]) -> UInt8[np.ndarray, "height2 width2"]:
    """A label mask in another size (width and height in px), nearest pixel; as it is where it has that one."""
    if mask.shape == size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def masked_pictures(recorded: RecordedTake, predictions: Path | None = None) -> list[MaskedPicture]:
    """The pictures of a take that are there with an annotated mask, or with a predicted one, in the order of time.

    Each once: an index may name one picture at two timepoints, where a camera was slow.

    Args:
        recorded: the take.
        predictions: the folder with stage 1's class-colour pictures (`inference/pan_pred`); None is what is annotated.

    Raises:
        UserError: there is none, the take's index is missing or damaged, or the masks are of another domain.
    """
    found, take = [], recorded.take.name
    if predictions is None:
        for timepoint in recorded.timepoints:
            masks, views = timepoint.several("label_masks"), timepoint.views
            found += [MaskedPicture(take, c, views[c], masks[c]) for c in masks if c in views]
    else:
        if not predictions.is_dir():
            raise UserError(
                f"{predictions}: no such folder; give inference/pan_pred in the --out of `mmor panoptic predict`"
            )
        predictions_origin(predictions, recorded.domain)
        videos = {name: predicted_pictures(predictions, recorded.take, name) for name in recorded.collection.camera}
        for timepoint in recorded.timepoints:
            for name, picture in timepoint.views.items():
                if (mask := videos[name].get(picture.stem)) is not None:
                    found.append(MaskedPicture(take, name, picture, mask, is_predicted=True))
    if not found:
        what = "an annotated mask" if predictions is None else f"a mask in {predictions}"
        raise UserError(f"{recorded.root}: take {take} has no picture with {what}; choose another take")
    return list(dict.fromkeys(found))


def masks_to_export(
    recorded: RecordedTake, out: Path, predictions: Path | None, pictures: bool
) -> tuple[list[MaskedPicture], Path]:
    """The masks of a take (see `masked_pictures`), and the folder `out/<take>`, for which there is room.

    Raises:
        UserError: there is no mask, no room on the disk, or no usable index.
    """
    found, target = masked_pictures(recorded, predictions), out / recorded.take.name
    require_room(target, (path for each in found for path in ((each.picture, each.mask) if pictures else (each.mask,))))
    return found, target


@contextmanager
def export_folder(target: Path, kind: str) -> Generator[Path]:
    """`atomic_folder`, which takes the place of an earlier export of the same kind only.

    Whatever else is there may be the only copy of a recording, which has the name of its take, too, or of corrections.

    Args:
        target: the folder.
        kind: of the export, as its command is called.

    Raises:
        UserError: there is something else, before anything is written and again at the end; see also `atomic_folder`.
    """
    _require_own(target, kind)
    with atomic_folder(target) as folder:
        yield folder
        write_json(folder / WRITTEN, {"export": kind, "files": _states(folder)})
        _require_own(target, kind)  # an export takes long


def _require_own(target: Path, kind: str) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        return
    with suppress(UserError):  # none, or one that is damaged
        if not target.is_symlink() and read_json(target / WRITTEN) == {"export": kind, "files": _states(target)}:
            return
    raise UserError(
        f"{target}: is there, and is not just what `mmor export {kind}` wrote; move it away, or choose another --out"
    )


def _states(folder: Path) -> dict[str, list[int]]:
    """Bytes and time (s) of each file and link in a folder and those in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    stats = {str(path.relative_to(folder)): path.lstat() for path in files if path != folder / WRITTEN}
    return {name: [stat.st_size, int(stat.st_mtime)] for name, stat in stats.items()}


def class_names(labels: Labels) -> dict[int, str]:
    """Raw label -> its name in exports, each one's own; the background (`background_name`) is not among them.

    The labels that annotators use by mistake are: several of them are called the same.
    """
    names = {category.label: category.name for category in labels.categories if category.label != BACKGROUND}
    return names | {label: f"{name}_{label}" for label, name in labels.mistakes.items()}


def background_name(labels: Labels) -> str:
    """What the background is called in exports: as other tools do, but where another class has that name."""
    return "background" if "background" not in class_names(labels).values() else labels.categories[BACKGROUND].name


def class_colors(labels: Labels) -> dict[int, tuple[int, int, int]]:
    """Raw label -> its colour in exports, each one's own and none black, which is what no category is drawn on."""
    colors: dict[int, tuple[int, int, int]] = {BACKGROUND: (0, 0, 0)}
    for category in labels.categories:
        if category.label != BACKGROUND and category.color not in colors.values():
            colors[category.label] = category.color
    for label in class_names(labels):
        if label not in colors:  # a mistake has none of its own
            taken = set(colors.values())
            colors[label] = next(free for free in ((i, i, 256 - i) for i in range(1, 256)) if free not in taken)
    return colors


def color_table(labels: Labels) -> UInt8[np.ndarray, "256 3"]:
    """`class_colors` by raw label; black where there is no such label."""
    table = np.zeros((256, 3), np.uint8)
    for label, color in class_colors(labels).items():
        table[label] = color
    return table


def each_take(
    dataset: Dataset, takes: Sequence[Take], export: Callable[[RecordedTake], Path], say: Callable[[str], object]
) -> list[str]:
    """Export takes one after the other; what is wrong with one costs that one. Returns one line for each left out."""
    problems = []
    for take in takes:
        try:
            say(str(export(dataset.unkept(take))))
        except UserError as error:
            problems.append(f"take {take.name} is left out: {error}")
    return problems


def require_room(place: Path, files: Iterable[Path]) -> None:
    """There must be as much free disk as these files take.

    Raises:
        UserError: there is less.
    """
    needed = 0
    for path in files:
        with suppress(OSError):  # whoever reads it says so
            needed += path.stat().st_size
    existing = next((folder for folder in (place, *place.parents) if folder.exists()), Path.cwd())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise UserError(f"{place}: needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make room")


def picture_bytes(path: Path) -> bytes:
    """A picture as it is stored.

    Raises:
        UserError: it cannot be read, or is damaged, which the tool that gets it may not say.
    """
    check_picture(path)
    return read_bytes(path)


def copy_picture(source: Path, target: Path) -> None:
    """A copy of a picture, byte by byte.

    Raises:
        UserError: see `picture_bytes`.
    """
    data = picture_bytes(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
