"""Masks of whole takes: every camera's frames through a trained model into the published prediction files.

CTVIS and the online model go through a video frame by frame and never look ahead; the offline model sees all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from operating_room import layout
from operating_room.categories import CATEGORIES
from operating_room.errors import UserError
from operating_room.files import write_json
from operating_room.progress import track
from operating_room.readers import read_json, read_picture
from panoptic_segmentation import predictions
from panoptic_segmentation.checkpoints import VideoModel, build_model, load_checkpoint, load_model
from panoptic_segmentation.config import Config, InferenceSettings
from panoptic_segmentation.ground_truth import Video
from panoptic_segmentation.model.panoptic import PanopticVideo, Sizes, panoptic_video
from panoptic_segmentation.model.video import ctvis_frames, offline_video, online_frames
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS
from panoptic_segmentation.pictures import resize_for_test, resize_station


def load(path: Path, config: Config | None = None) -> tuple[VideoModel, InferenceSettings]:
    """A trained model on the best device, and how it is to be used.

    Args:
        path: a .safetensors of ours, which says itself what it is, or a published .pth.
        config: of a published checkpoint; its test settings also go before those of a file of ours.

    Raises:
        UserError: no such file, or a .pth without configuration.
    """
    if path.suffix == ".safetensors":
        model, card = load_model(path)
        test: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in card.preprocessing.items()
        }
        settings = config.test if config else InferenceSettings(**test)
    elif config is None:
        raise UserError(f"{path}: does not say how it is built; give the configuration it was trained with")
    else:
        model, settings = build_model(config.kind, config.segmenter, config.video), config.test
        print(load_checkpoint(path, model))
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), settings


def predict(
    model: VideoModel, settings: InferenceSettings, videos: Sequence[Video], output: Path, split_name: str, origin: Path
) -> Path:
    """Predict `videos` and write the published files below `output`; videos that are there already are kept.

    Args:
        split_name: of the prediction file, `pred_<split_name>.json`.
        origin: file of the model; another model's predictions in `output` are not mixed with its own.

    Returns:
        the path of the prediction file.

    Raises:
        UserError: there is no video, a picture is unreadable, `output` cannot be written or is another model's.
    """
    if not videos:
        raise UserError(
            "the chosen takes have no frame to predict; choose other takes, or all frames, not annotated ones"
        )
    _claim(output, origin, settings)
    done = [_predict_video(model, settings, video, output) for video in track(videos, "segmenting", len(videos))]
    return predictions.write_split(output, split_name, done)


def segment_video(
    model: VideoModel, settings: InferenceSettings, windows: Iterable[Float[Tensor, "frames 3 height width"]]
) -> Iterator[PanopticVideo]:
    """The panoptic result of a video, given its frames (RGB, 0..255) in windows: frame by frame, or all at once.

    Without looking ahead, a query's class scores are those of the frame, or of its mean logits so far. The mean is good
    where training has taught queries to stay with their objects; else it loses 6 VPQ.
    """
    if isinstance(model, OfflineDVIS):
        video = offline_video(model, windows)
        yield _panoptic(video.probabilities, video.masks(), video.sizes, settings)
        return
    frames = ctvis_frames(model, windows) if isinstance(model, CTVIS) else online_frames(model, windows)
    total: Tensor | None = None
    for count, frame in enumerate(frames, 1):
        logits = frame.logits
        if settings.running_mean:
            total = logits if total is None else total + logits
            logits = total / count
        yield _panoptic(logits.softmax(-1), [frame.masks], frame.sizes, settings)


def _panoptic(
    probabilities: Float[Tensor, "queries classes"],
    masks: Iterable[Float[Tensor, "queries h w"]],
    sizes: Sizes,
    settings: InferenceSettings,
) -> PanopticVideo:
    if settings.at_canvas:
        sizes = replace(sizes, output=(settings.canvas[1], settings.canvas[0]))
    thresholds = settings.score_threshold, settings.overlap_threshold
    return panoptic_video(probabilities, masks, sizes, len(CATEGORIES), *thresholds)


@torch.inference_mode()
def _predict_video(model: VideoModel, settings: InferenceSettings, video: Video, output: Path) -> dict[str, Any]:
    """The records of a video; its pictures are written unless they are there."""
    names = [picture.name for picture in video.pictures()]
    done = predictions.read_video(output, video.video_id, names)
    if done is not None:
        return done
    results = segment_video(model, settings, _windows(model, settings, video))
    frames = ((ids, result.segments) for result in results for ids in result.ids)
    records = []
    for name, (ids, segments) in zip(names, frames, strict=True):
        labels = [(segment.id, segment.category_id) for segment in segments]
        records.append(predictions.write_frame(output, video.video_id, name, ids.numpy(), labels, settings.canvas))
    return predictions.write_video(output, video.video_id, records)


def _windows(
    model: VideoModel, settings: InferenceSettings, video: Video
) -> Iterator[Float[Tensor, "frames 3 height width"]]:
    """The pictures of a video at network size, some at a time, on the model's device."""
    device = next(model.parameters()).device
    paths = video.pictures()
    for start in range(0, len(paths), settings.window):
        pictures = []
        for path in paths[start : start + settings.window]:
            picture = read_picture(path)
            if layout.is_station(video.camera):
                picture = resize_station(picture, settings.canvas)
            pictures.append(resize_for_test(picture, settings.shortest, settings.longest))
        yield torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().to(device)


def _claim(output: Path, origin: Path, settings: InferenceSettings) -> None:
    """Note in `output` which model its predictions are of.

    Raises:
        UserError: they are of another one.
    """
    digest = hashlib.sha256(origin.read_bytes()).hexdigest()
    claim = {"model": origin.name, "sha256": digest, "settings": json.loads(json.dumps(asdict(settings)))}
    path = output / "inference" / "model.json"
    if path.exists() and read_json(path) != claim:
        raise UserError(f"{path}: {output} holds predictions of another model or setting; remove it or choose another")
    write_json(path, claim)
