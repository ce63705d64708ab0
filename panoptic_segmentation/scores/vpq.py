"""Video panoptic quality (VPQ), each picture decoded once however many windows see it.

Data specification, section 7.5; the measure is that of Kim et al., "Video Panoptic Segmentation" (CVPR 2020). One joint
histogram of true and predicted ids per frame is all that is kept of the pictures; a window is a difference of two
running sums. Ids are whatever the pictures' colours encode: class colours in MM-OR, so that one "tube" is all pixels of
a class in the window, or instance ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from operating_room.errors import UserError
from panoptic_segmentation.scores.overlap import VOID, Records, VideoOverlap

WINDOWS = (1, 2, 4, 6, 8)  # frames per window that the published script reports
SUMMARY_WINDOWS = (4, 8)  # the published score is the mean over these two
DEFINITIONS = {
    "window": "n consecutive frames of one video, every start; videos shorter than n have none",
    "match": "same category and IoU > 0.5, predicted pixels on unlabelled ground truth left out of the union",
    "fn": "ground-truth tube without match, crowd left out",
    "fp": "predicted tube without match, unless more than half of it lies on unlabelled ground truth or crowd",
    "pq": "sum of matched IoU / (tp + fp/2 + fn/2), 0..1",
    "sq": "sum of matched IoU / tp",
    "rq": "tp / (tp + fp/2 + fn/2)",
    "average": "over the categories with tp + fp + fn > 0",
    "vpq": "100 * mean over windows of 4 and 8 frames of the average pq; 0 where no video has so many, as published",
}


def _ratio(part: float | int, whole: float | int) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class Quality:
    """The sums over windows for one category, and what follows from them."""

    iou: float = 0.0  # sum over matches
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Quality) -> Quality:
        return Quality(self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def support(self) -> int:
        """Tubes that were true or predicted."""
        return self.tp + self.fp + self.fn

    @property
    def scores(self) -> dict[str, float]:
        """pq, sq, rq, precision and recall, all 0..1; 0 where there is nothing to divide by."""
        half = self.tp + self.fp / 2 + self.fn / 2
        return {
            "pq": _ratio(self.iou, half),
            "sq": _ratio(self.iou, self.tp),
            "rq": _ratio(self.tp, half),
            "precision": _ratio(self.tp, self.tp + self.fp),
            "recall": _ratio(self.tp, self.tp + self.fn),
        }


@dataclass(frozen=True)
class WindowQuality:
    """VPQ for one window length."""

    per_video: dict[str, dict[int, Quality]]  # video id -> category id -> sums, only categories that occur
    names: dict[int, str]  # all categories, also those that do not occur

    @property
    def total(self) -> dict[int, Quality]:
        """Category id -> sums over all videos, only categories that occur."""
        total: dict[int, Quality] = {}
        for video in self.per_video.values():
            for category, quality in video.items():
                total[category] = total.get(category, Quality()) + quality
        return dict(sorted(total.items()))

    @property
    def average(self) -> dict[str, float]:
        """Every score averaged over the categories that occur; all 0 if none does."""
        scores = [quality.scores for category, quality in self.total.items() if category in self.names]
        return {name: _ratio(sum(score[name] for score in scores), len(scores)) for name in Quality().scores}


@dataclass(frozen=True)
class VideoQuality:
    """VPQ for several window lengths."""

    windows: dict[int, WindowQuality]  # frames per window -> quality
    names: dict[int, str]  # category id -> name

    @property
    def vpq(self) -> float:
        """The published score in percent: mean over windows of 4 and 8 frames."""
        return 100 * self._mean("pq")

    @property
    def too_short(self) -> list[int]:
        """Window lengths of the summary that no video has: as published they count as 0, whatever is predicted."""
        return [length for length in SUMMARY_WINDOWS if not self.windows[length].total]

    def _mean(self, score: str) -> float:
        return sum(self.windows[length].average[score] for length in SUMMARY_WINDOWS) / len(SUMMARY_WINDOWS)

    def to_json(self) -> dict[str, Any]:
        """Scores, sums and definitions as JSON values."""
        return {
            "definitions": DEFINITIONS,
            "vpq": self.vpq,
            "windows_of_no_video": self.too_short,
            "precision": self._mean("precision"),
            "recall": self._mean("recall"),
            "windows": {
                str(length): {
                    "average": window.average,
                    "per_class": {
                        self.names.get(category, str(category)): asdict(quality) | quality.scores
                        for category, quality in window.total.items()
                    },
                    "per_video": {
                        video: {self.names.get(category, str(category)): asdict(q) for category, q in per_class.items()}
                        for video, per_class in window.per_video.items()
                    },
                }
                for length, window in self.windows.items()
            },
        }

    def __str__(self) -> str:
        lines = [f"VPQ {self.vpq:.1f} (mean of windows of 4 and 8 frames)"]
        if lengths := self.too_short:
            told = " and ".join(map(str, lengths))
            lines.append(f"no video has {told} frames with anything on them: these windows count as 0, as published")
        lines.append("")
        lines.append(" ".join(f"{head:>9}" for head in ("frames", "VPQ", "SQ", "RQ", "precision", "recall")))
        for length, window in self.windows.items():
            values = " ".join(f"{100 * value:9.1f}" for value in window.average.values())
            lines.append(f"{length:9d} {values}")
        lines += ["", f"{'per class':20} {'VPQ4':>6} {'VPQ8':>6} {'true':>8} {'wrong':>8}  tubes of 4 frames"]
        short, long = (self.windows[length].total for length in SUMMARY_WINDOWS)
        for category in sorted({*short, *long}):
            tubes, name = short.get(category, Quality()), self.names.get(category, str(category))
            # What has no window of a length, as in short videos, has no score over it.
            qualities = (of_windows.get(category) for of_windows in (short, long))
            scores = " ".join(f"{'-':>6}" if one is None else f"{100 * one.scores['pq']:6.1f}" for one in qualities)
            lines.append(f"{name:20} {scores} {tubes.tp + tubes.fn:8d} {tubes.fp:8d}")
        return "\n".join(lines)


def video_quality(
    videos: Iterable[VideoOverlap], names: Mapping[int, str], lengths: Sequence[int] = WINDOWS
) -> VideoQuality:
    """VPQ over `videos` for every window length (those of the summary are always computed).

    Args:
        videos: per video, its frames' joint id histograms and segment records.
        names: the categories, id -> name.
        lengths: frames per window.

    Raises:
        UserError: a picture shows an id without record, or a record has no pixel.
    """
    lengths = sorted({*lengths, *SUMMARY_WINDOWS})
    per_length: dict[int, dict[str, dict[int, Quality]]] = {length: {} for length in lengths}
    for video in videos:
        for length in lengths:
            per_length[length][video.video_id] = window_sums(video, length)
    windows = {length: WindowQuality(per_video, dict(names)) for length, per_video in per_length.items()}
    return VideoQuality(windows, dict(names))


def instance_records(predicted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The prediction JSON with every object's number as its id, for pictures of instance numbers.

    VPQ then takes every predicted object as a tube of its own, instead of all pixels of a class as one: an object that
    goes on under another number breaks into two tubes, and a second object on a class that the ground truth draws once
    is a false positive. The published measure sees neither. MM-OR's ground truth has one segment per class and frame.

    Args:
        predicted: the prediction JSON whose records carry an `instance_id` (`predictions.write_frame`).

    Returns:
        the JSON, or None where records have no instance number: predictions in the published form have none.
    """
    frames = [frame for video in predicted["annotations"] for frame in video["annotations"]]
    segments = [segment for frame in frames for segment in frame["segments_info"]]
    if not segments or any("instance_id" not in segment for segment in segments):
        return None

    def numbered(frame: Mapping[str, Any]) -> dict[str, Any]:
        return {**frame, "segments_info": [s | {"id": s["instance_id"]} for s in frame["segments_info"]]}

    return {
        "annotations": [
            {**video, "annotations": [numbered(frame) for frame in video["annotations"]]}
            for video in predicted["annotations"]
        ]
    }


def window_sums(video: VideoOverlap, length: int) -> dict[int, Quality]:
    """Sums of IoU, TP, FP and FN per category over all windows of `length` frames of one video.

    Raises:
        UserError: in some window a predicted colour has no record or a record no pixel, or the recorded true areas are
            too small.
    """
    if len(video.joint) < length:
        return {}
    overlap = _window_sums(video.joint, length)  # (windows, truths, predictions)
    truth, predicted = _Tubes.of(video.truth, length), _Tubes.of(video.predicted, length)
    recorded = video.joint.sum(1)
    # Where a frame has no record of id 0, its pixels are of nothing: no part of the tube other frames may have of it.
    recorded[:, VOID] *= video.predicted.place[:, VOID] >= 0
    predicted_area = _window_sums(recorded, length)
    _check_predictions(video, predicted.present, predicted_area)
    void = overlap[:, VOID]  # predicted pixels where the ground truth has no label

    union = _window_sums(video.truth.area, length)[:, :, None] + (predicted_area - void)[:, None] - overlap
    same = truth.present[:, :, None] & predicted.present[:, None]
    same &= truth.category[:, :, None] == predicted.category[:, None]
    same[:, :, VOID] &= union[:, :, VOID] > 0  # the pixels of nothing are among those left out of it
    iou = np.where(same & ~truth.crowd[:, :, None], overlap / np.maximum(union, 1), 0.0)
    if (iou > 1).any():
        raise UserError(f"video {video.video_id}: the ground-truth file's areas are smaller than its pictures show")
    matched = iou > 0.5

    # Of several crowds of one class in a window only the last counts: what panoptic quality has always done.
    last_crowd = (np.where(truth.crowd, truth.order, 0)[:, :, None] * same).argmax(1, keepdims=True)
    crowded = np.take_along_axis(same & truth.crowd[:, :, None], last_crowd, 1)
    ignored = void + np.where(crowded, np.take_along_axis(overlap, last_crowd, 1), 0)[:, 0]

    missed = truth.present & ~truth.crowd & ~matched.any(2)
    spare = predicted.present & ~matched.any(1) & (2 * ignored <= predicted_area)
    sums: dict[int, Quality] = {}
    for category in np.union1d(truth.category[truth.present], predicted.category[predicted.present]).tolist():
        hits = iou[matched & (truth.category == category)[:, :, None]]
        false_positives = int((spare & (predicted.category == category)).sum())
        false_negatives = int((missed & (truth.category == category)).sum())
        quality = Quality(float(hits.sum()), len(hits), false_positives, false_negatives)
        if quality.support:
            sums[category] = quality
    return sums


@dataclass(frozen=True)
class _Tubes:
    """Per window and id: is there a record, and what does the first one in the window say."""

    present: Bool[np.ndarray, "windows ids"]
    category: Int[np.ndarray, "windows ids"]
    crowd: Bool[np.ndarray, "windows ids"]
    order: Int[np.ndarray, "windows ids"]  # rises with the place of the first record, from 1

    @classmethod
    def of(cls, records: Records, length: int) -> _Tubes:
        frames, ids = records.place.shape
        starts = np.arange(frames - length + 1)[:, None]
        # The next frame with a record of the id, at or after each frame.
        following = np.where(records.place >= 0, np.arange(frames)[:, None], frames)
        following = np.minimum.accumulate(following[::-1])[::-1][: len(starts)]
        present = following < starts + length
        first = np.where(present, following, 0), np.arange(ids)
        order = first[0] * (records.place.max(initial=0) + 1) + records.place[first] + 1
        return cls(present, records.category[first], records.crowd[first] & present, order)


def _window_sums(per_frame: Int[np.ndarray, "frames *ids"], length: int) -> Int[np.ndarray, "windows *ids"]:
    """Sums over every `length` consecutive frames."""
    running = np.concatenate([np.zeros_like(per_frame[:1]), per_frame.cumsum(0)])
    return running[length:] - running[:-length]


def _check_predictions(
    video: VideoOverlap, present: Bool[np.ndarray, "windows ids"], area: Int[np.ndarray, "windows ids"]
) -> None:
    wrong = np.argwhere((area > 0) != present)
    if len(wrong):
        window, place = wrong[0].tolist()
        what = "has a record but no pixel" if present[window, place] else "has pixels but no record"
        raise UserError(
            f"video {video.video_id}: predicted id {video.predicted.ids[place]} {what} from frame {window} on"
        )
