"""What VPQ and STQ need of a video: joint histograms of true and predicted ids, and the segment records beside them.

Every picture is decoded here, once. Data specification, sections 7.3-7.5, says how the files look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt16, UInt32

from operating_room.errors import UserError
from operating_room.files.readers import read_ids
from operating_room.work.progress import track

UNKNOWN, VOID = 0, 1  # first two places of `Records.ids`: colours without any record in the video, and id 0
_ID_COUNT = 1 << 24  # an id is the colour of a pixel
_MOST_IDS = 1 << 16  # of a video: the places that `Records.lookup` can name


@dataclass(frozen=True)
class Records:
    """The segment records of one video, ground truth or prediction, by frame and id.

    Where a frame lists an id several times, as the published form does of several objects of one class, the areas add
    up and the first record gives crowd; all must be of one category.
    """

    ids: tuple[int, ...]  # -1 for unknown colours, then 0, then the recorded ids in order of first appearance
    place: Int[np.ndarray, "frames ids"]  # position of the id's first record in the frame's list, -1 = no record
    category: Int[np.ndarray, "frames ids"]
    area: Int[np.ndarray, "frames ids"]  # px, as recorded
    crowd: Bool[np.ndarray, "frames ids"]

    def between(self, start: int, end: int) -> Records:
        """Those of the frames from `start` up to `end`."""
        arrays = (array[start:end] for array in (self.place, self.category, self.area, self.crowd))
        return Records(self.ids, *arrays)

    def lookup(self) -> UInt16[np.ndarray, " colors"]:
        """Id -> place in `ids`; UNKNOWN elsewhere, which is 0 so that untouched pages of the table cost no memory."""
        table = np.zeros(_ID_COUNT, np.uint16)
        table[list(self.ids[VOID:])] = np.arange(VOID, len(self.ids))
        return table


@dataclass(frozen=True)
class VideoOverlap:
    """One video: how many pixels each true segment shares with each predicted one, frame by frame."""

    video_id: str
    truth: Records
    predicted: Records
    joint: Int[np.ndarray, "frames truths predictions"]  # px, by place in truth.ids and predicted.ids

    def cut(self, starts: Sequence[int]) -> Iterator[VideoOverlap]:
        """The stretches that begin at the frames `starts`, each a video of its own; the whole video if there are none.

        Args:
            starts: rising, without 0.
        """
        if not starts:
            yield self
            return
        for start, end in pairwise((0, *starts, len(self.joint))):
            sides = self.truth.between(start, end), self.predicted.between(start, end)
            yield VideoOverlap(f"{self.video_id} from frame {start}", *sides, self.joint[start:end])


def read_overlaps(
    truth: Mapping[str, Any],
    truth_picture: Callable[[str, str], Path],
    predicted: Mapping[str, Any],
    predicted_picture: Callable[[str, str], Path],
) -> Iterator[VideoOverlap]:
    """Decode the pictures of every video of the ground truth, one video after the other.

    Args:
        truth: the ground-truth JSON (section 7.3).
        truth_picture: (video id, file name of a frame) -> its evaluation PNG.
        predicted: the prediction JSON (section 7.4); videos that the ground truth does not know are left out.
        predicted_picture: (video id, file name of a frame) -> its predicted PNG.

    Raises:
        UserError: a video, frame or picture has no prediction, sizes differ, or a predicted colour has no record.
    """
    try:
        true_videos = {video["video_id"]: _by_file(video) for video in truth["annotations"]}
        predicted_videos = {video["video_id"]: _by_file(video) for video in predicted["annotations"]}
        categories = {category["id"] for category in truth["categories"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"ground truth or prediction file: not in the published form, {error!r}") from error
    for video_id, frames in track(true_videos.items(), "VPQ", len(true_videos)):
        if video_id not in predicted_videos:
            raise UserError(f"video {video_id} has no predictions; predict it or evaluate other takes")
        missing = sorted(frames.keys() - predicted_videos[video_id].keys())
        if missing:
            raise UserError(f"video {video_id}: {len(missing)} frames without prediction, first {missing[0]}")
        true_records = _records(video_id, frames, categories)
        of_same = {name: predicted_videos[video_id][name] for name in frames}
        predicted_records = _records(video_id, of_same, categories)
        tables = true_records.lookup(), predicted_records.lookup()
        shape = len(true_records.ids), len(predicted_records.ids)
        joint = np.zeros((len(frames), *shape), int)
        for frame, name in enumerate(frames):
            paths = truth_picture(video_id, name), predicted_picture(video_id, name)
            true_ids = read_ids(paths[0])
            try:
                predicted_ids = read_ids(paths[1])
            except UserError as error:
                raise UserError(f"{error}, or predict again: what is damaged is made anew") from error
            if true_ids.shape != predicted_ids.shape:
                sizes = [f"{ids.shape[1]}x{ids.shape[0]}" for ids in (true_ids, predicted_ids)]
                raise UserError(f"{paths[1]}: is {sizes[1]}, the ground truth {paths[0]} is {sizes[0]}")
            joint[frame] = _joint_histogram(true_ids, predicted_ids, *tables, shape)
            if joint[frame, :, UNKNOWN].any():
                strange = np.setdiff1d(predicted_ids, predicted_records.ids[VOID:])[0]
                raise UserError(f"{paths[1]}: id {strange} has no segment record in the prediction file")
        yield VideoOverlap(video_id, true_records, predicted_records, joint)


def _joint_histogram(
    true_ids: UInt32[np.ndarray, "height width"],
    predicted_ids: UInt32[np.ndarray, "height width"],
    true_table: UInt16[np.ndarray, " colors"],
    predicted_table: UInt16[np.ndarray, " colors"],
    shape: tuple[int, int],
) -> Int[np.ndarray, "truths predictions"]:
    """Pixels per pair of places. Runs of equal pairs are looked up once: segmentations consist of long ones."""
    true_ids, predicted_ids = true_ids.ravel(), predicted_ids.ravel()
    changes = true_ids[1:] != true_ids[:-1]
    changes |= predicted_ids[1:] != predicted_ids[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=len(true_ids))
    pairs = true_table[true_ids[starts]].astype(np.intp) * shape[1] + predicted_table[predicted_ids[starts]]
    return np.bincount(pairs, lengths, shape[0] * shape[1]).astype(int).reshape(shape)


def _by_file(video: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {frame["file_name"]: frame["segments_info"] for frame in video["annotations"]}


def _records(video_id: str, frames: Mapping[str, Sequence[Mapping[str, Any]]], categories: Set[int]) -> Records:
    """Arrays of the `segments_info` lists of a video's frames, which are by their file names."""
    places = {-1: UNKNOWN, 0: VOID}
    try:
        for segments in frames.values():
            for segment in segments:
                places.setdefault(int(segment["id"]), len(places))
        if min(places) < -1 or max(places) >= _ID_COUNT:
            raise UserError(f"video {video_id}: a segment id is no colour, that is, not within 0 to {_ID_COUNT - 1}")
        if len(places) > _MOST_IDS:
            raise UserError(f"video {video_id}: has {len(places)} segment ids, of which {_MOST_IDS} can be told apart")
        shape = len(frames), len(places)
        place, category, area = np.full(shape, -1), np.zeros(shape, int), np.zeros(shape, int)
        crowd = np.zeros(shape, bool)
        for frame, (name, segments) in enumerate(frames.items()):
            for position, segment in enumerate(segments):
                at = frame, places[int(segment["id"])]
                area[at] += int(segment.get("area", 0))
                if place[at] < 0:
                    place[at], category[at] = position, int(segment["category_id"])
                    crowd[at] = bool(segment.get("iscrowd", 0))
                elif category[at] != int(segment["category_id"]):
                    both = f"category {category[at]} and of category {segment['category_id']}"
                    told = f"id {segment['id']} is of {both} at once, and one would be lost; give each its own"
                    raise UserError(f"video {video_id}, frame {name}: {told}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"video {video_id}: a segment record lacks id or category_id ({error!r})") from error
    if unknown := set(category[place >= 0].tolist()) - categories:
        raise UserError(
            f"video {video_id}: a record is of category {min(unknown)}, which the ground truth does not list"
        )
    return Records(tuple(places), place, category, area, crowd)
