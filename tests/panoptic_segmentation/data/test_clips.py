"""Which frames make a clip, and what a training step gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.config.data_choice import data_choice
from panoptic_segmentation.config.settings import ClipSettings
from panoptic_segmentation.data.clips import (
    ClipDataset,
    batch_of,
    clip_of,
    collate,
    draw_frames,
    frame_at,
)
from panoptic_segmentation.data.ground_truth import prepare
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.model.segmenter import PIXEL_MEAN
from tests.operating_room.published import index_place
from tests.operating_room.tiny_house import write_house
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take

CTVIS = ClipSettings(frames=10, reach=20)
CONSECUTIVE = ClipSettings(frames=5, reach=2)


@given(st.integers(1, 300), st.integers(0, 10_000))
def test_frames_of_a_clip(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for settings in (CTVIS, CONSECUTIVE, ClipSettings(frames=1, reach=0)):
        chosen = draw_frames(count, settings, rng)
        assert len(chosen) == settings.frames
        assert chosen == sorted(chosen)
        assert 0 <= chosen[0] <= chosen[-1] < count
        if count >= settings.frames:
            assert len(set(chosen)) == settings.frames
            assert chosen[-1] - chosen[0] <= 2 * settings.reach


def test_every_start_occurs_the_last_one_too() -> None:
    rng = np.random.default_rng(0)
    starts = {draw_frames(8, CONSECUTIVE, rng)[0] for _ in range(100)}
    assert starts == {0, 1, 2, 3}


@given(st.integers(1, 60), st.integers(0, 10_000), st.data())
def test_the_wanted_frame_is_in_the_clip(count: int, seed: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    for settings in (CTVIS, CONSECUTIVE, ClipSettings(frames=1, reach=0)):
        chosen = draw_frames(count, settings, np.random.default_rng(seed), first)
        assert first in chosen
        assert len(chosen) == settings.frames
        assert 0 <= min(chosen) <= max(chosen) < count


def test_some_clips_run_backwards() -> None:
    settings = ClipSettings(frames=5, reach=2, reverse=True)
    rng = np.random.default_rng(0)
    backwards = sum(draw_frames(50, settings, rng)[0] > draw_frames(5, settings, rng)[4] for _ in range(100))
    assert 0 < backwards < 100
    orders = {tuple(draw_frames(5, settings, rng)) for _ in range(50)}
    assert orders == {(0, 1, 2, 3, 4), (4, 3, 2, 1, 0)}


def test_objects_are_the_classes_of_the_whole_clip() -> None:
    categories = torch.zeros(2, 4, 6, dtype=torch.uint8)
    categories[0, :2] = 5
    categories[1, 3] = 2
    clip = clip_of(categories)
    assert clip.classes.tolist() == [2, 5]
    assert clip.masks.sum((2, 3)).tolist() == [[0, 6], [12, 0]]
    assert clip.present.all()
    assert clip_of(torch.zeros(1, 2, 2, dtype=torch.uint8)).masks.shape == (0, 1, 2, 2)


@pytest.fixture
def clips(tmp_path: Path) -> ClipDataset:
    videos = find_videos(write_take(tmp_path / "data", 7), [TAKE], length=4)
    prepare(videos, tmp_path / "out", "truth", (16, 12))
    settings = ClipSettings(frames=2, reach=3, shortest=(24,), color_jitter=True)
    return ClipDataset(videos, tmp_path / "out", settings, (16, 12), seed=3, length=20)


def test_the_same_clip_every_time(clips: ClipDataset) -> None:
    frames, clip = clips[7]
    assert frames.shape == (2, 3, 24, 32)
    assert clip.classes.tolist() == [5]
    again, _ = clips[7]
    assert (frames == again).all()
    assert any(not torch.equal(frames, clips[i][0]) for i in range(7))


def test_clips_follow_the_factors_of_their_frames(clips: ClipDataset) -> None:
    """Videos of frames 0..3 and 1..6: all the chance on one frame of the second."""
    factors = np.zeros(sum(len(video.frames) for video in clips.videos))
    factors[len(clips.videos[0].frames)] = 1.0
    settings = replace(clips.settings, frames=1, reach=0)
    drawn = ClipDataset(clips.videos, clips.prepared, settings, (16, 12), seed=3, length=20, factors=factors)
    for index in range(5):
        drawn[index]
    assert list(drawn.cache) == [clips.videos[1].pictures()[0]]


def test_batches_are_padded_with_the_mean_colour(clips: ClipDataset) -> None:
    frames, clip = clips[0]
    travelling = collate([(frames, clip), (frames[..., :20, :], clip)])["frames"]
    assert {part.dtype for part in travelling} == {torch.uint8}
    batch = batch_of(travelling)
    assert batch.shape == (2, 2, 3, 24, 32)
    assert torch.equal(batch[0], frames.float())
    assert torch.equal(batch[1, 0, :, 22, 5], torch.tensor(PIXEL_MEAN))


def test_the_last_frame_stands_for_what_rounding_leaves() -> None:
    chances = np.array([0.25, 0.5, 1 - 2**-52])  # as sums of many frames end
    assert [frame_at(chances, drawn) for drawn in (0.0, 0.25, 0.5, 1 - 2**-53)] == [0, 1, 2, 2]


def test_all_readers_together_keep_no_more_than_one_would(clips: ClipDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(clips.settings, shortest=clips.settings.shortest[:1])
    one = ClipDataset(clips.videos, clips.prepared, settings, (16, 12), seed=3, length=20)
    one[0]
    frame = next(sum(part.nbytes for part in kept) for kept in one.cache.values())
    monkeypatch.setattr("panoptic_segmentation.data.clips.CACHE_BYTES", 4 * frame)
    several = [ClipDataset(clips.videos, clips.prepared, settings, (16, 12), 3, 20, readers=2) for _ in range(2)]
    for reader in several:
        for index in range(20):
            reader[index]
    assert [len(reader.cache) for reader in several] == [2, 2]


def test_a_lost_picture_is_named(clips: ClipDataset) -> None:
    for video in clips.videos:
        for path in video.pictures():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="colorimage"):
        clips[0]


def test_own_takes_are_a_data_set(tmp_path: Path) -> None:
    root = tmp_path / "MM-OR_data"
    for name in ("001_PKA", "mine"):
        index = index_place(root, mmor().find_take(name))
        index.parent.mkdir(parents=True)
        index.write_text("[]")
    dataset = Dataset(tmp_path)
    assert [take.name for take in data_choice("hybridor_panoptic_own").takes(dataset)] == ["mine"]
    assert [take.name for take in data_choice("mmor_panoptic_train").takes(dataset)] == ["001_PKA"]
    assert data_choice("4dor_panoptic_own").takes(dataset) == []


def test_a_split_that_people_called_as_a_published_one_is_theirs(tmp_path: Path) -> None:
    root = write_house(tmp_path)
    (root / "splits.yaml").write_text("train: [soup, stew]\nval: []\ntest: []\ntrain_small: [stew]\n")
    choice = data_choice("kitchen_panoptic_train_small")  # small_train, which MM-OR has, did not exist
    assert [take.name for take in choice.takes(Dataset(root))] == ["stew"]


def test_masks_that_something_else_prepares_at_another_size_are_not_read(tmp_path: Path) -> None:
    videos = find_videos(write_take(tmp_path / "data", 9), [TAKE])
    prepare(videos, tmp_path, "mmor_ground_truth_train", (64, 48))
    clips = ClipDataset(videos, tmp_path, ClipSettings(frames=2, reach=2, shortest=(48, 64)), (64, 48), 0, 10)
    assert clips[0][1].masks.any()
    prepare(videos, tmp_path, "ground_truth_test", (4, 3))  # an evaluation of these takes, say
    with pytest.raises(UserError, match=r"png: is 4x3 px, this training has prepared it at 64x48: .*--ground-truth"):
        clips[0]
