"""The house layout: how recordings of any other operating room lie on disk (docs/own_room.md).

    ROOT/splits.yaml                                     split -> takes
    ROOT/takes/TAKE/take.yaml                            period (s), frames, pictures (jpg or png)
    ROOT/takes/TAKE/views/CAMERA/000000.jpg              pictures, and beside them label_masks/CAMERA/000000.png
    ROOT/takes/TAKE/graphs/000000.json                   [subject, object, predicate] of a timepoint
    ROOT/takes/TAKE/{clouds,gaze,hands,audio,...}/       one file for each timepoint
    ROOT/calibration/CAMERA.json                         of all takes; or below a take, of that one
    ROOT/takes/TAKE/depth/CAMERA/000000.png              16 bits, mm

Timepoints are numbered from 000000 on; a picture that is not there is a camera that did not record.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from operating_room.domain.collection import Camera

SPLITS_FILE = "splits.yaml"
_TAKE = "takes/{take}"
_FILES = {
    "point_cloud": f"{_TAKE}/clouds/{{frame_id}}.npz",
    "gaze": f"{_TAKE}/gaze/{{frame_id}}.npy",
    "hands": f"{_TAKE}/hands/{{frame_id}}.npy",
    "audio": f"{_TAKE}/audio/{{frame_id}}.flac",
    "audio_embedding": f"{_TAKE}/audio_embeddings/{{frame_id}}.pt",
    "transcript": f"{_TAKE}/transcripts/{{frame_id}}.json",
    "masks": f"{_TAKE}/masks/{{frame_id}}_{{number}}.png",
}
_TAKE_FILES = {  # come with the modality that is made from them
    "audio": ("recording", f"{_TAKE}/sound.flac"),
    "transcript": ("subtitles", f"{_TAKE}/transcript.srt"),
}
LABEL_MASKS = "label_masks"
HOUSE_MODALITIES = (*_FILES, LABEL_MASKS)  # what a collection of this layout may say it has, besides its cameras


def house_fields(cameras: Iterable[tuple[str, str]], modalities: Iterable[str]) -> dict[str, Any]:
    """The fields of a `Collection` of the house layout.

    Args:
        cameras: name and modality of each.
        modalities: those of `HOUSE_MODALITIES` that takes may have.
    """
    modalities = tuple(modalities)
    masks = f"{_TAKE}/label_masks/{{camera}}" if LABEL_MASKS in modalities else None
    picture = f"{_TAKE}/views/{{camera}}/{{frame_id}}.{{pictures}}"
    return {
        "layout": "house",
        "folder": _TAKE,
        "cameras": tuple(Camera(name, modality, "frame_id", picture, masks) for name, modality in cameras),
        "index": (f"{_TAKE}/take.yaml",),
        "annotation": (f"{_TAKE}/graphs/{{frame_id}}.json",),
        "files": {name: _FILES[name] for name in modalities if name in _FILES},
        "calibration": (f"{_TAKE}/calibration/{{camera}}.json", "calibration/{camera}.json"),
        "depth": f"{_TAKE}/depth/{{camera}}/{{frame}}.png",
        "take_files": dict(_TAKE_FILES[name] for name in modalities if name in _TAKE_FILES),
    }
