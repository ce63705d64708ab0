"""Camera pictures with the predicted classes drawn over them, to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path
from operating_room.files.readers import read_picture
from operating_room.work.behind import behind
from operating_room.work.progress import track
from panoptic_segmentation.data.frames import BadFrame
from panoptic_segmentation.data.pictures import resize_picture
from panoptic_segmentation.data.videos import Video
from panoptic_segmentation.inference import predictions

_BLEND = 0.5  # share of the class colour in a blend


def write_blends(videos: Iterable[Video], output: Path) -> list[str]:
    """Draw the predicted classes over the pictures: `blend/<frame>.jpg` beside the predictions; kept if there.

    Each has the time of its prediction: another one may be older, as one that `rsync -a` or `cp -p` has brought.
    Videos that are not predicted have none.

    Returns:
        a line for each video of which a picture is unreadable: it lacks the blends from there on.
    """
    bad = []
    for video in track(videos, "blending"):
        if not predictions.video_path(output, video.video_id).exists():
            continue
        places = (
            (picture, predictions.picture_path(output, video.video_id, picture.name)) for picture in video.pictures()
        )
        try:
            for _ in behind(_blend, places):
                pass
        except BadFrame as error:
            bad.append(f"video {video.video_id} lacks blends: {error}")
    return bad


def _blend(places: tuple[Path, Path]) -> None:
    from PIL import Image

    picture, predicted = places
    path = predicted.parent / "blend" / f"{predicted.stem}.jpg"
    time = predicted.stat().st_mtime_ns
    if path.exists() and path.stat().st_mtime_ns == time:
        return
    colors = read_picture(predicted)
    try:
        there = read_picture(picture)
    except UserError as error:
        raise BadFrame(str(error)) from error
    seen = resize_picture(there, *colors.shape[:2])
    share = _BLEND * colors.any(-1, keepdims=True)
    with atomic_path(path) as temporary:
        Image.fromarray((seen * (1 - share) + colors * share).astype(np.uint8)).save(temporary, quality=90)
        os.utime(temporary, ns=(time, time))
