"""The pictures of a video, read ahead by several threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import active_count

import numpy as np
import pytest
import torch

from operating_room.files.readers import read_picture
from panoptic_segmentation.config.settings import InferenceSettings
from panoptic_segmentation.data.frames import BadFrame, windows
from panoptic_segmentation.data.pictures import resize_for_test
from panoptic_segmentation.data.videos import Video, find_videos
from tests.operating_room.tiny_dataset import picture, write
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take

SETTINGS = InferenceSettings(shortest=24, longest=64, window=3)
CPU = torch.device("cpu")


@pytest.fixture
def video(tmp_path: Path) -> Video:
    """Eight frames of a room camera, each another one."""
    video = next(video for video in find_videos(write_take(tmp_path, 8), [TAKE]) if not video.is_station)
    generator = np.random.default_rng(0)
    for path in video.pictures():
        write(path, picture(pixels=generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)))
    return video


@pytest.mark.parametrize("window", [1, 2, 3, 8, 20])
def test_windows_are_the_pictures_in_their_order(video: Video, window: int) -> None:
    parts = list(windows(video, replace(SETTINGS, window=window), CPU))
    assert all(len(part) <= window for part in parts)
    plain = [resize_for_test(read_picture(path), 24, 64) for path in video.pictures()]
    assert torch.equal(torch.cat(parts), torch.from_numpy(np.stack(plain)).permute(0, 3, 1, 2).float())


def test_a_bad_frame_is_told_at_its_window(video: Video) -> None:
    path = video.pictures()[4]
    path.write_bytes(b"")
    parts = windows(video, SETTINGS, CPU)
    assert len(next(parts)) == 3
    with pytest.raises(BadFrame, match=path.name):
        next(parts)


def test_who_stops_half_way_leaves_no_thread_behind(video: Video) -> None:
    before = active_count()
    parts = windows(video, SETTINGS, CPU)
    next(parts)
    assert active_count() > before
    del parts
    assert active_count() == before
