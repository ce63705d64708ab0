"""Assignment of objects to queries, and of queries across frames."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

from operating_room.errors import UserError
from panoptic_segmentation.model.matching import (
    Draws,
    LossSettings,
    Objects,
    align,
    assign,
    follow,
    match_clip,
    match_pictures,
    pair_costs,
    sample_masks,
)
from panoptic_segmentation.model.transformer_decoder import Prediction

FEW = LossSettings(points=200)


def _draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def _squares(count: int, size: int = 16) -> Tensor:
    """`count` disjoint columns of a square picture."""
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    width = size // count
    for i in range(count):
        masks[i, :, i * width : (i + 1) * width] = True
    return masks


def _prediction(masks: Tensor, classes: Tensor, order: Tensor, count: int = 6) -> Prediction:
    """A prediction that is right: object order[k] at query k."""
    logits = torch.full((1, len(order), count + 1), -4.0)
    logits[0, torch.arange(len(order)), classes[order]] = 4.0
    return Prediction(logits, torch.where(masks[order], 8.0, -8.0)[None])


@given(st.permutations(range(4)), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_right_predictions_are_matched(order: list[int], seed: int) -> None:
    masks, classes = _squares(4), torch.tensor([2, 0, 5, 2])
    prediction = _prediction(masks, classes, torch.tensor(order))
    match = match_pictures(prediction, [Objects(classes, masks)], FEW, [_draws(seed)])[0]
    assert match.queries.tolist() == sorted(match.queries.tolist())
    assert [order[q] for q in match.queries] == match.objects.tolist()


def test_matches_as_transformers_does() -> None:
    """Our costs lead to the assignment of the library's matcher on random predictions."""
    torch.manual_seed(0)
    logits, masks = torch.randn(1, 9, 6), torch.randn(1, 9, 8, 8) * 4
    objects = Objects(torch.tensor([1, 4, 0]), _squares(3, 24))
    ours = match_pictures(Prediction(logits, masks), [objects], LossSettings(points=20000), [_draws()])[0]
    theirs = Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=20000)
    queries, found = theirs(masks, logits, [objects.masks.float()], [objects.classes])[0]
    assert ours.queries.tolist() == queries.tolist()
    assert ours.objects.tolist() == found.tolist()


def test_empty_masks_are_matched_too() -> None:
    objects = Objects(torch.tensor([3, 1]), torch.zeros(2, 16, 16, dtype=torch.bool))
    match = match_pictures(Prediction(torch.zeros(1, 5, 7), torch.zeros(1, 5, 4, 4)), [objects], FEW, [_draws()])[0]
    assert sorted(match.objects.tolist()) == [0, 1]


def test_no_objects_no_match() -> None:
    nothing = Objects(torch.zeros(0, dtype=torch.long), torch.zeros(0, 16, 16, dtype=torch.bool))
    match = match_pictures(Prediction(torch.zeros(1, 5, 7), torch.zeros(1, 5, 4, 4)), [nothing], FEW, [_draws()])[0]
    assert len(match.queries) == len(match.objects) == 0


def test_an_object_keeps_the_query_of_its_first_frame() -> None:
    masks, classes = _squares(2), torch.tensor([0, 1])
    first = _prediction(masks, classes, torch.tensor([0, 1]))
    swapped = _prediction(masks, classes, torch.tensor([1, 0]))
    clip = Prediction(torch.cat([first.logits, swapped.logits]), torch.cat([first.masks, swapped.masks]))
    pictures = [Objects(classes, masks)] * 2
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    for match in match_clip(clip, pictures, everywhere, FEW, _draws()):
        assert match.queries.tolist() == match.objects.tolist() == [0, 1]


def test_a_late_object_is_matched_when_it_appears_and_takes_no_used_query() -> None:
    masks, classes = _squares(2), torch.tensor([0, 1])
    first = _prediction(masks, classes, torch.tensor([0, 1, 1]))
    late = _prediction(masks, classes, torch.tensor([1, 0, 1]))  # query 0 fits object 1 too, but it is taken
    clip = Prediction(torch.cat([first.logits, late.logits]), torch.cat([first.masks, late.masks]))
    present = torch.tensor([[True, True], [False, True]])
    matches = match_clip(clip, [Objects(classes, masks)] * 2, present, FEW, _draws())
    assert matches[0].queries.tolist() == matches[1].queries.tolist() == [0, 2]
    assert matches[0].objects.tolist() == [0, 1]


def test_more_objects_than_queries_share_none() -> None:
    masks, classes = _squares(4), torch.arange(4)
    prediction = _prediction(masks, classes, torch.tensor([3, 1]))
    clip = Prediction(prediction.logits.expand(3, -1, -1), prediction.masks.expand(3, -1, -1, -1))
    pictures = [Objects(classes, masks)] * 3
    for match in match_clip(clip, pictures, torch.ones(4, 3, dtype=torch.bool), FEW, _draws()):
        assert match.pairs == [(0, 3), (1, 1)]


def test_an_object_that_is_never_present_is_never_matched() -> None:
    masks, classes = _squares(2), torch.tensor([0, 1])
    prediction = _prediction(masks, classes, torch.tensor([1, 0]))
    present = torch.tensor([[False], [True]])
    (match,) = match_clip(prediction, [Objects(classes, masks)], present, FEW, _draws())
    assert match.objects.tolist() == [1]
    assert match.queries.tolist() == [0]


@given(st.permutations(range(6)), st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_alignment_undoes_a_shuffle_whatever_the_lengths(order: list[int], lengths: list[float]) -> None:
    """Cosine, not dot product: scaling an embedding changes nothing."""
    before = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    now = before[order] * torch.tensor(lengths)[:, None]
    found = align(before, now)
    assert [order[k] for k in found] == list(range(6))


def test_points_outside_are_zero_and_inside_bilinear() -> None:
    masks = torch.ones(2, 4, 4)
    points = torch.tensor([[[0.5, 0.5], [-3.0, 0.5], [0.125, 0.125]]])
    assert sample_masks(masks, points, like=torch.zeros(1)).tolist() == [[1, 0, 1]] * 2
    each = sample_masks(masks, points.expand(2, -1, -1), like=torch.zeros(1))
    assert each.tolist() == [[1, 0, 1]] * 2


def test_what_the_cpu_decides_by_has_a_generator_of_its_own() -> None:
    """On a GPU; on a CPU one generator gives everything, in the order in which it is asked for."""
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    both = Draws(*generators)
    assert both.coins(20) == _draws(1).coins(20)
    assert torch.equal(both.points(2, 3), _draws(0).points(2, 3))
    one, same = _draws(4), Draws.seeded(4, torch.device("cpu"))
    assert [one.coins(3), one.points(1, 2).tolist(), one.coins(3)] == [
        same.coins(3),
        same.points(1, 2).tolist(),
        same.coins(3),
    ]


def test_pairs_of_a_match_are_its_tensors() -> None:
    masks, classes = _squares(3), torch.tensor([0, 1, 2])
    prediction = _prediction(masks, classes, torch.tensor([2, 0, 1]))
    for match in (
        *match_pictures(prediction, [Objects(classes, masks)], FEW, [_draws()]),
        *match_clip(prediction, [Objects(classes, masks)], torch.ones(3, 1, dtype=torch.bool), FEW, _draws()),
    ):
        assert match.pairs == list(zip(match.queries.tolist(), match.objects.tolist()))
        assert len(match.pairs) == 3


def test_diverged_predictions_are_named() -> None:
    with pytest.raises(UserError, match="diverged"):
        assign(torch.tensor([[float("nan"), 1.0]]))


def test_costs_are_computed_in_float32_under_half_precision() -> None:
    objects = Objects(torch.tensor([1]), _squares(1))
    costs = pair_costs(torch.zeros(3, 4).half(), torch.full((3, 4, 4), 60000.0).half(), objects, FEW, _draws())
    assert costs.dtype == torch.float32
    assert costs.isfinite().all()


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_a_window_is_followed_as_frame_by_frame(frames: int) -> None:
    """Bit for bit: all similarities at once, or each when the frame before is ordered."""
    seen = torch.randn(frames + 1, 20, 16, generator=torch.Generator().manual_seed(frames))
    previous, expected = seen[0], []
    for frame in seen[1:]:
        expected.append(align(previous, frame))
        previous = frame[expected[-1]]
    assert torch.equal(follow(seen[0], seen[1:]), torch.stack(expected))
    from_the_start = follow(None, seen)
    assert torch.equal(from_the_start[0], torch.arange(20))
    assert torch.equal(from_the_start[1:], torch.stack(expected))
