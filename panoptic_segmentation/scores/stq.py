"""Segmentation and tracking quality (STQ), from the same joint histograms as VPQ.

Weber et al., "STEP: Segmenting and Tracking Every Pixel" (NeurIPS Datasets 2021), as the published stand-alone script
has it (data specification, section 7.5): the segments of a video are numbered in order of first appearance, from 0, and
number 0 counts as crowd. MM-OR's paper does not report STQ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from panoptic_segmentation.scores.overlap import VOID, Records, VideoOverlap

_UNLABELLED = -1  # the last row and column of a confusion matrix


@dataclass(frozen=True)
class SequenceQuality:
    """STQ's two factors, each 0..1: association (do tubes stay together) and class-wise IoU."""

    association: float
    iou: float

    @property
    def stq(self) -> float:
        """The geometric mean of both."""
        return (self.association * self.iou) ** 0.5


@dataclass(frozen=True)
class SegmentationTrackingQuality:
    """STQ over all videos and per video."""

    overall: SequenceQuality
    per_video: dict[str, SequenceQuality]
    lengths: dict[str, int]  # frames per video


def tracking_quality(videos: Iterable[VideoOverlap]) -> SegmentationTrackingQuality:
    """STQ of `videos`."""
    videos = list(videos)
    classes = 1 + max((int(side.category.max(initial=0)) for v in videos for side in (v.truth, v.predicted)), default=0)
    per_video, lengths = {}, {}
    total_association, total_tubes = 0.0, 0
    confusion = np.zeros((classes + 1, classes + 1), int)
    for video in videos:
        association, tubes = _association(video)
        mine = _confusion(video, classes)
        per_video[video.video_id] = SequenceQuality(association / max(tubes, 1), _mean_iou(mine))
        lengths[video.video_id] = len(video.joint)
        total_association += association
        total_tubes += tubes
        confusion += mine
    overall = SequenceQuality(total_association / max(total_tubes, 1), _mean_iou(confusion))
    return SegmentationTrackingQuality(overall, per_video, lengths)


def _association(video: VideoOverlap) -> tuple[float, int]:
    """Sum of the association quality of a video's true tubes, and their number. A tube is an id with one class."""
    true_tubes, predicted_tubes = _tubes(video.truth), _tubes(video.predicted)
    crowd = (np.arange(len(video.truth.ids)) == VOID + 1) & (true_tubes > 0)  # the first recorded id has number 0
    shared = np.zeros((true_tubes.max() + 1, predicted_tubes.max() + 1), int)
    places = true_tubes[:, :, None], predicted_tubes[:, None]
    np.add.at(shared, places, np.where(crowd[:, :, None], 0, video.joint))
    true_area, predicted_area = shared[1:].sum(1), shared[:, 1:].sum(0)
    shared = shared[1:, 1:]
    union = true_area[:, None] + predicted_area - shared
    tubes = true_area > 0
    per_tube = (shared**2 / np.maximum(union, 1)).sum(1)[tubes] / true_area[tubes]
    return float(per_tube.sum()), int(tubes.sum())


def _tubes(records: Records) -> Int[np.ndarray, "frames ids"]:
    """A number per id and class, from 1; 0 where the frame has no record of the id."""
    numbers = records.category * len(records.ids) + np.arange(len(records.ids)) + 1
    numbers[records.place < 0] = 0
    found = np.union1d(numbers, 0)
    return np.searchsorted(found, numbers)


def _confusion(video: VideoOverlap, classes: int) -> Int[np.ndarray, "truth predicted"]:
    """Pixels per true and predicted class; true pixels without label are left out."""
    true_class, predicted_class = (
        np.where(records.place >= 0, records.category, _UNLABELLED) for records in (video.truth, video.predicted)
    )
    confusion = np.zeros((classes + 1, classes + 1), int)
    np.add.at(confusion, (true_class[:, :, None], predicted_class[:, None]), video.joint)
    confusion[_UNLABELLED] = 0
    return confusion


def _mean_iou(confusion: Int[np.ndarray, "truth predicted"]) -> float:
    """Mean IoU over the classes that occur; "predicted as nothing" counts as one of them, as published."""
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return float((hits / np.maximum(union, 1)).sum() / max(np.count_nonzero(union), 1))
