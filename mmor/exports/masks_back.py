"""Masks that were corrected in another tool back into the annotated label masks of a take: `mmor import masks`.

Whatever does not fit is refused by name, and nothing is written then: all pictures are read before the first mask is.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile, ZipFile

import numpy as np
from jaxtyping import UInt8

from mmor.exports.coco_panoptic import FOLDER, JSON_NAME
from mmor.exports.cvat import ARCHIVE, CLASSES, LABELMAP
from mmor.exports.frames import BACKGROUND, background_name, class_names, in_size
from operating_room.domain.labels import Labels, color_ids, run_lengths
from operating_room.domain.reading.nodes import near
from operating_room.errors import UserError
from operating_room.files.picture_files import MAX_PIXELS, picture_size
from operating_room.files.png import write_png
from operating_room.files.raw_files import visible
from operating_room.files.readers import read_bytes, read_ids, read_json, read_label_mask, read_picture
from operating_room.recordings.folders import list_names
from operating_room.recordings.take import RecordedTake
from operating_room.work.progress import track

Named = TypeVar("Named", int, str)  # a label, or the name of a file
Read = TypeVar("Read")
LabelMap = UInt8[np.ndarray, "height width"]
_ZIP_ERRORS = (
    *(BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError, ValueError),
    *(zlib.error, lzma.LZMAError),
)
_MOST_BYTES = 64 << 30  # of an archive, unpacked
_BYTE = re.compile("[0-9]{1,3}")  # Python reads no number of more than 4300 digits


@dataclass(frozen=True)
class Imported:
    """What an import has done."""

    written: tuple[Path, ...]
    unchanged: int  # masks that were there with these very labels
    kept: tuple[Path, ...]  # masks that were there with others, and were not to be replaced


@dataclass(frozen=True)
class _Incoming:
    """A mask that comes back: where it is from, and how to read it."""

    name: str  # `<take>/<camera>/<picture>`, or less of it, if `<picture>` alone is not in doubt
    file: Path
    read: Callable[[], LabelMap]


def import_masks(recorded: RecordedTake, source: Path, replace: bool = False) -> Imported:
    """Write the masks of an export as the label masks of a take.

    Args:
        recorded: the take.
        source: a COCO panoptic folder or its JSON file; or a CVAT export, `Segmentation mask 1.1`, packed or unpacked.
        replace: write over annotated masks that differ.

    Raises:
        UserError: it is neither, is damaged, has a class, colour or size that does not fit, or a frame or camera that
            the take does not have. Nothing is written then.
    """
    recorded.domain.require_categories()
    with _opened(source) as (kind, place):
        incoming = list((_from_coco if kind == "coco" else _from_cvat)(place, recorded.domain.labels))
        if not incoming:
            raise UserError(f"{source}: holds no mask; export the task again, with its annotations")
        targets = _targets(recorded)
        others = list_names(recorded.root) | {take.name for take in recorded.domain.takes}
        found: dict[Path, _Incoming] = {}
        for each in incoming:
            target, picture = _target(each, recorded, targets, others)
            if target in found:
                raise UserError(f"{each.file}: is the mask of {picture.name}, as {found[target].file} is; remove one")
            found[target] = each
            _check_size(each, target, picture, replace)
        written, kept, unchanged = [], [], 0
        differing = []
        for target, each in track(found.items(), "reading masks", len(found)):
            labels = each.read()
            there = _unless_damaged(read_label_mask, target, replace)
            if there is not None and np.array_equal(in_size(there, labels.shape[::-1]), labels):
                unchanged += 1
            elif there is not None and not replace:
                kept.append(target)
            else:
                differing.append((target, each))
        for target, each in track(differing, "writing masks"):
            write_png(target, each.read()[..., None])
            written.append(target)
    return Imported(tuple(written), unchanged, tuple(kept))


@contextmanager
def _opened(source: Path) -> Generator[tuple[str, Path]]:
    """`coco` or `cvat`, and the folder (unpacked, if it was an archive) with its JSON file or its label map."""
    if source.suffix == ".zip" or (source.is_dir() and (source / ARCHIVE).is_file()):
        archive = source if source.suffix == ".zip" else source / ARCHIVE
        if not archive.is_file():
            raise UserError(f"{archive}: no such file; give the archive that CVAT exported")
        with tempfile.TemporaryDirectory(prefix="mmor_masks_") as folder:
            _unpack(archive, Path(folder))
            try:
                yield "cvat", _with_labelmap(Path(folder), archive)
            except UserError as error:  # the unpacked file will be gone: name it as the archive has it
                raise UserError(str(error).replace(f"{folder}/", f"{archive}/")) from error
    elif source.suffix == ".json" or (source / JSON_NAME).is_file():
        yield "coco", source if source.suffix == ".json" else source / JSON_NAME
    elif (source / LABELMAP).is_file():
        yield "cvat", source
    else:
        raise UserError(
            f"{source}: is no folder with {JSON_NAME} or {LABELMAP}, no COCO panoptic file and no archive of CVAT; "
            "export as COCO panoptic, or from CVAT as Segmentation mask 1.1"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Only what is read, to names that stay inside the folder.

    Raises:
        UserError: it is damaged or too large.
    """
    try:
        with ZipFile(archive) as packed:
            entries = [e for e in packed.infolist() if e.filename.endswith((LABELMAP, ".png")) and not e.is_dir()]
            for entry in entries:
                entry.filename = entry.filename.replace("\\", "/")  # as older tools of Windows pack folders
            times = Counter(entry.filename for entry in entries)
            if twice := next((name for name, count in times.items() if count > 1), None):
                raise UserError(f"{archive}: holds {twice} twice, and one would be lost; export the task again")
            needed = sum(entry.file_size for entry in entries)
            if needed > min(_MOST_BYTES, shutil.disk_usage(folder).free):
                raise UserError(f"{archive}: unpacks to {needed / 1e9:.1f} GB; unpack it yourself and give the folder")
            for entry in track(entries, "unpacking"):
                packed.extract(entry, folder)  # which leaves out `..` and absolute places
    except _ZIP_ERRORS as error:
        raise UserError(f"{archive}: is no readable archive ({error}); export the task again") from error


def _with_labelmap(folder: Path, archive: Path) -> Path:
    found = sorted(folder.rglob(LABELMAP))
    if len(found) != 1:
        raise UserError(
            f"{archive}: has {len(found)} files {LABELMAP}, expected one; export from CVAT as Segmentation mask 1.1"
        )
    return found[0].parent


def _label_of(name: Any, labels: Labels, where: Path) -> int:
    """The label of a class of another tool, by its name.

    Raises:
        UserError: the domain has no such class.
    """
    known = {background_name(labels): BACKGROUND, labels.categories[0].name: BACKGROUND}
    known |= {told: label for label, told in class_names(labels).items()}
    if name not in known:
        raise UserError(f"{where}: has the class {str(name)[:60]!r}, which is none{near(str(name), known)}; rename it")
    return known[name]


def _from_coco(path: Path, labels: Labels) -> Iterator[_Incoming]:
    content = read_json(path)
    try:
        classes = _by_id(((row["id"], _label_of(row["name"], labels, path)) for row in content["categories"]), path)
        images = _by_id(((row["id"], str(row["file_name"])) for row in content["images"]), path)
        folder = next((f for f in (path.parent / FOLDER, path.parent / path.stem) if f.is_dir()), path.parent)
        for row in content["annotations"]:
            file = folder / _inside(row["file_name"], path)
            segments = ((int(segment["id"]), classes[segment["category_id"]]) for segment in row["segments_info"])
            ids = _by_id(segments, file)
            yield _Incoming(str(Path(images[row["image_id"]]).with_suffix("")), file, _reader(file, ids, by_id=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: is no COCO panoptic file ({type(error).__name__} {error}); export it with images, annotations "
            "with segments_info, and categories"
        ) from error


def _by_id(rows: Iterable[tuple[int, Named]], where: Path) -> dict[int, Named]:
    """What ids stand for.

    Raises:
        UserError: one of them stands for two things, of which one would be lost silently.
    """
    found: dict[int, Named] = {}
    for number, meant in rows:
        if found.setdefault(number, meant) != meant:
            raise UserError(f"{where}: the id {number} stands for {found[number]} and for {meant}; give each its own")
    return found


def _from_cvat(folder: Path, labels: Labels) -> Iterator[_Incoming]:
    colors = _read_labelmap(folder / LABELMAP, labels)
    classes = folder / CLASSES
    for file in sorted(visible(classes.rglob("*.png"))):
        name = str(file.relative_to(classes).with_suffix(""))
        yield _Incoming(name, file, _reader(file, colors, by_id=False))


def _read_labelmap(path: Path, labels: Labels) -> dict[int, int]:
    """Colour, as R + 256 G + 65536 B -> label."""
    colors: dict[int, int] = {}
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; export the task again") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.split(":")[0].split(",")
        if len(parts) != 3 or not all(_BYTE.fullmatch(part.strip()) and int(part) < 256 for part in parts):
            raise UserError(f"{path}: line {number} is not name:red,green,blue:parts:actions; export the task again")
        red, green, blue = map(int, parts)
        color, label = red + 256 * green + 65536 * blue, _label_of(name.strip(), labels, path)
        if colors.setdefault(color, label) != label:
            raise UserError(f"{path}: line {number} has the colour of another class; give each one of its own")
    return colors


def _reader(file: Path, values: Mapping[int, int], by_id: bool) -> Callable[[], LabelMap]:
    """Reads the labels of a picture of ids or colours.

    Raises:
        UserError: when called: it is damaged, or has an id or colour that stands for nothing.
    """

    def read() -> LabelMap:
        known = {0: BACKGROUND, **values} if by_id else values
        if by_id:
            ids = read_ids(file)
            runs, lengths = run_lengths(np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(-1, 4))
            numbers = np.ascontiguousarray(runs).view("<u4").reshape(-1)
        else:
            picture = read_picture(file)
            runs, lengths = run_lengths(picture.reshape(-1, 3))
            numbers = color_ids(runs[None])[0]
            ids = picture[..., 0]
        different, place = np.unique(numbers, return_inverse=True)
        if unknown := [int(number) for number in different if int(number) not in known]:
            shown = unknown[0]
            what = f"id {shown}" if by_id else f"colour {shown & 255},{shown >> 8 & 255},{shown >> 16}"
            told = "that no segment of it has" if by_id else f"that {LABELMAP} does not name"
            raise UserError(f"{file}: has the {what}, {told}; export it again")
        labels = np.array([known[int(number)] for number in different], np.uint8)[place]
        return labels.repeat(lengths).reshape(ids.shape)

    return read


def _inside(name: Any, where: Path) -> Path:
    """A file name that stays in its folder.

    Raises:
        UserError: it does not.
    """
    path = Path(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where}: names the file {str(name)[:80]!r}, which is outside of its folder; mend it")
    return path


def _targets(recorded: RecordedTake) -> dict[str, dict[str, tuple[Path | None, Path]]]:
    """Name of a picture -> camera -> its label mask (None: the camera has none) and the picture."""
    targets: dict[str, dict[str, tuple[Path | None, Path]]] = {}
    for timepoint in recorded.expected:
        masks = timepoint.several("label_masks")
        for camera, picture in timepoint.views.items():
            targets.setdefault(picture.stem, {})[camera] = (masks.get(camera), picture)
    return targets


def _target(
    each: _Incoming,
    recorded: RecordedTake,
    targets: Mapping[str, Mapping[str, tuple[Path | None, Path]]],
    others: Collection[str],
) -> tuple[Path, Path]:
    """The label mask that a mask becomes, and its picture; `others` are names of takes, which have such pictures, too.

    Raises:
        UserError: the take has no such picture, or its camera no masks; or the name could be that of several.
    """
    take = recorded.take.name
    *folders, stem = Path(unicodedata.normalize("NFC", each.name)).parts  # macOS stores letters and marks apart
    by_camera = targets.get(stem, {})
    named = {unicodedata.normalize("NFC", name): name for name in recorded.collection.camera}
    camera = named.get(folders[-1]) if folders else None
    if camera is None and len(by_camera) > 1:
        raise UserError(f"{each.file}: could be of camera {' or '.join(by_camera)}; put it into a folder of that name")
    if camera is None:
        camera = next(iter(by_camera), "")
    above = folders[-2:-1] if camera in folders else [name for name in folders if name in others]
    if above and above[-1] != take:
        raise UserError(f"{each.file}: is of {above[-1]}, not of {take}; give the take that it was exported from")
    if camera not in by_camera:
        raise UserError(
            f"{each.file}: take {take} has no picture {each.name!r}; give the take that it was exported from"
        )
    mask, picture = by_camera[camera]
    if mask is None:
        raise UserError(f"{each.file}: camera {camera} of {take} has no label masks in the domain; leave its masks out")
    return mask, picture


def _unless_damaged(read: Callable[[Path], Read], target: Path, replace: bool) -> Read | None:
    """What is read of a mask; None: there is none, or one that is damaged, and to be replaced.

    Raises:
        UserError: it is damaged, and not to be replaced.
    """
    try:
        return read(target) if target.exists() else None
    except UserError:
        if replace:
            return None
        raise


def _check_size(each: _Incoming, target: Path, picture: Path, replace: bool) -> None:
    """A mask must be as large as the one that it replaces, or as its picture: annotated ones may be of another size.

    Raises:
        UserError: it is not.
    """
    model, expected = target, _unless_damaged(picture_size, target, replace)
    if expected is None:
        if not picture.exists():
            raise UserError(f"{each.file}: its picture {picture} is not there; copy it, or leave the mask out")
        model, expected = picture, picture_size(picture)
    size = picture_size(each.file)
    fits = size == expected or (model == target and picture.exists() and size == picture_size(picture))
    if not fits or size[0] * size[1] > MAX_PIXELS:
        raise UserError(
            f"{each.file}: is {size[0]}x{size[1]} px, {model} {expected[0]}x{expected[1]}; export it in that size"
        )
