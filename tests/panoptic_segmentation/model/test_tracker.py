"""The referring tracker: alignment, windows, noise."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from panoptic_segmentation.model.matching import Draws
from panoptic_segmentation.model.tracker import Tracker, without_duplicates

QUERIES, WIDTH = 6, 16


def _tracker() -> Tracker:
    torch.manual_seed(0)
    return Tracker(classes=4, width=WIDTH, mask_width=8, heads=2, hidden=32, depth=3).eval()


def _video(frames: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    normed = torch.randn(frames, QUERIES, WIDTH, generator=generator)
    raw = torch.randn(frames, QUERIES, WIDTH, generator=generator)
    return normed, raw, torch.randn(frames, 8, 4, 5, generator=generator)


@torch.no_grad()
def test_windows_carry_on_where_the_last_one_ended() -> None:
    tracker, video = _tracker(), _video(7)
    whole = tracker(*video)
    state, parts = None, []
    for window in zip(*(x.split(3) for x in video)):
        parts.append(tracker(*window, state))
        state = parts[-1].state
    torch.testing.assert_close(torch.cat([part.last.masks for part in parts]), whole.last.masks)
    torch.testing.assert_close(torch.cat([part.last.logits for part in parts]), whole.last.logits)
    assert torch.equal(torch.cat([part.orders for part in parts]), whole.orders)


@torch.no_grad()
def test_alignment_is_by_the_normalised_embeddings_of_the_frame_before() -> None:
    """Not by raw ones, not by a mean over earlier frames, and by cosine."""
    tracker = _tracker()
    normed, raw, features = _video(3)
    shuffles = [torch.randperm(QUERIES, generator=torch.Generator().manual_seed(t)) for t in range(3)]
    drift = [normed[0], normed[1], normed[1]]  # frame 2 shows the objects of frame 1 again, longer vectors
    lengths = torch.linspace(0.1, 10, QUERIES)[:, None]
    shown = torch.stack([drift[0], drift[1][shuffles[1]], (drift[2] * lengths)[shuffles[2]]])
    orders = tracker(shown, raw, features).orders
    assert orders[0].tolist() == list(range(QUERIES))
    # What follows query k of frame 1 is, in frame 2, the same object.
    object_1, object_2 = shuffles[1][orders[1]], shuffles[2][orders[2]]
    assert object_1.tolist() == object_2.tolist()


@torch.no_grad()
def test_shuffled_queries_give_shuffled_results() -> None:
    """The tracker's identities are those of the first frame; later shuffles change nothing."""
    tracker, (normed, raw, features) = _tracker(), _video(3)
    plain = tracker(normed, raw, features)
    shuffle = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(4))
    normed[2], raw[2] = normed[2, shuffle].clone(), raw[2, shuffle].clone()
    again = tracker(normed, raw, features)
    torch.testing.assert_close(again.last.masks, plain.last.masks)
    torch.testing.assert_close(again.last.logits, plain.last.logits)


@torch.no_grad()
def test_earlier_layers_on_request() -> None:
    tracker, video = _tracker(), _video(2)
    assert tracker(*video).auxiliary == []
    assert len(tracker(*video, auxiliary=True).auxiliary) == 2


@given(st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_noise_never_loses_a_query(order: list[int]) -> None:
    """The published noise returns duplicates; here every query stays, and first users keep theirs."""
    fixed = without_duplicates(torch.tensor(order)).tolist()
    assert sorted(fixed) == list(range(8))
    for k, query in enumerate(order):
        if query not in order[:k]:
            assert fixed[k] == query


@torch.no_grad()
def test_noise_disturbs_about_half_of_the_later_frames() -> None:
    tracker, video = _tracker(), _video(30)
    calm = tracker(*video)
    orders = tracker(*video, noise=Draws(torch.Generator().manual_seed(0))).orders
    assert torch.equal(orders[0], calm.orders[0])
    assert all(sorted(order.tolist()) == list(range(QUERIES)) for order in orders)
    assert not torch.equal(orders, calm.orders)
