"""Predictions on disk in the published form (data specification, section 7.4).

Below `<output>/inference`: `pan_pred/<video id>/<frame>.png` with class colours, `pred_<split>.json` with the segment
records of a split's videos, and, ours, `videos/<video id>.json` with those of one video, written once its pictures are,
and `pan_instances/<video id>/<frame>.png`, grey, with the number of the object at each pixel: what class colours hide.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.locks import one_at_a_time
from operating_room.files.png import png_form, write_png
from operating_room.files.readers import read_json
from operating_room.recordings.masks import PREDICTION_ORIGIN

Size = tuple[int, int]  # width, height in px
Segments = Sequence[tuple[int, int]]  # segment id and category id, in the order in which the records are listed
_BEGUN = "begun"  # of a video in a prediction file whose pictures are written over
_SEEN = "picture_bytes"  # of the pictures that a video was predicted from; in its own file alone


def picture_path(output: Path, video_id: str, file_name: str) -> Path:
    """The predicted picture of a frame; `file_name` is that of the camera's picture."""
    return output / "inference" / "pan_pred" / video_id / f"{Path(file_name).stem}.png"


def instance_path(output: Path, video_id: str, file_name: str) -> Path:
    """The picture of a frame's instance numbers; only where `write_frame` was given them."""
    return output / "inference" / "pan_instances" / video_id / f"{Path(file_name).stem}.png"


def video_path(output: Path, video_id: str) -> Path:
    """The records of one video."""
    return output / "inference" / "videos" / f"{video_id}.json"


def origin_path(output: Path) -> Path:
    """Which model, with which settings, the predictions are of."""
    return output / "inference" / PREDICTION_ORIGIN


def split_path(output: Path, split_name: str) -> Path:
    """The published prediction file; `split_name` is the published one (`train_small`)."""
    return output / "inference" / f"pred_{split_name}.json"


def write_frame(
    output: Path,
    video_id: str,
    file_name: str,
    ids: Int[np.ndarray, "height width"],
    segments: Segments,
    size: Size,
    labels: Labels,
    instances: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Write the picture of a frame, resized to `size`, and return its record.

    Args:
        ids: segment id per pixel at network resolution, 0 = nothing; areas and boxes are counted here.
        segments: those of the video; those without a pixel here or, where `size` is smaller, in the picture, and those
            of a class beyond the categories are left out: a record whose colour is nowhere could not be scored.
        size: width and height of the picture.
        labels: the categories of the domain.
        instances: segment id -> number of the object, 1 to 255, the same in all frames of the video (such as 1 + its
            query). If given, it is the record's `instance_id`, and a second picture shows it (`instance_path`);
            segments without a number are left out of both.
    """
    from scipy import ndimage

    categories = np.zeros(max([0, *(number for number, _ in segments)]) + 1, np.uint8)
    numbers = np.zeros_like(categories)
    places, areas = ndimage.find_objects(ids), np.bincount(ids.ravel(), minlength=len(categories))
    down, across = _shown(ids.shape[0], size[1]), _shown(ids.shape[1], size[0])
    shown = ids[np.unique(down)][:, np.unique(across)]
    is_shown = np.bincount(shown.ravel(), minlength=len(categories)) > 0
    records = []
    for number, category in segments:
        if category >= len(labels.categories) or not is_shown[number]:
            continue
        categories[number] = category
        rows, columns = places[number - 1]
        records.append(
            {
                "bbox": [columns.start, rows.start, columns.stop - 1 - columns.start, rows.stop - 1 - rows.start],
                "area": int(areas[number]),
                "category_id": category,
                "iscrowd": 0,
                "id": labels.categories[category].color_id,
            }
        )
        if instances is not None and number in instances:
            records[-1]["instance_id"] = numbers[number] = instances[number]
    if instances is not None:
        picture = numbers.take(ids).take(across, 1).take(down, 0)
        write_png(instance_path(output, video_id, file_name), picture[..., None])
    colors = np.concatenate([labels.colors, np.full((len(labels.colors), 1), 255, np.uint8)], axis=1)
    pixels = colors[categories].view(np.uint32)[:, 0]  # a colour and its opacity as one number
    picture = pixels.take(ids).take(across, 1).take(down, 0)
    write_png(picture_path(output, video_id, file_name), picture.view(np.uint8).reshape(size[1], size[0], 4))
    return {"segments_info": records, "file_name": file_name}


def _shown(length: int, new: int) -> Int[np.ndarray, " new"]:
    """The rows or columns that are seen after PIL's resize to the nearest pixel, which looks at each axis alone."""
    from PIL import Image

    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(line.resize((new, 1), Image.Resampling.NEAREST))[0]


def sizes_of(pictures: Sequence[Path]) -> list[int | None]:
    """How many bytes each picture has, which tells others of the same names; the time would not survive a copy."""
    found: list[int | None] = []
    for picture in pictures:
        try:
            found.append(picture.stat().st_size)
        except OSError:  # told when it is to be read
            found.append(None)
    return found


def write_video(
    output: Path, video_id: str, frames: list[dict[str, Any]], sizes: Sequence[int | None] = ()
) -> dict[str, Any]:
    """Write and return the records of a video, after all its pictures: from now on it counts as done.

    `sizes` are those of the camera's pictures, in bytes, from before they were read.
    """
    video = {"annotations": frames, "video_id": video_id}
    write_json(video_path(output, video_id), {**video, _SEEN: list(sizes)})
    return video


def read_video(
    output: Path, video_id: str, file_names: Sequence[str], sizes: Sequence[int | None] = ()
) -> dict[str, Any] | None:
    """The records of a video that is there, as far as `file_names` or further; else None.

    It is not there if its records or one of its pictures are missing or damaged, or if the camera's pictures had other
    `sizes`, as far as both are known: it has to be predicted again then.
    """
    path = video_path(output, video_id)
    if not path.exists():
        return None
    try:
        video = read_json(path)
        frames = [(frame["file_name"], frame["segments_info"]) for frame in video["annotations"]]
        numbered = any("instance_id" in segment for _, segments in frames for segment in segments)
        seen = list(video.pop(_SEEN, ()))  # none are of an older version
    except (UserError, KeyError, TypeError):
        return None
    if [name for name, _ in frames[: len(file_names)]] != list(file_names) or video.get("video_id") != video_id:
        return None
    if any(before != now for before, now in zip(seen, sizes)):
        return None
    pictures = [
        find(output, video_id, name) for find in (picture_path, instance_path)[: 1 + numbered] for name, _ in frames
    ]
    return video if all(map(_is_whole, pictures)) else None


def _is_whole(picture: Path) -> bool:
    """Whether a PNG is there and as it was written, by its checksums: that takes no decoding."""
    try:
        png_form(picture.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def begin_videos(output: Path, video_ids: Sequence[str]) -> None:
    """Forget the records of videos before their pictures are written over: no others must be scored with these.

    Raises:
        UserError: a prediction file that has some cannot be written.
    """
    for video_id in video_ids:
        video_path(output, video_id).unlink(missing_ok=True)
    with one_at_a_time(_lock(output)):
        for path in _lock(output).parent.glob("pred_*.json") if video_ids else ():
            try:
                videos = _videos_in(path)
            except (UserError, KeyError, TypeError):
                continue  # damaged: nobody takes anything from it
            if begun := [video_id for video_id in video_ids if video_id in videos]:
                # An empty one keeps its place until the file is written next.
                videos |= {video_id: {"annotations": [], "video_id": video_id, _BEGUN: True} for video_id in begun}
                write_json(path, {"annotations": list(videos.values())})


def write_split(output: Path, split_name: str, videos: Iterable[dict[str, Any]]) -> Path:
    """Write the published prediction file of a split and return its path.

    What earlier runs, or others at the same time, have put into it under other video ids stays.
    """
    path = split_path(output, split_name)
    merged: dict[str, dict[str, Any]] = {}
    with one_at_a_time(_lock(output)):
        if path.exists():
            try:
                merged = _videos_in(path)
            except (UserError, KeyError, TypeError) as error:
                told = "holds only what is predicted now; give all takes, what is there is not predicted again"
                print(f"{path}: was damaged ({error}) and {told}", file=sys.stderr)
        merged |= {video["video_id"]: video for video in videos}
        write_json(path, {"annotations": [video for video in merged.values() if _BEGUN not in video]})
    return path


def _lock(output: Path) -> Path:
    """What a process has while it changes prediction files."""
    return output / "inference" / ".lock"


def _videos_in(path: Path) -> dict[str, dict[str, Any]]:
    return {video["video_id"]: video for video in read_json(path)["annotations"]}


def segments_of_masks(
    masks: Float[np.ndarray, "instances frames height width"],
    scores: Float[np.ndarray, " instances"],
    labels: Int[np.ndarray, " instances"],
) -> tuple[Int[np.ndarray, "frames height width"], list[tuple[int, int]]]:
    """Segment ids and (id, category) of instances given by soft masks (0..1).

    Each pixel goes to the instance with the largest score * mask, if that instance's mask is at least 0.5 there.
    Instances without pixel are left out.
    """
    winner = (scores[:, None, None, None] * masks).argmax(0)
    certain = np.take_along_axis(masks, winner[None], 0)[0] >= 0.5
    winner = np.where(certain, winner, -1)
    found = np.unique(winner[certain])
    ids = np.zeros(len(masks) + 1, np.int32)  # the last one is for -1
    ids[found] = np.arange(1, len(found) + 1)
    return ids[winner], [(int(ids[instance]), int(labels[instance])) for instance in found]
