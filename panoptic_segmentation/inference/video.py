"""Inference on videos, window by window (stage-1 specification, sections 5.1, 6.1 and 7).

CTVIS, the online and the encoder-only model go forward in time and yield one frame after the other; what is kept from
window to window is one set of query embeddings. The offline model needs the whole video before it can say anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from computing.machine import free_memory
from panoptic_segmentation.inference.panoptic import Sizes
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.matching import follow, full_precision
from panoptic_segmentation.model.refiner import VideoPrediction
from panoptic_segmentation.model.segmenter import DIVISIBILITY, SegmenterOutput
from panoptic_segmentation.model.tracker import TrackerState
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS, OnlineDVIS

ROOM = 8_000_000_000  # bytes of a GPU that stay free: a window at the published size takes 4 GB, so do masks enlarged
Window = Float[Tensor, "_ 3 height width"]  # RGB, 0..255, on the model's device


@dataclass(frozen=True)
class FramePrediction:
    """One frame of a video; query k is the same object in all its frames."""

    logits: Float[Tensor, "queries classes"]  # the last class is "no object"
    masks: Float[Tensor, "queries h w"]  # logits at the mask stride
    sizes: Sizes  # the output has the size of the picture


@torch.no_grad()
def ctvis_frames(model: CTVIS, windows: Iterable[Window]) -> Iterator[FramePrediction]:
    """Segment each frame and align its queries with the frame before, by re-identification embeddings."""
    previous: Tensor | None = None
    for window in windows:
        seen = model.segmenter(window)
        sizes = _sizes(seen)
        orders = follow(previous, seen.reid)
        previous = seen.reid[-1][orders[-1]]
        for logits, masks, order in zip(seen.logits, seen.masks, orders):
            yield FramePrediction(logits[order], masks[order], sizes)


@torch.no_grad()
def online_frames(model: OnlineDVIS, windows: Iterable[Window]) -> Iterator[FramePrediction]:
    """Segment each frame and carry the queries on by the tracker."""
    state: TrackerState | None = None
    for window in windows:
        seen = model.segmenter(window)
        tracked = model.tracker(seen.embeddings, seen.embeddings_raw, seen.mask_features, state)
        state = tracked.state
        for logits, masks in zip(tracked.last.logits, tracked.last.masks):
            yield FramePrediction(logits, masks, _sizes(seen))


@torch.no_grad()
def encoder_only_frames(model: EncoderOnly, windows: Iterable[Window]) -> Iterator[FramePrediction]:
    """Segment each frame with the queries that the frame before left."""
    segmenter = model.segmenter
    queries = segmenter.first_queries(1)
    for window in windows:
        images = segmenter.normalise(window)
        height_width = window.shape[-2], window.shape[-1]
        sizes = Sizes((images.shape[-2], images.shape[-1]), height_width, height_width)
        tokens, grid = segmenter.encoder(images)
        for of_frame in tokens.split(1):
            (found,), queries = segmenter.look(of_frame, grid, queries)
            yield FramePrediction(found.logits[0], found.masks[0], sizes)


def causal_frames(model: CTVIS | OnlineDVIS | EncoderOnly, windows: Iterable[Window]) -> Iterator[FramePrediction]:
    """The frames of a video one after the other, by whatever model needs none that come later."""
    if isinstance(model, EncoderOnly):
        return encoder_only_frames(model, windows)
    return ctvis_frames(model, windows) if isinstance(model, CTVIS) else online_frames(model, windows)


def mean_logits(frames: Sequence[FramePrediction]) -> Float[Tensor, "queries classes"]:
    """Class logits averaged over time, before the soft-max."""
    return torch.stack([full_precision(frame.logits) for frame in frames]).mean(0)


def waiting(x: Float[Tensor, "*shape"], room: int = ROOM) -> Float[Tensor, "*shape"]:
    """`x` where it waits for the end of its video: on its device as long as that has room, else in main memory.

    Going there and back takes the time of several layers, and the device is idle meanwhile.
    """
    return x if x.device.type == "cpu" or free_memory(x.device) > room else x.cpu()


def beside_device(kept: int, device: torch.device, room: int = ROOM) -> int:
    """Of so many bytes that wait for the end of a video those that will do so in main memory (see `waiting`)."""
    return kept if device.type == "cpu" else max(0, kept - max(0, free_memory(device) - room))


@dataclass(frozen=True)
class OfflineVideo:
    """The offline model's result for a whole video."""

    refined_logits: Float[Tensor, "queries classes"]
    tracked_logits: Float[Tensor, "queries classes"]  # the tracker's, averaged over time
    prediction: VideoPrediction
    mask_features: list[Float[Tensor, "_ width h w"]]  # per window, on the device or in main memory
    sizes: Sizes

    @property
    def probabilities(self) -> Float[Tensor, "queries classes"]:
        """Class scores of the queries."""
        return refined_probabilities(self.refined_logits, self.tracked_logits)

    def masks(self) -> Iterator[Float[Tensor, "queries h w"]]:
        """Mask logits, frame by frame, on the device of the model."""
        features = (frame for window in self.mask_features for frame in window)
        for embedding, feature in zip(self.prediction.mask_embeddings, features):
            yield torch.einsum("qc,chw->qhw", embedding, feature.to(embedding.device, embedding.dtype))


@torch.no_grad()
def offline_video(model: OfflineDVIS, windows: Iterable[Window]) -> OfflineVideo:
    """Segment and track window by window, then refine the whole video at once.

    The mask features of all frames are kept until the masks are made (see `kept_bytes` and `waiting`).
    """
    state: TrackerState | None = None
    states, embeddings, logits, mask_features = [], [], [], []
    for window in windows:
        seen = model.segmenter(window)
        tracked = model.tracker(seen.embeddings, seen.embeddings_raw, seen.mask_features, state)
        state = tracked.state
        states.append(tracked.states)
        embeddings.append(seen.embeddings_raw)
        logits.append(tracked.last.logits)
        mask_features.append(waiting(seen.mask_features))
    refined = model.refiner(torch.cat(states), torch.cat(embeddings))
    tracked_logits = full_precision(torch.cat(logits)).mean(0)
    return OfflineVideo(full_precision(refined.last.logits), tracked_logits, refined.last, mask_features, _sizes(seen))


def refined_probabilities(
    refined: Float[Tensor, "queries classes"], tracked: Float[Tensor, "queries classes"]
) -> Float[Tensor, "queries classes"]:
    """The greater of refiner's and tracker's score per class; "no object" is left to the refiner alone."""
    probabilities = refined.softmax(-1)
    others = torch.maximum(probabilities, tracked.softmax(-1))[:, :-1]
    return torch.cat((others, probabilities[:, -1:]), dim=1)


def kept_bytes(
    model: CTVIS | OnlineDVIS | OfflineDVIS | EncoderOnly,
    frames: int,
    height: int,
    width: int,
    products: torch.dtype | None = None,
) -> int:
    """Bytes that wait for the end of a video: the offline model's mask features, or of others the queries' masks.

    Args:
        products: their format, which is that of masks; None is float32, in which mask features always are.
    """
    config, offline = model.segmenter.config, isinstance(model, OfflineDVIS)
    step, stride = config.patch if isinstance(model, EncoderOnly) else DIVISIBILITY, config.mask_stride
    cells = (-(-height // step) * step // stride) * (-(-width // step) * step // stride)
    size = 4 if offline or products is None else products.itemsize
    return size * frames * cells * (config.width if offline else config.queries)


def _sizes(seen: SegmenterOutput) -> Sizes:
    return Sizes(seen.padded_size, seen.image_size, seen.image_size)
