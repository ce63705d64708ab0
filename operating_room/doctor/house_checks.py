"""What lies in the folders of the house layout and is read by nothing, as far as `mmor data check` tells it.

Whoever writes these folders by hand or by a script of their own learns here that a camera is misspelt, a frame number
is beyond the last timepoint, or a folder has no place in the domain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from operating_room.doctor.findings import Severity
from operating_room.domain.house import HOUSE_MODALITIES, SPLITS_FILE, house_fields
from operating_room.domain.reading.nodes import near, read_yaml
from operating_room.recordings.dataset import RecordedTake

Told = tuple[Severity, Path, str]

_VIEWS = ("views", "label_masks")  # with a folder for each camera
# Folder, or file of the whole take -> the modality under which a domain lists it.
_PLACES = {
    pattern.split("/")[2]: name
    for name in HOUSE_MODALITIES
    for kind in ("files", "take_files")
    for pattern in house_fields((), (name,))[kind].values()
}


def look_at_take(recorded: RecordedTake) -> Iterator[Told]:
    """What is in the folder of a take and belongs to nothing.

    Raises:
        UserError: its take.yaml is broken, or a folder may not be listed.
    """
    place, collection = recorded.root / recorded.take.folder, recorded.collection
    expected: dict[Path, set[str]] = {}
    for timepoint in recorded.expected:
        for _, _, path in timepoint.files_by_camera():
            expected.setdefault(path.parent, set()).add(path.name)
    files = [recorded.path(name) for name in collection.take_files]
    known = {"take.yaml", "calibration", "depth", *_VIEWS, *(path.name for path in files if path is not None)}
    known |= {folder.name for folder in expected if folder.parent == place}
    for name in sorted(recorded.list_folder(place) - known):
        path = place / name
        if name in _PLACES:
            why = f"the domain does not list {_PLACES[name]}"
            yield Severity.BROKEN, path, f"{path}: is read by nothing: {why} among the modalities of {collection.name}"
        elif path.is_dir():
            why = f"{name!r} is no folder of the house layout{near(name, {*_PLACES, *_VIEWS, 'graphs'})}"
            yield Severity.BROKEN, path, f"{path}: is read by nothing: {why}; rename or remove it"
        else:
            yield Severity.NOTE, path, f"{path}: is no file of the house layout and read by nothing"
    for folder in _VIEWS:
        for name in sorted(recorded.list_folder(place / folder)):
            path = place / folder / name
            if path not in expected:
                why = f"the domain knows no camera {name!r}{near(name, collection.camera)}"
                if name in collection.camera:
                    why = "the domain does not list label_masks among the modalities"
                yield Severity.BROKEN, path, f"{path}: is read by nothing: {why}; rename it or add that to the domain"
    for folder, names in expected.items():
        if folder.parent.name == "label_masks" or folder.name == "graphs":
            continue  # each of these is looked at for itself
        if beyond := sorted(recorded.list_folder(folder) - names):
            path = folder / beyond[0]
            what = f"belongs to no timepoint, as {len(beyond)} of {len(recorded.list_folder(folder))} files there"
            told = f"they are called {min(names)} to {max(names)}, since take.yaml says frames and pictures"
            yield Severity.BROKEN, path, f"{path}: {what}; {told}"
    unseen = [timepoint.frame_id for timepoint in recorded.timepoints if not timepoint.views]
    if unseen and collection.cameras:
        told = f"{len(unseen)} of {len(recorded.index)} timepoints have no picture of any camera, the first is"
        yield Severity.GAP, place / "views", f"{place / 'views'}: {told} {unseen[0]}"


def look_at_splits(root: Path, there: Collection[str]) -> Iterator[Told]:
    """The takes in splits.yaml that are not there, with the line in which they stand."""
    path = root / SPLITS_FILE
    if not path.is_file():
        told = "is not there, so every take is one of your own (--split own)"
        yield Severity.NOTE, path, f"{path}: {told}; name the takes of train, val and test in it"
        return
    for split, (_, listed) in read_yaml(path).named().items():
        for name, item in listed.texts().items():
            if name not in there:
                told = f"take {name!r} of {split} is not in {root / 'takes'}; add it, or take it out of the split"
                yield Severity.GAP, path, str(item.error(told))
