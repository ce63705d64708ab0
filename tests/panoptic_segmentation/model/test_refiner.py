"""The temporal refiner."""

from __future__ import annotations

import torch

from panoptic_segmentation.model.refiner import Refiner


def _refiner() -> Refiner:
    torch.manual_seed(0)
    return Refiner(classes=4, width=16, mask_width=8, heads=2, hidden=32, depth=3).eval()


@torch.no_grad()
def test_one_class_decision_for_the_whole_video() -> None:
    refined = _refiner()(torch.randn(5, 6, 16), torch.randn(5, 6, 16), auxiliary=True)
    assert refined.last.logits.shape == (6, 5)
    assert refined.last.masks(torch.randn(5, 8, 3, 4)).shape == (5, 6, 3, 4)
    assert len(refined.auxiliary) == 2


@torch.no_grad()
def test_it_looks_into_the_future() -> None:
    states, raw = torch.randn(5, 6, 16), torch.randn(5, 6, 16)
    refiner = _refiner()
    before = refiner(states, raw).last.mask_embeddings[0]
    states[4] += 1
    assert not torch.allclose(refiner(states, raw).last.mask_embeddings[0], before)


@torch.no_grad()
def test_the_order_of_queries_does_not_matter() -> None:
    """Neither that of the tracker's states (results follow) nor that of the segmenter's (no difference)."""
    refiner = _refiner()
    states, raw = torch.randn(4, 6, 16), torch.randn(4, 6, 16)
    plain = refiner(states, raw).last.logits
    shuffle = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(refiner(states[:, shuffle], raw).last.logits, plain[shuffle], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(refiner(states, raw[:, shuffle]).last.logits, plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_single_frame_works() -> None:
    assert _refiner()(torch.randn(1, 6, 16), torch.randn(1, 6, 16)).queries.shape == (1, 6, 16)
