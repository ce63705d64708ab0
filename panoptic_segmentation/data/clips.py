"""Training clips: frames of one video and the masks of its objects (stage-1 specification, section 9.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from operating_room.errors import UserError
from operating_room.files.readers import read_ids, read_picture
from panoptic_segmentation.config.settings import ClipSettings
from panoptic_segmentation.data.augmentation import draw_augmentation, resize_categories
from panoptic_segmentation.data.label_masks import TRAINING_ID_STEP, Size
from panoptic_segmentation.data.pictures import Picture, edge_size, resize_picture, resize_station
from panoptic_segmentation.data.videos import Video
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.model.segmenter import PIXEL_MEAN

CACHE_BYTES = 1 << 30  # of shrunken frames that all readers of one training keep together

Frame = tuple[Picture, UInt8[np.ndarray, "height width"]]  # picture and category ids


class ClipDataset(Dataset):
    """An endless training in order: item i is the same clip in every run with the same seed.

    Every video gives one clip per round; each round has its own order. With `factors`, one per frame of all videos, a
    clip's first frame is drawn from all frames instead, in proportion to them.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        prepared: Path,
        settings: ClipSettings,
        canvas: Size,
        seed: int,
        length: int,
        factors: Float[np.ndarray, " frames"] | None = None,
        readers: int = 1,
    ) -> None:
        """`readers` is how many copies of this data set, in processes of their own, keep frames in memory."""
        self.videos, self.prepared, self.settings = videos, prepared, settings
        self.ends = np.cumsum([len(video.frames) for video in videos])  # of the videos, in frames of all
        self.chances = None if factors is None else np.cumsum(factors) / np.sum(factors)
        self.canvas, self.seed, self.length = canvas, seed, length
        self.cache: dict[Path, Frame] = {}
        self.room = CACHE_BYTES // readers  # bytes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "frames 3 height width"], Clip]:
        """The frames and the annotated objects of one clip.

        Raises:
            UserError: a picture or a prepared mask is missing or unreadable.
        """
        rng = np.random.default_rng([self.seed, 1, index])
        number, first = self._draw_start(index, rng)
        video = self.videos[number]
        chosen = draw_frames(len(video.frames), self.settings, rng, first)
        part = replace(video, frames=tuple(video.frames[i] for i in chosen))
        frames = [self._read(video, *paths) for paths in zip(part.pictures(), part.prepared(self.prepared))]
        augmentation = draw_augmentation(*frames[0][0].shape[:2], self.settings, rng)
        pictures = np.stack([augmentation.picture(picture) for picture, _ in frames])
        categories = np.stack([augmentation.categories(ids) for _, ids in frames])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2), clip_of(torch.from_numpy(categories))

    def _draw_start(self, index: int, rng: np.random.Generator) -> tuple[int, int | None]:
        """Number of a video, and its frame if that is drawn too."""
        if self.chances is not None:
            frame = frame_at(self.chances, rng.random())
            number = int(np.searchsorted(self.ends, frame, side="right"))
            return number, frame - int(self.ends[number]) + len(self.videos[number].frames)
        turn, place = divmod(index, len(self.videos))
        return int(np.random.default_rng([self.seed, 0, turn]).permutation(len(self.videos))[place]), None

    def _read(self, video: Video, picture_path: Path, prepared_path: Path) -> Frame:
        """A frame; where training knows one size only, it is shrunk to it once and kept."""
        if picture_path in self.cache:
            return self.cache[picture_path]
        picture = read_picture(picture_path)
        if video.is_station:
            picture = resize_station(picture, self.canvas)
        categories = (read_ids(prepared_path) // TRAINING_ID_STEP).astype(np.uint8)
        height, width = categories.shape
        if (width, height) != self.canvas:
            raise UserError(
                f"{prepared_path}: is {width}x{height} px, this training has prepared it at {self.canvas[0]}x"
                f"{self.canvas[1]}: something else prepares masks in that folder; choose another (--ground-truth)"
            )
        if len(self.settings.shortest) > 1:
            return picture, categories
        size = edge_size(*picture.shape[:2], self.settings.shortest[0], self.settings.longest)
        frame = resize_picture(picture, *size), resize_categories(categories, *size)
        size_of_both = frame[0].nbytes + frame[1].nbytes
        if size_of_both <= self.room:
            self.room -= size_of_both
            self.cache[picture_path] = frame
        return frame


def frame_at(chances: Float[np.ndarray, " frames"], drawn: float) -> int:
    """The frame that a number of 0 to 1 falls on, given the sums of the chances up to each frame.

    The last sum may be rounded to less than 1, and a number between it and 1 be drawn: that is the last frame's.
    """
    return min(int(np.searchsorted(chances, drawn, side="right")), len(chances) - 1)


def draw_frames(count: int, settings: ClipSettings, rng: np.random.Generator, first: int | None = None) -> list[int]:
    """Positions of a clip's frames in a video of `count` frames.

    Where the reach is just that of the clip, consecutive frames from a random start; else a random frame and others
    within reach of it, in the order of time. `first` is a frame that must be among them. A video shorter than the clip
    gives all its frames, some repeatedly. The published code never draws the last start, draws the others with
    replacement and leaves repeats unsorted.
    """
    wanted = settings.frames
    if count <= wanted:
        chosen = [*range(count), *rng.integers(count, size=wanted - count).tolist()]
    elif 2 * settings.reach + 1 == wanted:
        low, high = (0, count - wanted) if first is None else (max(first - wanted + 1, 0), min(first, count - wanted))
        start = int(rng.integers(low, high + 1))
        chosen = list(range(start, start + wanted))
    else:
        first = int(rng.integers(count)) if first is None else first
        near = [i for i in range(first - settings.reach, first + settings.reach + 1) if 0 <= i < count and i != first]
        chosen = [first, *rng.choice(near, wanted - 1, replace=len(near) < wanted - 1).tolist()]
    chosen.sort(reverse=settings.reverse and bool(rng.random() < 0.5))
    return chosen


def clip_of(categories: UInt8[Tensor, "frames height width"]) -> Clip:
    """One object per class that has a pixel in the clip; each counts as present in all frames, as published."""
    classes = categories.unique()
    classes = classes[classes > 0]
    masks = categories[None] == classes[:, None, None, None]
    return Clip(classes.long(), masks, torch.ones(masks.shape[:2], dtype=torch.bool))


def collate(items: Sequence[tuple[UInt8[Tensor, "frames 3 _ _"], Clip]]) -> dict[str, Any]:
    """Clips as they travel to the device of the model: in 8 bits, each in its size (see `batch_of`)."""
    return {"frames": [frames for frames, _ in items], "clips": [clip for _, clip in items]}


def batch_of(clips: Sequence[UInt8[Tensor, "frames 3 _ _"]]) -> Float[Tensor, "clips frames 3 height width"]:
    """Clips of equal length as one batch; smaller pictures are padded at the right and bottom with the mean colour."""
    height, width = (max(frames.shape[axis] for frames in clips) for axis in (2, 3))
    first = clips[0]
    mean = torch.tensor(PIXEL_MEAN).to(first.device, non_blocking=True)[:, None, None]
    batch = mean.expand(len(clips), len(first), 3, height, width).clone()
    for place, frames in zip(batch, clips):
        place[:, :, : frames.shape[2], : frames.shape[3]] = frames
    return batch
