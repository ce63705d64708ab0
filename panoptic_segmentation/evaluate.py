"""VPQ of predictions on disk against the ground truth (data specification, section 7.5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files import write_json
from operating_room.readers import read_json
from panoptic_segmentation import predictions
from panoptic_segmentation.ground_truth import Size, Video, ground_truth_path, prepare
from panoptic_segmentation.overlap import read_overlaps
from panoptic_segmentation.stq import tracking_quality
from panoptic_segmentation.vpq import VideoQuality, video_quality


def evaluate(
    videos: Sequence[Video],
    output: Path,
    split_name: str,
    prepared: Path,
    truth_name: str,
    canvas: Size,
    workers: int = 1,
) -> VideoQuality:
    """Compare the predictions of `videos` below `output` with the ground truth, which is completed below `prepared`.

    The result is also written, with STQ and what was compared, to `<output>/inference/vpq_<split_name>.json`.

    Args:
        truth_name: of the ground-truth file, such as `hybridor_ground_truth_val`.
        canvas: width and height of all pictures, px.
        workers: processes that prepare the ground truth.

    Raises:
        UserError: predictions are missing or do not fit the ground truth.
    """
    truth = prepare(videos, prepared, truth_name, canvas, workers)
    path = predictions.split_path(output, split_name)
    predicted, folder_of = _predictions_of(videos, read_json(path), path)
    pictures = {
        (video.video_id, picture.name): prepared_picture
        for video in videos
        for picture, prepared_picture in zip(video.pictures(), video.prepared(prepared, True))
    }
    overlaps = list(
        read_overlaps(
            truth,
            lambda video_id, name: pictures[video_id, name],
            predicted,
            lambda video_id, name: predictions.picture_path(output, folder_of[video_id, name], name),
        )
    )
    quality = video_quality(overlaps, {category["id"]: category["name"] for category in truth["categories"]})
    tracking = tracking_quality(overlaps).overall
    report = {
        "version": version("mmor"),
        "split": split_name,
        "takes": sorted({video.take.sample_name for video in videos}),
        "videos": len(videos),
        "frames": sum(len(video.frames) for video in videos),
        "ground_truth_sha256": _digest(ground_truth_path(prepared, truth_name)),
        "predictions_sha256": _digest(path),
        **quality.to_json(),
        "stq": asdict(tracking) | {"stq": tracking.stq},
    }
    write_json(output / "inference" / f"vpq_{split_name}.json", report, indent=1)
    return quality


def _predictions_of(
    videos: Sequence[Video], predicted: dict[str, Any], path: Path
) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """The predictions rearranged into the ground truth's videos, and the folder of each frame's picture.

    Videos are cut into parts by their number of frames, and more frames may be predicted than are annotated. A frame of
    another part of the same camera is taken where the part of the same name lacks it.
    """
    found: dict[tuple[str, str], tuple[str, list[dict[str, Any]]]] = {}
    try:
        for video in predicted["annotations"]:
            name = video["video_id"]
            for frame in video["annotations"]:
                for key in (name, re.sub(r"_part\d+$", "", name)):
                    found.setdefault((key, frame["file_name"]), (name, frame["segments_info"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is no prediction file ({error!r}); predict again") from error
    annotations, folders = [], {}
    for video in videos:
        frames = []
        for picture in video.pictures():
            key = video.video_id, picture.name
            match = found.get(key, found.get((video.whole_id, picture.name)))
            if match is not None:
                folders[key], segments = match
                frames.append({"file_name": picture.name, "segments_info": segments})
        annotations.append({"video_id": video.video_id, "annotations": frames})
    return {"annotations": annotations}, folders


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
