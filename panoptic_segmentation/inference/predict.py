"""Masks of whole takes: every camera's frames through a trained model into the published prediction files.

Stage-1 specification, sections 4.1, 5.1 and 8. Predicting is resumable: a video whose files are there is kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from computing.machine import autocast, half_dtype, require_memory
from computing.meeting import wait_for_others
from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN, Domain
from operating_room.domain.stored import store_domain
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.recordings.dataset import Dataset
from operating_room.work.behind import behind
from operating_room.work.processes import ALL, Share, is_first, processes_here
from operating_room.work.progress import track
from panoptic_segmentation.config.config_keys import CAUSAL, FLOAT32, KEYS, WHOLE_VIDEO
from panoptic_segmentation.config.settings import InferenceSettings
from panoptic_segmentation.data.frames import BadFrame, shape_of, windows
from panoptic_segmentation.data.pictures import edge_size
from panoptic_segmentation.data.videos import Video, find_videos, first_frames
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.device_memory import full_memory_told
from panoptic_segmentation.inference.loading import load, model_path, read_test_config
from panoptic_segmentation.inference.panoptic import (
    CTVIS_THINGS,
    CausalPanoptic,
    PanopticVideo,
    Segment,
    Sizes,
    ctvis_panoptic,
    panoptic_video,
)
from panoptic_segmentation.inference.video import (
    FramePrediction,
    beside_device,
    causal_frames,
    kept_bytes,
    mean_logits,
    offline_video,
    waiting,
)
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS
from panoptic_segmentation.weights.checkpoints import VideoModel


class LeftOut(UserError):
    """Takes or videos are not predicted, because their index or pictures cannot be used; all others are."""


_NO_FRAMES = (
    "the chosen takes have no frame to predict; choose other takes, or --all-frames if they have no annotated masks"
)
_SMALLER = (
    "free some of it and run again, what is predicted is kept; or lower MODEL.MASK_FORMER.TEST.WINDOW_SIZE or "
    "INPUT.MIN_SIZE_TEST and choose another --out"
)
_MOST_INSTANCES = 255  # numbers that a picture of instances can show


def export_masks(
    model: Path,
    config_file: Path | None,
    dataset: Dataset,
    output: Path,
    takes: Sequence[str] | None = None,
    annotated: bool = True,
    share: Share = ALL,
    limit: int | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[Path]:
    """Predict all takes that are on disk, one prediction file per split: the masks that stage 2 sees.

    Every score is that of the frame or of the frames so far, so that a scene graph never knows what comes; with the
    offline model there is no such way, and it is said.

    Args:
        takes: names of takes or splits; None means all.
        annotated: only frames with an annotated mask, as published; else all.
        share: see `predict`.
        limit: only so many frames of each camera.
        overrides: `KEY VALUE ...` of the settings of inference, see `read_test_config`.

    Raises:
        UserError: see `predict`; where an index or a picture is unreadable, all else is predicted first.
    """
    model_path(model)  # before the data are looked through
    videos: dict[str, list[Video]] = {}
    lost: list[str] = []
    found = videos_to_predict(dataset, dataset.choose(takes), annotated, lost)
    for video in first_frames(found, limit):
        videos.setdefault(_split_of(video), []).append(video)
    if not videos:
        raise UserError(_NO_FRAMES)
    loaded, settings = load(model, dataset.domain, read_test_config(model, config_file, overrides))
    if isinstance(loaded, OfflineDVIS) and is_first():
        print(
            f"warning: {model} looks into the future; scene graphs from its masks could not be made live. "
            "The CTVIS model does not",
            file=sys.stderr,
        )
    settings, problems = replace(settings, task=CAUSAL), lost if share.together and share.rank == 0 else []
    for split, chosen in videos.items():
        try:
            path = predict(loaded, settings, chosen, output, split, model, share)
        except LeftOut as error:
            problems.append(str(error))
        else:
            yield path
    if not share.together:
        _note(lost)
    if problems:
        raise LeftOut("; ".join(problems))


def videos_to_predict(dataset: Dataset, takes: Sequence[Take], annotated: bool, left_out: list[str]) -> list[Video]:
    """The videos of `takes` (see `find_videos`); with `annotated` the frames that are not among them are counted.

    Takes of one's own may have annotated masks of few frames or of none, and a user wants the masks of all.
    """
    videos = find_videos(dataset, takes, annotated=annotated, left_out=left_out)
    if annotated and is_first():
        every, chosen = _frames_of(find_videos(dataset, takes, annotated=False, left_out=[])), _frames_of(videos)
        if others := len(every - chosen):
            told = f"{others} of {len(every)} frames have no annotated mask and are not predicted"
            print(f"note: {told}; --all-frames predicts them, too", file=sys.stderr)
    return videos


def _frames_of(videos: Iterable[Video]) -> set[tuple[str, str]]:
    """Parts of a video share frames."""
    return {(video.whole_id, frame) for video in videos for frame in video.frames}


def predict(
    model: VideoModel,
    settings: InferenceSettings,
    videos: Sequence[Video],
    output: Path,
    split_name: str,
    origin: Path,
    share: Share = ALL,
) -> Path:
    """Predict `videos` and write the published files below `output`; videos that are there already are kept.

    Args:
        split_name: of the prediction file, `pred_<split_name>.json`; other videos that it holds stay in it.
        origin: file or folder of the model; another model's predictions in `output` are not mixed with its own.
        share: one of several processes (`work.processes.share`), which predicts only its share of the videos. The first
            one waits for the others, tells what is wrong and writes the prediction file; of an array of jobs none does.

    Returns:
        the path of the prediction file.

    Raises:
        LeftOut: a picture is unreadable; all other videos are predicted first.
        UserError: there is no video, the device lacks memory or the number format that the settings ask for, or
            `output` cannot be written or is another model's.
    """
    if not videos:
        raise UserError(_NO_FRAMES)
    if isinstance(model, OfflineDVIS) or settings.task == WHOLE_VIDEO:
        _check_memory(model, settings, videos)
    products_of(settings, _device(model))
    _claim(output, model_path(origin), settings, videos[0].domain)
    done, bad = _predict_videos(model, settings, videos[share.rank :: share.processes], output)
    if not share.together:
        _note(bad)
        return predictions.split_path(output, split_name)
    if share.processes > 1:
        wait_for_others()
        if share.rank > 0:
            return predictions.split_path(output, split_name)
        done, bad = _predict_videos(model, settings, videos, output)  # all that could be predicted is there now
    path = predictions.write_split(output, split_name, done)
    if bad:
        print(*bad, sep="\n", file=sys.stderr)
        raise LeftOut(f"{path}: {len(bad)} of {len(videos)} videos are not in it, the others are; first: {bad[0]}")
    return path


def _note(lines: Sequence[str]) -> None:
    """What a job of an array has left out: the run that collects tries again."""
    print("".join(f"note: {line}\n" for line in lines), end="", file=sys.stderr)


def _predict_videos(
    model: VideoModel, settings: InferenceSettings, videos: Sequence[Video], output: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all videos that can be predicted, and a line for each that cannot."""
    done, bad = [], []
    there = [video for video in videos if predictions.video_path(output, video.video_id).exists()]
    looked_at = track(there, "looking at earlier predictions", len(there)) if there else ()
    known = {video.video_id: _known(video, output) for video in looked_at}
    begun = [video.video_id for video in videos if known.get(video.video_id) is None]
    predictions.begin_videos(output, begun)
    for video in track(videos, "segmenting", len(videos)):
        try:
            records = known.get(video.video_id)
            if records is None:
                records = _predict_video(model, settings, video, output)
            done.append(records)
        except BadFrame as error:
            bad.append(f"video {video.video_id} is left out: {error}")
    return done, bad


def segment_video(
    model: VideoModel,
    settings: InferenceSettings,
    windows: Iterable[Float[Tensor, "frames 3 height width"]],
    things: int,
) -> Iterator[PanopticVideo]:
    """The panoptic result of a video, given its frames (RGB, 0..255) in windows: frame by frame, or all at once.

    Classes below `things`, which are the categories, are objects; the published evaluator counts at least so many for
    CTVIS.

    Without looking ahead, a query's class scores are those of the frame, or of its mean logits so far. The mean is good
    where training has taught queries to stay with their objects; else it loses 6 VPQ.
    """
    thresholds = settings.score_threshold, settings.overlap_threshold
    if isinstance(model, OfflineDVIS):
        video = offline_video(model, windows)
        sizes = _output_sizes(video.sizes, settings)
        yield panoptic_video(video.probabilities, video.masks(), sizes, things, *thresholds)
        return
    frames = causal_frames(model, windows)
    if settings.task == WHOLE_VIDEO:
        kept = [FramePrediction(frame.logits, waiting(frame.masks), frame.sizes) for frame in frames]
        logits, masks = mean_logits(kept), [frame.masks for frame in kept]
        sizes = _output_sizes(kept[0].sizes, settings)
        if isinstance(model, CTVIS):
            yield ctvis_panoptic(logits, masks, sizes, max(things, CTVIS_THINGS))
        else:
            yield panoptic_video(logits.softmax(-1), masks, sizes, things, *thresholds)
        return
    causal: CausalPanoptic | None = None
    for frame in frames:
        if causal is None:
            sizes = _output_sizes(frame.sizes, settings)
            causal = CausalPanoptic(sizes, things, *thresholds, so_far=settings.running_mean)
        yield causal.add(frame.logits, frame.masks)


def _known(video: Video, output: Path) -> dict[str, Any] | None:
    """The records of a video that was predicted before, of these pictures."""
    pictures = video.pictures()
    names, sizes = [picture.name for picture in pictures], predictions.sizes_of(pictures)
    return predictions.read_video(output, video.video_id, names, sizes)


@torch.inference_mode()
def _predict_video(model: VideoModel, settings: InferenceSettings, video: Video, output: Path) -> dict[str, Any]:
    """The records of a video; its pictures are written while the model goes on."""
    names, sizes = [picture.name for picture in video.pictures()], predictions.sizes_of(video.pictures())
    device, labels = _device(model), video.domain.labels

    def write(frame: tuple[str, tuple[Int[np.ndarray, "height width"], list[Segment]]]) -> dict[str, Any]:
        name, (ids, segments) = frame
        found = [(segment.id, segment.category_id) for segment in segments]
        instances = {segment.id: segment.id for segment in segments if segment.id <= _MOST_INSTANCES}
        return predictions.write_frame(output, video.video_id, name, ids, found, settings.canvas, labels, instances)

    full = full_memory_told(device, f"segment video {video.video_id}", _SMALLER)
    with full, autocast(device, products_of(settings, device)):
        results = segment_video(model, settings, windows(video, settings, device), len(labels.categories))
        frames = ((ids.numpy(), result.segments) for result in results for ids in result.frames())
        records = list(behind(write, zip(names, frames, strict=True)))
    return predictions.write_video(output, video.video_id, records, sizes)


def _device(model: VideoModel) -> torch.device:
    return next(model.parameters()).device


def products_of(settings: InferenceSettings, device: torch.device) -> torch.dtype | None:
    """The format of products and convolutions; None is that of the weights.

    Raises:
        UserError: the device lacks it.
    """
    return None if settings.dtype == FLOAT32 else half_dtype(device, settings.dtype)


def _output_sizes(sizes: Sizes, settings: InferenceSettings) -> Sizes:
    return replace(sizes, output=(settings.canvas[1], settings.canvas[0])) if settings.at_canvas else sizes


def _check_memory(model: VideoModel, settings: InferenceSettings, videos: Sequence[Video]) -> None:
    """Say how much memory will wait for the end of the longest video.

    Raises:
        UserError: neither the device nor the machine has so much.
    """
    sizes = [edge_size(*shape_of(video, settings.canvas), settings.shortest, settings.longest) for video in videos]
    counts = [len(video.frames) for video in videos]
    products = products_of(settings, _device(model))
    need, frames = max((kept_bytes(model, n, *size, products), n) for n, size in zip(counts, sizes))
    here = processes_here()
    each = f" in each of {here} processes" if here > 1 else ""
    if isinstance(model, OfflineDVIS):
        what, advice = "the offline model keeps the mask features of a whole video", "use the online model"
    else:
        what, advice = "TASK vps keeps the masks of a whole video", "give MODEL.MASK_FORMER.TEST.TASK causal"
    beside = here * beside_device(need, _device(model))
    require_memory(beside, f"{what}{each}, which", advice=f"{advice} or a smaller INPUT.MIN_SIZE_TEST")
    if is_first():
        print(f"{what}: {need / 1e9:.1f} GB for {frames} frames")


def _split_of(video: Video) -> str:
    """The split a take is exported with, the largest that it is in; takes of one's own have a file of their own."""
    domain = video.domain
    return max(domain.splits_of(video.take), key=lambda split: len(domain.split_takes(split)), default=OWN)


def _claim(output: Path, origin: Path, settings: InferenceSettings, domain: Domain) -> None:
    """Note in `output` which model its predictions are of.

    Raises:
        UserError: they are of another one.
    """
    with origin.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    claim = {"model": origin.name, "sha256": digest, "settings": json.loads(json.dumps(asdict(settings)))}
    path = predictions.origin_path(output)
    there = any(path.parent.glob("pan_pred/*")) or any(path.parent.glob("pred_*.json"))  # before others claim it, too
    others = _differences(path, claim) if path.exists() else f"that do not tell their model (no {path.name})" * there
    if others:
        raise UserError(f"{output}: holds predictions {others}; choose another folder for these (--out), those stay")
    store_domain(path.parent, domain)
    write_json(path, claim)


def _differences(path: Path, claim: Mapping[str, Any]) -> str:
    """In what the predictions that `path` is about are others than those of `claim`; empty if in nothing."""
    try:
        there = read_json(path)
        # A file of an older version lacks settings that came later; their defaults are what it did.
        settings = json.loads(json.dumps(asdict(InferenceSettings()))) | there["settings"]
        name, digest = str(there["model"]), there["sha256"]
    except (UserError, KeyError, TypeError) as error:
        return f"of a model that {path.name} does not tell ({error})"
    if digest != claim["sha256"]:
        return f"of another model, {name}" if name != claim["model"] else f"of another model called {name}, too"
    keys = {field: key for key, field in KEYS.items()}
    changed = [
        f"{keys.get(f'test.{field}', field)} {settings[field]!r} (now {value!r})"
        for field, value in claim["settings"].items()
        if settings[field] != value
    ]
    return f"made with {', '.join(changed)}" if changed else ""
