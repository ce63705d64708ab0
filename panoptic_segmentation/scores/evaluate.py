"""VPQ and STQ of predictions on disk against the ground truth (data specification, section 7.5)."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from operating_room.domain.stored import require_domain
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json, require
from operating_room.recordings.dataset import Dataset
from operating_room.scores.fingerprints import installed_version
from operating_room.work.processes import ALL, Share
from panoptic_segmentation.config.settings import Config, read_test
from panoptic_segmentation.data.ground_truth import BadMasks, ground_truth_path, prepare
from panoptic_segmentation.data.label_masks import Size
from panoptic_segmentation.data.videos import Video, find_videos
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.loading import load
from panoptic_segmentation.inference.predict import LeftOut, predict
from panoptic_segmentation.scores.overlap_cache import cached_overlaps
from panoptic_segmentation.scores.stq import SequenceQuality, tracking_quality
from panoptic_segmentation.scores.vpq import VideoQuality, instance_records, video_quality

_MAKER = "`mmor panoptic predict` with this --out and --name"  # what makes the files that are scored
PREDICT_AGAIN = "predict again, or give the --take and --limit of what is predicted"  # where frames are missing
DEFINITIONS = {
    "classes": "the published measure: all pixels of a class in a window are one tube",
    "instances": "the same with every predicted object as a tube of its own; no window reaches over the seam of two "
    "parts of a video that were predicted apart, as numbers begin anew there; null where the files have no numbers",
    "stq": "Weber et al. 2021: square root of association * iou, as the published script counts",
}


@dataclass(frozen=True)
class Evaluation:
    """All scores of a prediction file."""

    classes: VideoQuality  # as published
    instances: VideoQuality | None  # identity switches count; None for files without instance numbers
    tracking: SequenceQuality
    left_out: tuple[str, ...] = ()  # a line for each video that is not scored: a frame or a true mask is missing

    def __str__(self) -> str:
        lines = [str(self.classes), ""]
        if self.instances is not None:
            per_window = ", ".join(
                f"{100 * window.average['pq']:.1f} over {length}" for length, window in self.instances.windows.items()
            )
            lines.append(f"VPQ by instance, identity switches count: {self.instances.vpq:.1f} ({per_window} frames)")
        track = self.tracking
        lines.append(
            f"STQ {100 * track.stq:.1f} (association {100 * track.association:.1f}, IoU {100 * track.iou:.1f})"
        )
        return "\n".join(lines)


def predict_and_evaluate(
    config: Config, dataset: Dataset, output: Path, prepared: Path, workers: int = 1, share: Share = ALL
) -> Iterator[Evaluation]:
    """Predict and score every split of `config.test_data` with `config.weights`, below `output`.

    Several data sets of one split are predicted into one file, `pred_<split>.json`. Of several processes that share
    the videos (see `predict`) the first one scores.

    Raises:
        UserError: see `load`, `predict` and `evaluate`; where a split is not there, or an index or a picture of it is
            unreadable, the other splits are scored first.
    """
    if not config.weights:
        raise UserError("--eval-only needs a model; add MODEL.WEIGHTS and its file")
    origin = Path(config.weights)
    model, settings = load(origin, dataset.domain, config)
    splits: dict[str, list[Video]] = {}
    problems: dict[str, str] = {}  # of splits
    for choice in config.test_choices:
        takes, videos = choice.takes(dataset), splits.setdefault(choice.split_name, [])
        try:
            videos += find_videos(dataset, takes)
        except UserError as error:
            problems[choice.split_name] = f"{choice.split_name}: is not predicted: {error}"
    truth = "_".join(dict.fromkeys(choice.name for choice in config.test_choices)) + "_ground_truth"
    for split, videos in splits.items():
        if not videos:
            told = f"{dataset.root}: has no annotated frame of the split {split}; unpack it, or change DATASETS.TEST"
            problems.setdefault(split, told)
        if split in problems:
            continue
        try:
            predict(model, settings, videos, output, split, origin, share)
        except LeftOut as error:
            problems[split] = str(error)
            continue
        if share.rank == 0:
            try:
                evaluation = evaluate(videos, output, split, prepared, f"{truth}_{split}", settings.canvas, workers)
            except UserError as error:  # a damaged mask of the truth, for one: it costs the scores of its split
                problems[split] = f"{split}: is predicted and not scored: {error}"
                continue
            if evaluation.left_out:
                problems[split] = f"{split}: {'; '.join(evaluation.left_out)}"
            yield evaluation
    if problems and share.rank == 0:
        raise LeftOut("; ".join(problems.values()))


def predicted_size(output: Path) -> Size:
    """The size of the pictures that `predict` has written below `output`.

    Raises:
        UserError: it has written none there, or the file that says so is damaged.
    """
    path = predictions.origin_path(output)
    if not path.exists() and any(path.parent.glob("pred_*.json")):  # `predict` would refuse to write beside them
        told = f"{path}: is not there to tell the size of the predicted pictures, as beside those of another program"
        raise UserError(f"{told}; give --canvas (of the published ones 2048x1536)")
    require(path, _MAKER)
    there = read_json(path)
    settings = there.get("settings") if isinstance(there, dict) else None
    if not isinstance(settings, dict) or "canvas" not in settings:
        raise UserError(f"{path}: does not tell the size of the predicted pictures; give --canvas")
    return read_test({"canvas": settings["canvas"]}, path, "settings").canvas


def scored_size(output: Path, wanted: Size | None) -> Size:
    """The size at which predictions are scored: their own where `predict` has noted it, else `wanted`.

    Raises:
        UserError: neither is known.
    """
    if wanted is None:
        return predicted_size(output)
    if not predictions.origin_path(output).exists():
        return wanted
    there = predicted_size(output)
    if there != wanted:
        told = f"the predictions in {output} are {there[0]}x{there[1]} px and are scored at that size"
        print(f"--canvas {wanted[0]}x{wanted[1]}: {told}", file=sys.stderr)
    return there


def of_predicted_takes(videos: Sequence[Video], output: Path, split_name: str) -> list[Video]:
    """The videos of those takes of which something is predicted below `output`; the other takes are named.

    Raises:
        UserError: the prediction file is missing or damaged, or holds none of the takes.
    """
    path = predictions.split_path(output, split_name)
    there = {_whole(video["video_id"]) for video in _predicted_videos(path)}
    found = {video.take for video in videos if video.whole_id in there}
    if videos and not found:
        raise UserError(
            f"{path}: holds predictions of no annotated take in the data folder; predict them, or give --data"
        )
    if left_out := dict.fromkeys(video.take.sample_name for video in videos if video.take not in found):
        print(f"not scored, because {path.name} has no prediction of them: {', '.join(left_out)}", file=sys.stderr)
    return [video for video in videos if video.take in found]


def results_path(output: Path, split_name: str) -> Path:
    """Where `evaluate` writes its results."""
    return output / "inference" / f"vpq_{split_name}.json"


def evaluate(
    videos: Sequence[Video],
    output: Path,
    split_name: str,
    prepared: Path,
    truth_name: str,
    canvas: Size,
    workers: int = 1,
) -> Evaluation:
    """Compare the predictions of `videos` below `output` with the ground truth, which is completed below `prepared`.

    Videos that are not wholly predicted are left out before anything is prepared, then those with a mask that cannot
    be used. The result is also written, with
    definitions and what was compared, to `<output>/inference/vpq_<split_name>.json`.
    An interrupted evaluation goes on where it stopped.

    Args:
        truth_name: of the ground-truth file, such as `hybridor_ground_truth_val`.
        canvas: width and height of all pictures, px.
        workers: processes that prepare the ground truth.

    Raises:
        UserError: no video is wholly predicted, or predictions do not fit the ground truth or were made for another
            domain.
    """
    if predictions.origin_path(output).exists() and videos:  # another program's tell nothing
        require_domain(predictions.origin_path(output).parent, videos[0].domain)
    path = predictions.split_path(output, split_name)
    predicted, folder_of, left_out = _predictions_of(videos, _predicted_videos(path), path)
    videos = [video for video in videos if video.video_id not in left_out]
    try:
        truth = prepare(videos, prepared, truth_name, canvas, workers)
    except BadMasks as error:
        for video in videos:
            if wrong := next((error.of[mask] for mask in video.masks() if mask in error.of), None):
                left_out[video.video_id] = f"video {video.video_id} is not scored: {wrong}"
        videos = [video for video in videos if video.video_id not in left_out]
        if not videos:
            raise
        truth = prepare(videos, prepared, truth_name, canvas, workers)
    pictures = {
        (video.video_id, picture.name): prepared_picture
        for video in videos
        for picture, prepared_picture in zip(video.pictures(), video.prepared(prepared, True))
    }
    names = {category["id"]: category["name"] for category in truth["categories"]}

    def true_picture(video_id: str, name: str) -> Path:
        return pictures[video_id, name]

    def class_picture(video_id: str, name: str) -> Path:
        return predictions.picture_path(output, folder_of.get((video_id, name), video_id), name)

    def instance_picture(video_id: str, name: str) -> Path:
        return predictions.instance_path(output, folder_of.get((video_id, name), video_id), name)

    cache = output / "inference" / "overlaps"
    overlaps = list(cached_overlaps(cache / "classes", truth, true_picture, predicted, class_picture))
    numbered, instances = _with_numbers(predicted, output, sorted(set(folder_of.values()))), None
    if numbered is not None:
        by_number = cached_overlaps(cache / "instances", truth, true_picture, numbered, instance_picture)
        starts = {video["video_id"]: _seams(video, folder_of) for video in truth["annotations"]}
        instances = video_quality((part for video in by_number for part in video.cut(starts[video.video_id])), names)
    scores = video_quality(overlaps, names), instances, tracking_quality(overlaps).overall
    evaluation = Evaluation(*scores, tuple(left_out.values()))
    report = {
        "version": installed_version(),
        "split": split_name,
        "takes": sorted({video.take.sample_name for video in videos}),
        "videos": len(videos),
        "frames": sum(len(video.frames) for video in videos),
        "left_out": list(left_out.values()),
        "ground_truth_sha256": _digest(ground_truth_path(prepared, truth_name)),
        "predictions_sha256": _digest(path),
        "measures": DEFINITIONS,
        **evaluation.classes.to_json(),
        "instances": None if instances is None else instances.to_json(),
        "stq": asdict(evaluation.tracking) | {"stq": evaluation.tracking.stq},
    }
    _tell_replaced(results_path(output, split_name), report["takes"])
    write_json(results_path(output, split_name), report, indent=1)
    return evaluation


def _tell_replaced(path: Path, takes: Sequence[str]) -> None:
    """Scores of other takes that stood in a results file are told to be lost; the file is that of a split as a rule."""
    try:
        before = read_json(path) if path.exists() else {}
    except UserError:  # damaged
        return
    there = before.get("takes") if isinstance(before, dict) else None
    if lost := [name for name in there if name not in takes] if isinstance(there, list) else []:
        told = ", ".join(map(str, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        print(f"{path}: the scores that stood in it, with those of {told}, are replaced", file=sys.stderr)


def _predictions_of(
    videos: Sequence[Video], predicted: Sequence[dict[str, Any]], path: Path
) -> tuple[dict[str, Any], dict[tuple[str, str], str], dict[str, str]]:
    """The predictions rearranged into the ground truth's videos, and the folder of each frame's picture.

    Videos are cut into parts by their number of frames, and more frames may be predicted than are annotated. A frame of
    another part of the same camera is taken where the part of the same name lacks it. Videos of which frames are not
    predicted are not among them: a line for each tells.

    Raises:
        UserError: the file is damaged, has a frame twice with different records, or no video is wholly predicted.
    """
    of_frames: dict[tuple[str, str], list[dict[str, Any]]] = {}
    found: dict[tuple[str, str], tuple[str, list[dict[str, Any]]]] = {}
    try:
        for video in predicted:
            name = video["video_id"]
            for frame in video["annotations"]:
                if of_frames.setdefault((name, frame["file_name"]), segments := frame["segments_info"]) != segments:
                    told = f"video {name} has frame {frame['file_name']} twice, with different segments"
                    raise UserError(f"{path}: {told}; remove one of them, or predict again")
                for key in (name, _whole(name)):
                    found.setdefault((key, frame["file_name"]), (name, segments))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is no prediction file ({error!r}); predict again") from error
    annotations, folders, left_out = [], {}, {}
    for video in videos:
        names = [picture.name for picture in video.pictures()]
        matches = {name: found.get((video.video_id, name), found.get((video.whole_id, name))) for name in names}
        there = {name: match for name, match in matches.items() if match is not None}
        if lost := [name for name in names if name not in there]:
            told = f"{len(lost)} of {len(names)} frames without prediction, first {lost[0]}"
            left_out[video.video_id] = f"video {video.video_id} is not scored: {told}"
            continue
        folders |= {(video.video_id, name): folder for name, (folder, _) in there.items()}
        frames = [{"file_name": name, "segments_info": segments} for name, (_, segments) in there.items()]
        annotations.append({"video_id": video.video_id, "annotations": frames})
    if left_out and not annotations:
        raise UserError(f"{path}: holds no video wholly; {PREDICT_AGAIN}; first: {next(iter(left_out.values()))}")
    return {"annotations": annotations}, folders, left_out


def _seams(video: Mapping[str, Any], folder_of: Mapping[tuple[str, str], str]) -> list[int]:
    """The places of frames of a true video whose predictions begin anew: the frame before was in another part.

    More frames may be predicted than are annotated, and parts are cut by the number of frames.
    """
    video_id = video["video_id"]
    parts = [folder_of.get((video_id, frame["file_name"]), video_id) for frame in video["annotations"]]
    return [place for place, (before, part) in enumerate(pairwise(parts), 1) if part != before]


def _with_numbers(predicted: dict[str, Any], output: Path, folders: Sequence[str]) -> dict[str, Any] | None:
    """What `instance_records` says, if the pictures of numbers are there; what keeps from scoring them is told.

    The published form has no such pictures, and who copies it leaves them behind.
    """
    numbered = instance_records(predicted)
    if numbered is None:
        frames = (frame for video in predicted["annotations"] for frame in video["annotations"])
        if any("instance_id" in segment for frame in frames for segment in frame["segments_info"]):
            print("not scored by instance: some records have no instance_id, as of objects beyond 255", file=sys.stderr)
        return None
    for folder in folders:
        pictures = predictions.instance_path(output, folder, "any.png").parent
        if not pictures.is_dir():
            print(f"not scored by instance: {pictures} is not there, copy it or predict again", file=sys.stderr)
            return None
    return numbered


def _predicted_videos(path: Path) -> list[dict[str, Any]]:
    """The videos of a prediction file.

    Raises:
        UserError: it is missing, damaged or none.
    """
    require(path, _MAKER)
    content = read_json(path)
    videos = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(videos, list) or not all(
        isinstance(video, dict) and isinstance(video.get("video_id"), str) for video in videos
    ):
        raise UserError(f"{path}: is no prediction file; predict again")
    return videos


def _whole(video_id: str) -> str:
    """The id of a video without that of its part."""
    return re.sub(r"_part\d+$", "", video_id)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
