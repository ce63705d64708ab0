"""From scores and masks to panoptic segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from operating_room.errors import UserError
from panoptic_segmentation.inference.panoptic import (
    CausalPanoptic,
    PanopticVideo,
    Sizes,
    ctvis_panoptic,
    panoptic_video,
    top_entries,
)

SIZE = (8, 12)
PLAIN = Sizes(padded=SIZE, image=SIZE, output=SIZE)
CLASSES = 30  # and "no object"
THINGS = 24


def _scores(*entries: tuple[int, float]) -> Tensor:
    """Probabilities of queries with (class, score)."""
    rows = torch.zeros(len(entries), CLASSES + 1)
    for row, (label, score) in zip(rows, entries):
        row[:] = (1 - score) / CLASSES
        row[label] = score
    return rows


def _box(top: int, bottom: int, left: int, right: int, inside: float = 6.0) -> Tensor:
    mask = torch.full(SIZE, -6.0)
    mask[top:bottom, left:right] = inside
    return mask


def _segment(scores: Tensor, *masks: Tensor, frames: int = 1, **options: float) -> PanopticVideo:
    return panoptic_video(scores, [torch.stack(masks)] * frames, PLAIN, THINGS, **options)


def test_two_things() -> None:
    found = _segment(_scores((3, 0.9), (3, 0.95)), _box(0, 4, 0, 6), _box(4, 8, 6, 12), frames=2)
    assert [(s.id, s.is_thing, s.category_id, s.query) for s in found.segments] == [(1, True, 3, 0), (2, True, 3, 1)]
    assert found.ids.shape == (2, *SIZE)
    assert found.ids.dtype == torch.int32
    assert found.ids[:, 0, 0].tolist() == [1, 1]
    assert found.ids[:, 7, 11].tolist() == [2, 2]
    assert found.ids[:, 0, 11].tolist() == [0, 0]


def test_unsure_and_no_object_queries_are_dropped() -> None:
    found = _segment(_scores((3, 0.79), (CLASSES, 0.99)), _box(0, 4, 0, 6), _box(4, 8, 6, 12))
    assert found.segments == []
    assert found.ids.sum() == 0


def _frame_by_frame(logits: Tensor, masks: Sequence[Tensor], sizes: Sizes) -> None:
    video = CausalPanoptic(sizes, THINGS)
    for frame in masks:
        video.add(logits, frame)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(
    "way",
    [
        lambda logits, masks, sizes: panoptic_video(logits.softmax(-1), masks, sizes, THINGS),
        ctvis_panoptic,
        _frame_by_frame,
    ],
)
def test_masks_that_are_no_numbers_are_an_error_and_take_no_pixels_from_others(
    value: float, way: Callable[[Tensor, Sequence[Tensor], Sizes], object]
) -> None:
    """As of float16: infinities beside each other are no number once they are enlarged, and no pixel is above 0.5."""
    logits = _scores((3, 0.9), (4, 0.95)).log()
    masks = torch.stack([_box(0, 8, 0, 6), _box(0, 8, 6, 12)])
    damaged = masks.clone()
    damaged[1, 2:6, 2:6] = value
    with pytest.raises(UserError, match="predictions are not finite"):
        way(logits, [masks, damaged, masks], Sizes(SIZE, SIZE, (16, 24)))


def test_the_threshold_is_not_reached_by_equality() -> None:
    found = _segment(_scores((3, 0.75)), _box(0, 4, 0, 6), score_threshold=0.75)
    assert found.segments == []


def test_an_overlapped_query_is_dropped_over_the_whole_video() -> None:
    """The second wins half of its mask only; its pixels stay empty, they are not given to others."""
    found = _segment(_scores((3, 0.95), (4, 0.9)), _box(0, 8, 0, 8), _box(0, 8, 4, 12))
    assert [s.category_id for s in found.segments] == [3]
    assert found.ids[0, 0, 11] == 0


def test_stuff_of_one_class_shares_an_id() -> None:
    found = _segment(_scores((25, 0.9), (25, 0.95), (2, 0.9)), _box(0, 2, 0, 6), _box(4, 8, 0, 6), _box(0, 8, 8, 12))
    assert [(s.id, s.is_thing, s.category_id) for s in found.segments] == [(1, False, 25), (2, True, 2)]
    assert found.ids[0, 0, 0] == found.ids[0, 7, 0] == 1


def test_categories_of_pixels() -> None:
    found = _segment(_scores((25, 0.9), (2, 0.9)), _box(0, 4, 0, 6), _box(0, 8, 8, 12))
    categories = found.categories(THINGS)
    assert categories[0, 0, 0] == 0  # a class outside the dataset
    assert categories[0, 0, 11] == 2


def test_padding_is_cut_off_and_the_result_enlarged() -> None:
    mask = torch.full((4, 6), -6.0)
    mask[2:, :] = 6.0  # only in the padding
    sizes = Sizes(padded=SIZE, image=(4, 12), output=(16, 24))
    found = panoptic_video(_scores((3, 0.9)), [mask[None]], sizes, THINGS)
    assert found.ids.shape == (1, 16, 24)
    assert found.ids[0, :12].sum() == 0


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_pixel_has_a_listed_segment(seed: int, frames: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (4 * torch.randn(6, CLASSES + 1, generator=generator)).softmax(-1)
    masks = 3 * torch.randn(frames, 6, 4, 6, generator=generator)
    found = panoptic_video(scores, masks, Sizes(SIZE, SIZE, SIZE), THINGS, 0.2, 0.3)
    assert torch.equal(torch.stack(list(found.frames())), found.ids)
    assert [s.id for s in found.segments] == list(range(1, len(found.segments) + 1))
    assert set(found.ids.unique().tolist()) - {0} == {s.id for s in found.segments}


def test_causal_segments_of_a_still_video_are_those_of_the_whole() -> None:
    scores = _scores((3, 0.9), (25, 0.9), (25, 0.95))
    masks = torch.stack((_box(0, 4, 0, 6), _box(4, 8, 0, 6), _box(0, 8, 8, 12)))
    whole = panoptic_video(scores, [masks] * 3, PLAIN, THINGS)
    causal = CausalPanoptic(PLAIN, THINGS)
    for t in range(3):
        found = causal.add(scores.log(), masks)
        assert torch.equal(found.ids[0], whole.ids[t])
        assert found.segments == whole.segments


def test_causal_ids_stay_when_others_come_and_go() -> None:
    causal = CausalPanoptic(PLAIN, THINGS)
    both = torch.stack((_box(0, 4, 0, 6), _box(4, 8, 6, 12)))
    second = torch.stack((_box(0, 0, 0, 0), _box(4, 8, 6, 12)))
    logits = _scores((3, 0.9), (5, 0.9)).log()
    first, last = causal.add(logits, both), causal.add(logits, second)
    assert first.ids[0, 7, 11] == last.ids[0, 7, 11] == 2
    assert [s.id for s in last.segments if s.query == 1] == [2]
    assert last.categories(THINGS)[0, 7, 11] == 5


def test_causal_segments_do_not_depend_on_the_future() -> None:
    masks = _box(0, 4, 0, 6)[None]
    short, long = CausalPanoptic(PLAIN, THINGS), CausalPanoptic(PLAIN, THINGS)
    sure, unsure = _scores((3, 0.95)).log(), _scores((3, 0.3)).log()
    assert torch.equal(short.add(sure, masks).ids, long.add(sure, masks).ids)
    assert long.add(unsure, masks).segments == []


def test_best_entries_may_repeat_a_query() -> None:
    logits = torch.tensor([[5.0, 4.0, -9.0], [0.0, 0.0, 9.0]])
    scores, labels, queries = top_entries(logits, count=2)
    assert labels.tolist() == [0, 1]
    assert queries.tolist() == [0, 0]
    assert scores[0] > scores[1]


def test_ctvis_gives_each_pixel_to_the_best_entry_that_covers_it() -> None:
    logits = _scores((3, 0.6), (5, 0.5)).log()
    found = ctvis_panoptic(logits, [torch.stack((_box(0, 8, 0, 8), _box(0, 8, 4, 12)))], PLAIN)
    at = {s.id: s.category_id for s in found.segments}
    assert at[int(found.ids[0, 0, 0])] == at[int(found.ids[0, 0, 5])] == 3
    assert at[int(found.ids[0, 0, 11])] == 5  # no overlap test


@given(st.integers(0, 1000), st.integers(1, 3), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_pixels_and_areas_are_those_of_a_loop(seed: int, frames: int, overlap: float) -> None:
    """What is counted by tensors against what the rules say, pixel by pixel."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = (4 * torch.randn(5, CLASSES + 1, generator=generator)).softmax(-1)
    masks = 3 * torch.randn(frames, 5, 4, 6, generator=generator).round()  # with ties
    size = (4, 6)
    found = panoptic_video(probabilities, masks, Sizes(size, size, size), THINGS, 0.3, overlap)
    scores, labels = probabilities.max(-1)
    sure = [q for q in range(5) if labels[q] < CLASSES and scores[q] > 0.3]
    won, own, both = (dict.fromkeys(sure, 0) for _ in range(3))
    winners = torch.full((frames, *size), -1)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in (frames, *size))) if sure else ():
        frame, y, x = place.tolist()
        inside = {q: masks[frame, q, y, x].sigmoid() for q in sure}
        best = max(sure, key=lambda q: float(scores[q] * inside[q]))
        won[best] += 1
        for query in sure:
            own[query] += int(inside[query] >= 0.5)
        if inside[best] >= 0.5:
            both[best] += 1
            winners[frame, y, x] = best
    kept = [q for q in sure if won[q] and own[q] and both[q] and won[q] / own[q] >= overlap]
    query_of = {0: -1} | {segment.id: segment.query for segment in found.segments}
    assert {labels[q].item() for q in kept} == {segment.category_id for segment in found.segments}
    for query in kept:
        if labels[query] < THINGS:
            assert torch.equal(found.ids == next(i for i, q in query_of.items() if q == query), winners == query)
    nobody = ~torch.isin(winners, torch.tensor(kept, dtype=torch.long))
    assert torch.equal(found.ids == 0, nobody)


def test_masks_in_16_bits_are_enlarged_in_32() -> None:
    """As autocast makes them; else there were steps between the pixels."""
    half = (3 * torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))).bfloat16()
    scores, sizes = _scores((3, 0.9), (4, 0.95), (5, 0.85)), Sizes((32, 48), (30, 48), (60, 96))
    for masks in (half, half.float()):
        found = [panoptic_video(scores, [masks], sizes, THINGS, 0.5, 0.0)]
        found.append(ctvis_panoptic(scores.log(), [masks], sizes))
        found.append(CausalPanoptic(sizes, THINGS, 0.5, 0.0).add(scores.log(), masks))
        if masks is half:
            expected = found
    for mine, plain in zip(expected, found, strict=True):
        assert torch.equal(mine.ids, plain.ids)
        assert mine.segments == plain.segments
