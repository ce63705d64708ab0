"""The 32x32 label masks of each timepoint, from stage 1's predictions or from annotations.

Data specification, section 8. A file is named by the place of its camera among the three, so that a missing camera
shifts no other one (fix 3 of section 11).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from operating_room.domain.collection import CAMERA_MODALITIES, Camera, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.labels import has_other_colors
from operating_room.errors import UserError
from operating_room.files import picture_files
from operating_room.files.picture_files import save_picture
from operating_room.files.readers import read_json, read_label_mask, read_picture
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.masks import predicted_pictures, predictions_origin, reduce_labels
from operating_room.recordings.take import RecordedTake
from operating_room.scores.fingerprints import fingerprint
from scene_graph_generation.preprocess.run import SETTINGS, Outcome, each_take, settle

# What `mmor panoptic predict` and `export-masks` leave out unless they are told to.
_PREDICT_ALL = "or predict frames without annotated mask, too (--all-frames of `mmor panoptic export-masks`)"
Finder = Callable[[Camera, str], Path | None]  # camera, frame number -> large mask


def preprocess_masks(
    dataset: Dataset, takes: Sequence[Take], predictions: Path | None, as_predictions: bool = False, workers: int = 1
) -> Outcome:
    """Write the small masks of these takes; masks that exist are kept.

    Args:
        dataset: where the takes are.
        takes: which ones.
        predictions: the folder with stage 1's class-colour pictures, one folder per video (`inference/pan_pred`);
            None takes the annotated masks, or the interpolated ones where there is no annotation.
        as_predictions: give masks made from annotations the names of those from predictions, which are the ones that
            are read: to train without stage 1.
        workers: takes at once.

    Raises:
        UserError: there is no such folder, its pictures were made for another domain, or the domain has no categories.
    """
    dataset.domain.require_categories()
    if predictions is not None:
        require_predictions(predictions)
    source = _source(predictions, dataset.domain)
    step = partial(_write_masks, predictions=predictions, source=source, as_predictions=as_predictions)
    return each_take(dataset, takes, step, "small masks", workers)


def require_predictions(predictions: Path) -> None:
    """Refuse what cannot be stage 1's folder of pictures.

    Raises:
        UserError: there is no such folder, or it is one that holds the right one.
    """
    if not predictions.is_dir():
        raise UserError(
            f"{predictions}: no such folder; give inference/pan_pred in the --out of `mmor panoptic predict`"
        )
    for inner in (predictions / "inference" / "pan_pred", predictions / "pan_pred"):
        if inner.is_dir():
            raise UserError(f"{predictions}: holds the folder of predictions; give {inner}")


def _source(predictions: Path | None, domain: Domain) -> str:
    """Where masks come from; predictions by the model and settings that are noted beside them.

    Raises:
        UserError: that note is damaged, or they were made for another domain.
    """
    if predictions is None:
        return "annotations"
    if (origin := predictions_origin(predictions, domain)) is None:
        return "predictions"
    return f"predictions of model {fingerprint([json.dumps(read_json(origin), sort_keys=True)])}"


def _write_masks(recorded: RecordedTake, predictions: Path | None, source: str, as_predictions: bool) -> Iterator[Path]:
    find = _annotated(recorded) if predictions is None else _predicted(recorded, predictions)
    annotated = predictions is None and not as_predictions
    name = "masks_from_annotation" if annotated else "masks"
    if name not in recorded.collection.files:
        raise UserError(
            f"{recorded.root}: takes of {recorded.collection.name} have no files called {name} in their domain"
        )
    sources = list(_sources(recorded, find))
    found = [
        (recorded.root / recorded.collection.path(name, recorded.take, number=number, **numbers), large)
        for numbers, number, _, large in sources
        if large is not None
    ]
    covered = len({tuple(sorted(numbers.items())) for numbers, *_ in sources})
    if predictions is not None and 0 < covered < len(recorded.index):  # stopped, or of annotated frames only
        told = f"{recorded.take.name}: {covered} of {len(recorded.index)} timepoints have a predicted mask"
        print(f"{told}; the others stay without, {_PREDICT_ALL}", file=sys.stderr)
    # Of annotated masks that is normal, so that the folders of pictures are not even listed.
    without = [] if predictions is None else [picture for _, _, picture, large in sources if large is None]
    if lacking := [picture for picture in without if recorded.has(picture)]:
        told = f"{lacking[0]}: has no predicted mask where another camera of the timepoint has, {len(lacking)} in all"
        print(f"{told}; if the prediction was stopped, run it and this again", file=sys.stderr)
    if found:
        larges, names = [large for _, large in found], [path.name for path, _ in found]
        folder = found[0][0].parent
        # Not in the folder: equal labels make equal folders, however the large masks are stored.
        note = folder.parents[1] / f".{folder.parent.name}" / f"{folder.name}{SETTINGS}_GT{annotated}.json"
        ending = recorded.collection.files[name].rpartition("}")[2]  # _GTFalse.png; in the house layout .png
        kind = ending.removesuffix(Path(names[0]).suffix)
        also = [f"labels below {recorded.domain.labels.count}", f"read {picture_files.READING}"]
        settle(folder, {"source": source}, kind, larges, names, note, also)
    beyond: dict[int, Path] = {}
    strange: list[Path] = []
    for path, large in found:
        if not recorded.has(path):
            labels = recorded.domain.labels
            if predictions is None:
                mask = read_label_mask(large)
            else:
                picture = read_picture(large)
                mask = labels.colors_to_labels(picture)
                if has_other_colors(picture, mask):
                    strange.append(large)
            if (most := int(mask.max(initial=0))) >= labels.count:  # 255 along borders, for one: no model could read it
                beyond[most] = beyond.get(most, large)
                mask = np.where(mask < labels.count, mask, 0).astype(np.uint8)
            try:
                small = reduce_labels(mask)
            except UserError as error:
                raise UserError(f"{large}: {error}") from error
            save_picture(path, small)
            yield path
    if strange:
        told = f"has colours of no class of {recorded.domain.name}, as {len(strange) - 1} other pictures of the take"
        print(f"{strange[0]}: {told}; counted as background. Class colours are needed, unblended", file=sys.stderr)
    for label, large in beyond.items():
        told = f"the label {label} is not below {recorded.domain.labels.count}, as those of {recorded.domain.name} are"
        print(f"{large}: {told}; counted as background, there and in masks after it", file=sys.stderr)
    if predictions is not None and not found:
        raise UserError(
            f"{predictions}: has no frame of take {recorded.take.name}; give the predictions of the split that it is "
            f"in, {_PREDICT_ALL}"
        )


def _sources(recorded: RecordedTake, find: Finder) -> Iterator[tuple[Mapping[str, str], int, Path, Path | None]]:
    """What a timepoint's paths are made of; number, picture and large mask of its cameras, if one of them has a mask.

    Station cameras only stand in for room cameras.
    """
    groups = mask_cameras(recorded.collection, recorded.domain.labels.masks)
    for element in recorded.index:
        for cameras in groups:
            frames = [(number, camera, element.numbers.get(camera.frame)) for number, camera in enumerate(cameras)]
            larges = [(number, camera, frame, find(camera, frame)) for number, camera, frame in frames if frame]
            if any(large for *_, large in larges):
                for number, camera, frame, large in larges:
                    picture = recorded.collection.picture(recorded.take, camera.name, frame, recorded.pictures)
                    yield element.numbers, number, recorded.root / picture, large
                break


def _annotated(recorded: RecordedTake) -> Finder:
    """Finds the annotated mask of a camera's frame, else the interpolated one."""

    def find(camera: Camera, frame: str) -> Path | None:
        for interpolated in (False, True):
            path = recorded.collection.label_mask(recorded.take, camera.name, frame, interpolated)
            if path is not None and recorded.has(recorded.root / path):
                return recorded.root / path
        return None

    return find


def _predicted(recorded: RecordedTake, predictions: Path) -> Finder:
    """Finds the class-colour picture of a camera's frame, whether its video was cut into parts or not."""
    collection = recorded.collection
    videos = {
        camera.name: predicted_pictures(predictions, recorded.take, camera.name)
        for camera in collection.labelled_cameras
    }

    def find(camera: Camera, frame: str) -> Path | None:
        return videos[camera.name].get(collection.picture(recorded.take, camera.name, frame).stem)

    return find


def mask_cameras(collection: Collection, masks: int) -> list[list[Camera]]:
    """The cameras with masks by modality: room cameras, then the station cameras that stand in for them.

    Of each modality as many as there are small masks for a timepoint.
    """
    groups: dict[str, list[Camera]] = {}
    for camera in collection.labelled_cameras:
        groups.setdefault(camera.modality, []).append(camera)
    return [groups[modality][:masks] for modality in CAMERA_MODALITIES if modality in groups]
