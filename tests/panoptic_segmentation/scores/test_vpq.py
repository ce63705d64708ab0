"""VPQ against the plain count, its bounds, and files that do not fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plain_masks import plain_window_sums

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.scores.overlap import VideoOverlap, read_overlaps
from panoptic_segmentation.scores.stq import tracking_quality
from panoptic_segmentation.scores.vpq import Quality, VideoQuality, instance_records, video_quality, window_sums

Frames = list[np.ndarray]  # ids per pixel
Segments = list[list[dict[str, Any]]]  # records per frame

NAMES = {category: f"class {category}" for category in range(24)}


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digits = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    Image.fromarray(digits.astype(np.uint8)).save(path)


def records(ids: np.ndarray, category_of: dict[int, int], crowd: frozenset[int] = frozenset()) -> list[dict[str, Any]]:
    """One record per id in a picture; 0 has none."""
    found = [int(number) for number in np.unique(ids) if number]
    return [
        {"id": n, "category_id": category_of[n], "area": int((ids == n).sum()), "iscrowd": int(n in crowd)}
        for n in found
    ]


def overlap(folder: Path, truth: Frames, predicted: Frames, segments: tuple[Segments, Segments]) -> VideoOverlap:
    files = []
    for side, frames, listed in (("truth", truth, segments[0]), ("predicted", predicted, segments[1])):
        for i, ids in enumerate(frames):
            write_ids(folder / side / f"{i}.png", ids)
        annotations = [{"file_name": f"{i}.jpg", "segments_info": found} for i, found in enumerate(listed)]
        files.append(
            {"categories": [{"id": c} for c in NAMES], "annotations": [{"video_id": "v", "annotations": annotations}]}
        )
    (video,) = read_overlaps(
        files[0],
        lambda _, name: folder / "truth" / f"{Path(name).stem}.png",
        files[1],
        lambda _, name: folder / "predicted" / f"{Path(name).stem}.png",
    )
    return video


@st.composite
def videos(draw: st.DrawFn) -> tuple[Frames, Frames, tuple[Segments, Segments]]:
    """Up to 4 small frames with a few ids on both sides, crowds and unlabelled pixels, some predicted as background."""
    count = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    truth = list(rng.choice([0, 1, 2, 70_000], (count, 4, 5)))
    noise = rng.random((count, 4, 5)) < draw(st.sampled_from([0.0, 0.2, 0.9]))
    predicted = [np.where(n, rng.choice([0, 1, 2, 3], n.shape), t % 69_999) for n, t in zip(noise, truth)]
    category_of = {1: 1, 2: 2, 3: 1, 70_000: 1}
    crowd = frozenset(draw(st.sets(st.sampled_from([1, 2, 70_000]))))
    background = {"id": 0, "category_id": 0, "area": 1, "iscrowd": 0}
    found = [[*records(ids, category_of), *[background] * bool(rng.random() < 0.5 and 0 in ids)] for ids in predicted]
    return truth, predicted, ([records(ids, category_of, crowd) for ids in truth], found)


@settings(max_examples=40)
@given(videos(), st.integers(1, 4))
def test_equals_the_plain_count(
    tmp_path_factory: pytest.TempPathFactory, video: tuple[Frames, Frames, tuple[Segments, Segments]], length: int
) -> None:
    truth, predicted, segments = video
    ours = window_sums(overlap(tmp_path_factory.mktemp("video"), truth, predicted, segments), length)
    expected: dict[int, Quality] = {}
    for start in range(len(truth) - length + 1):
        window = slice(start, start + length)
        sums = plain_window_sums(
            np.stack(truth[window]), np.stack(predicted[window]), segments[0][window], segments[1][window]
        )
        for category, quality in sums.items():
            expected[category] = expected.get(category, Quality()) + quality
    assert ours.keys() == expected.keys()
    for category, quality in ours.items():
        assert quality.iou == pytest.approx(expected[category].iou)
        assert (quality.tp, quality.fp, quality.fn) == (
            expected[category].tp,
            expected[category].fp,
            expected[category].fn,
        )


def moving_square(frames: int = 9) -> Frames:
    video = []
    for i in range(frames):
        ids = np.zeros((12, 16), int)
        ids[2:8, i : i + 6] = 10
        ids[9:, :4] = 300
        video.append(ids)
    return video


def test_the_truth_itself_scores_100(tmp_path: Path) -> None:
    video = moving_square()
    segments = [records(ids, {10: 3, 300: 4}) for ids in video]
    same = overlap(tmp_path, video, video, (segments, segments))
    quality = video_quality([same], NAMES)
    assert quality.vpq == pytest.approx(100)
    assert quality.windows[8].total == {3: Quality(2.0, 2, 0, 0), 4: Quality(2.0, 2, 0, 0)}
    assert tracking_quality([same]).overall.association == pytest.approx(1)
    report = json.loads(json.dumps(quality.to_json()))
    assert report["windows"]["4"]["per_class"]["class 3"]["pq"] == pytest.approx(1)
    assert "VPQ 100.0" in str(quality)


def test_an_identity_switch_costs_longer_windows_only(tmp_path: Path) -> None:
    video = moving_square()
    switched = [np.where(ids == 10, 10 + i // 4, ids) for i, ids in enumerate(video)]
    category_of = {10: 3, 11: 3, 12: 3, 300: 4}
    segments = [records(ids, category_of) for ids in video], [records(ids, category_of) for ids in switched]
    quality = video_quality([overlap(tmp_path, video, switched, segments)], NAMES)
    assert quality.windows[1].average["pq"] == pytest.approx(1)
    assert quality.windows[4].total[3].iou < 6
    assert quality.vpq < 100


def test_instance_numbers_show_what_class_colours_hide(tmp_path: Path) -> None:
    video = [np.where(ids == 10, 1, 0).astype(np.int32) for ids in moving_square()]
    files: list[dict[str, Any]] = []
    for side, switch in (("truth", 99), ("predicted", 4)):
        frames = [
            predictions.write_frame(
                tmp_path / side, "v", f"{i}.jpg", ids, [(1, 3)], (16, 12), mmor().labels, {1: 1 + (i >= switch)}
            )
            for i, ids in enumerate(video)
        ]
        files.append(
            {"categories": [{"id": 3, "name": "a"}], "annotations": [{"video_id": "v", "annotations": frames}]}
        )

    def classes(side: str) -> Any:
        return lambda name, file: predictions.picture_path(tmp_path / side, name, file)

    def instances(side: str) -> Any:
        return lambda name, file: predictions.instance_path(tmp_path / side, name, file)

    published = video_quality(read_overlaps(files[0], classes("truth"), files[1], classes("predicted")), {3: "a"})
    assert published.vpq == pytest.approx(100)

    def by_instance(file: dict[str, Any], side: str) -> VideoQuality:
        numbered = instance_records(file)
        assert numbered is not None
        return video_quality(read_overlaps(files[0], classes("truth"), numbered, instances(side)), {3: "a"})

    kept, switched = by_instance(files[0], "truth"), by_instance(files[1], "predicted")
    assert kept.vpq == pytest.approx(100)
    assert switched.windows[1].average["pq"] == pytest.approx(1)
    assert switched.windows[4].total[3].fp > 0
    assert switched.vpq < 60
    for frame in files[1]["annotations"][0]["annotations"]:
        frame["segments_info"] = [{"id": 1, "category_id": 3}]
    assert instance_records(files[1]) is None


def test_where_numbers_begin_anew_no_window_reaches_over(tmp_path: Path) -> None:
    """Fault: with all frames predicted, parts end elsewhere than those of the truth, and numbers begin anew there."""
    video = moving_square()
    renamed = [np.where(ids == 10, 11, ids) if i >= 5 else ids for i, ids in enumerate(video)]
    category_of = {10: 3, 11: 3, 300: 4}
    segments = [records(ids, category_of) for ids in video], [records(ids, category_of) for ids in renamed]
    whole = overlap(tmp_path, video, renamed, segments)
    assert video_quality([whole], NAMES).vpq < 100
    first, second = whole.cut([5])
    assert (len(first.joint), len(second.joint)) == (5, len(video) - 5)
    assert video_quality([first, second], NAMES).windows[4].average["pq"] == pytest.approx(1)
    assert [*whole.cut([])] == [whole]


def test_short_videos_have_no_windows(tmp_path: Path) -> None:
    video = moving_square(frames=2)
    segments = [records(ids, {10: 3, 300: 4}) for ids in video]
    quality = video_quality([overlap(tmp_path, video, video, (segments, segments))], NAMES)
    assert quality.vpq == 0
    assert quality.windows[8].total == {}
    assert quality.to_json()["windows_of_no_video"] == [4, 8]


def test_perfect_masks_of_five_frames_score_half_as_published_and_it_is_said_why(tmp_path: Path) -> None:
    video = moving_square(frames=5)
    segments = [records(ids, {10: 3, 300: 4}) for ids in video]
    quality = video_quality([overlap(tmp_path, video, video, (segments, segments))], NAMES)
    assert quality.vpq == pytest.approx(50)
    assert "no video has 8 frames with anything on them: these windows count as 0, as published" in str(quality)
    assert quality.to_json()["windows_of_no_video"] == [8]
    assert str(quality).splitlines()[-1].split() == ["class", "4", "100.0", "-", "2", "0"]
    longer = moving_square()
    segments = [records(ids, {10: 3, 300: 4}) for ids in longer]
    assert "no video" not in str(video_quality([overlap(tmp_path, longer, longer, (segments, segments))], NAMES))


def test_what_is_only_invented_is_not_told_as_true(tmp_path: Path) -> None:
    """The column was called support, which is the number of true ones in every other table."""
    truth = moving_square()
    predicted = [np.where(ids == 0, 500, ids) for ids in truth]
    whole = [np.where(ids == 0, 10, ids) for ids in truth]  # nothing is unlabelled, where nothing can be invented
    segments = [[records(ids, {10: 3, 300: 4, 500: 5}) for ids in video] for video in (whole, predicted)]
    lines = str(video_quality([overlap(tmp_path, whole, predicted, (segments[0], segments[1]))], NAMES)).splitlines()
    (head,) = [line for line in lines if line.startswith("per class")]
    assert head.split()[2:6] == ["VPQ4", "VPQ8", "true", "wrong"]
    assert lines[-1].split() == ["class", "5", "0.0", "0.0", "0", "6"]


def test_more_ids_than_can_be_told_apart_are_named(tmp_path: Path) -> None:
    """The 65537th would be counted as nothing."""
    many = [{"id": number, "category_id": 1} for number in range(1, 1 << 16)]
    with pytest.raises(UserError, match="video v: has 65537 segment ids"):
        overlap(tmp_path, [np.ones((2, 2), int)], [np.ones((2, 2), int)], ([many[:1]], [many]))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    video = moving_square(frames=2)
    segments = [records(ids, {10: 3, 300: 4}) for ids in video]
    with pytest.raises(UserError, match=r"0\.png: id 300 has no segment record"):
        overlap(tmp_path, video, video, (segments, [found[:1] for found in segments]))
    ghost = {"id": 5, "category_id": 2, "area": 3, "iscrowd": 0}
    with pytest.raises(UserError, match="predicted id 5 has a record but no pixel"):
        window_sums(overlap(tmp_path, video, video, (segments, [[*found, ghost] for found in segments])), 1)
    with pytest.raises(UserError, match="category 99"):
        overlap(tmp_path, video, video, (segments, [[found[0], found[1] | {"category_id": 99}] for found in segments]))
    with pytest.raises(UserError, match=r"video v, frame 1\.jpg: id 10 is of category 3 and of category 4 at once"):
        overlap(tmp_path, video, video, (segments, [segments[0], [*segments[1], segments[1][1] | {"id": 10}]]))
    with pytest.raises(UserError, match=r"1 frames without prediction, first 1\.jpg"):
        overlap(tmp_path, video, video, (segments, segments[:1]))
    small = [found | {"area": 1} for found in segments[0]], segments[1]
    with pytest.raises(UserError, match="areas are smaller"):
        window_sums(overlap(tmp_path, video, video, (list(small), segments)), 1)
    with pytest.raises(UserError, match=r"predicted.1\.png: is 8x6, the ground truth .* is 16x12"):
        overlap(tmp_path, video, [video[0], video[1][:6, :8]], (segments, segments))
    (tmp_path / "truth" / "1.png").write_bytes(b"no picture")
    frame = {"file_name": "1.jpg", "segments_info": []}
    file = {"categories": [], "annotations": [{"video_id": "v", "annotations": [frame]}]}
    picture = tmp_path / "truth" / "1.png"
    with pytest.raises(UserError, match=r"truth.1\.png: is not a readable"):
        list(read_overlaps(file, lambda *_: picture, file, lambda *_: picture))
