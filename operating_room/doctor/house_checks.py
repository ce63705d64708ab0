"""What lies in the folders of the house layout and is read by nothing, as far as `mmor data check` tells it.

Whoever writes these folders by hand or by a script of their own learns here that a camera is misspelt, a frame number
is beyond the last timepoint, or a folder has no place in the domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from operating_room.doctor.findings import Severity
from operating_room.domain.collection import SEPARATED_SPLITS
from operating_room.domain.domain import Domain
from operating_room.domain.house import HOUSE_MODALITIES, SPLITS_FILE, house_fields
from operating_room.domain.reading.nodes import near, read_yaml
from operating_room.errors import UserError
from operating_room.recordings.take import RecordedTake

Told = tuple[Severity, Path, str]

_BY_CAMERA = ("views", "label_masks", "depth")  # with a folder for each camera
# Folder, or file of the whole take -> the modality under which a domain lists it.
_PLACES = {
    pattern.split("/")[2]: name
    for name in HOUSE_MODALITIES
    for kind in ("files", "take_files")
    for pattern in house_fields((), (name,))[kind].values()
}


def look_at_domain(domain: Domain, root: Path) -> Iterator[Told]:
    """What a domain says of masks and probably does not mean.

    A category that is no entity but nearly one which has no masks: graphs and masks then speak of two things. Masks of
    more pictures than a timepoint has: the model is always shown less than that.
    """
    labels = domain.labels
    unmasked = [name for name in domain.language.entities if name not in labels.by_entity]
    for category in labels.categories:
        if category.entity not in domain.language.entities and (meant := near(category.entity, unmasked)):
            told = f"category {category.name!r} of masks is no entity of graphs{meant}, and that entity has no masks"
            yield Severity.NOTE, root, f"{root}: domain {domain.name}: {told}"
    # Small masks of a timepoint are of the cameras of one modality.
    kinds = [Counter(camera.modality for camera in collection.labelled_cameras) for collection in domain.collections]
    if any(kinds) and labels.masks > (most := max(count for kind in kinds for count in kind.values())):
        told = (
            f"labels: masks are of {labels.masks} pictures of a timepoint, and of one kind of cameras: {most} at most"
        )
        yield Severity.NOTE, root, f"{root}: domain {domain.name}: {told}"


def look_at_take(recorded: RecordedTake) -> Iterator[Told]:
    """What is in the folder of a take and belongs to nothing. A folder that may not be listed counts as empty here.

    Raises:
        UserError: its take.yaml is broken.
    """
    place, collection = recorded.root / recorded.take.folder, recorded.collection
    expected: dict[Path, set[str]] = {}
    for timepoint, element in zip(recorded.expected, recorded.index, strict=True):
        of_it = [path for _, _, path in timepoint.files_by_camera()]
        for path in (*of_it, *recorded.depth_pictures(element)):
            expected.setdefault(path.parent, set()).add(path.name)
    files = [recorded.path(name) for name in collection.take_files]
    known = {"take.yaml", "calibration", *_BY_CAMERA, *(path.name for path in files if path is not None)}
    known |= {folder.name for folder in expected if folder.parent == place}
    for name in sorted(_names(recorded, place) - known):
        path = place / name
        if name in _PLACES:
            why = f"the domain does not list {_PLACES[name]}"
            yield Severity.BROKEN, path, f"{path}: is read by nothing: {why} among the modalities of {collection.name}"
        elif path.is_dir():
            why = f"{name!r} is no folder of the house layout{near(name, {*_PLACES, *_BY_CAMERA, 'graphs'})}"
            yield Severity.BROKEN, path, f"{path}: is read by nothing: {why}; rename or remove it"
        else:
            yield Severity.NOTE, path, f"{path}: is no file of the house layout and read by nothing"
    yield from _look_at_cameras(recorded, expected)
    for folder, names in expected.items():
        listed = _names(recorded, folder)
        # Labels of frames that the index does not have are looked for elsewhere.
        labels = ".png" if folder.parent.name == "label_masks" else ".json" if folder.name == "graphs" else None
        if beyond := sorted(name for name in listed - names if labels is None or not name.endswith(labels)):
            path = folder / beyond[0]
            what = f"belongs to no timepoint, as {len(beyond)} of {len(listed)} files there"
            told = f"they are called {min(names)} to {max(names)}, since take.yaml says frames and pictures"
            yield Severity.BROKEN, path, f"{path}: {what}; {told}"
    pictures = [(timepoint.frame_id, timepoint.views.values()) for timepoint in recorded.expected]
    unseen = [frame for frame, of_it in pictures if not any(p.name in _names(recorded, p.parent) for p in of_it)]
    if unseen and collection.cameras:
        told = f"{len(unseen)} of {len(recorded.index)} timepoints have no picture of any camera, the first is"
        yield Severity.GAP, place / "views", f"{place / 'views'}: {told} {unseen[0]}"


def _look_at_cameras(recorded: RecordedTake, expected: Mapping[Path, Collection[str]]) -> Iterator[Told]:
    """Folders and camera files of cameras that the domain does not know; `expected` are names by folder."""
    place, collection = recorded.root / recorded.take.folder, recorded.collection
    lenses = {
        recorded.root / path for name in collection.camera for path in collection.camera_files(recorded.take, name)
    }
    folders = [*(place / name for name in _BY_CAMERA), *sorted({path.parent for path in lenses})]
    for path in (folder / name for folder in folders for name in sorted(_names(recorded, folder))):
        if path not in expected and path not in lenses:
            of_lens = path.parent.name == "calibration"
            name = path.stem if of_lens else path.name
            why = f"the domain knows no camera {name!r}{near(name, collection.camera)}"
            if name in collection.camera and of_lens:
                why = f"a camera file is called {name}.json"
            elif name in collection.camera:
                why = "the domain does not list label_masks among the modalities"
            yield Severity.BROKEN, path, f"{path}: is read by nothing: {why}; rename it or add that to the domain"


def _names(recorded: RecordedTake, folder: Path) -> frozenset[str]:
    """What is in a folder; nothing if it may not be listed, which is told where its files are counted."""
    try:
        return recorded.list_folder(folder)
    except UserError:
        return frozenset()


def look_at_splits(root: Path, there: Collection[str]) -> Iterator[Told]:
    """The takes in splits.yaml that are not there, with the line in which they stand."""
    path = root / SPLITS_FILE
    if not path.is_file():
        told = "is not there, so every take is one of your own (--split own)"
        yield Severity.NOTE, path, f"{path}: {told}; name the takes of train, val and test in it"
        return
    splits = {split: listed.texts() for split, (_, listed) in read_yaml(path).named().items()}
    learnt = {name for split in SEPARATED_SPLITS for name in splits.get(split, ())}
    for split, listed in splits.items():
        for name, item in listed.items():
            if name not in there:
                told = f"take {name!r} of {split} is not in {root / 'takes'}; add it, or take it out of the split"
                yield Severity.GAP, path, str(item.error(told))
            elif name not in learnt:
                told = f"take {name!r} is in none of {', '.join(SEPARATED_SPLITS)}, so its labels come in no relations"
                advice = f"correct the name of {split}, or add the take to one of these"
                yield Severity.GAP, path, str(item.error(f"{told}; {advice}"))
