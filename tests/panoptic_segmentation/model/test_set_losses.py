"""Set losses, contrastive losses, and the training steps of the three video models at toy size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from panoptic_segmentation.model.losses import Clip, set_losses
from panoptic_segmentation.model.matching import Draws, LossSettings, Match, Objects, align, match_pictures
from panoptic_segmentation.model.reid import contrastive_losses
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.transformer_decoder import Prediction
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OfflineDVIS, OnlineDVIS

FEW = LossSettings(points=64)
TOY = SegmenterConfig(
    classes=4,
    queries=6,
    block="basic",
    stem_width=8,
    widths=(8, 8, 16, 16),
    depths=(1, 1, 1, 1),
    norm="batch",
    mask_stride=2,
    width=32,
    heads=4,
    encoder_layers=1,
    encoder_hidden=32,
    decoder_layers=3,
    decoder_hidden=32,
)


def _draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def _halves(size: int = 16) -> Objects:
    masks = torch.zeros(2, size, size, dtype=torch.bool)
    masks[0, :, : size // 2] = True
    masks[1, :, size // 2 :] = True
    return Objects(torch.tensor([2, 0]), masks)


def _right(objects: Objects, sure: float) -> Prediction:
    logits = torch.zeros(1, 3, 5)
    for query, label in enumerate([*objects.classes.tolist(), 4]):
        logits[0, query, label] = sure
    masks = torch.cat((objects.masks, torch.zeros_like(objects.masks[:1])))
    return Prediction(logits, torch.where(masks, float(sure), -float(sure))[None])


def _losses(prediction: Prediction, pictures: list[Objects], earlier: Sequence[Prediction] = ()) -> dict[str, float]:
    draws = [_draws()] * len(pictures)
    terms = set_losses(
        prediction, earlier, pictures, lambda layer: match_pictures(layer, pictures, FEW, draws), FEW, draws
    )
    return {name: float(value) for name, value in terms.items()}


def test_a_sure_and_right_prediction_costs_nothing_and_a_wrong_one_much() -> None:
    objects = _halves()
    right = _losses(_right(objects, 20), [objects])
    wrong = _losses(Prediction(_right(objects, -20).logits, torch.full((1, 3, 16, 16), -20.0)), [objects])
    assert right["loss_ce"] < 1e-6
    # Uncertain points lie on the border between the halves, where targets are interpolated: never quite zero.
    assert all(wrong[name] > 2 * right[name] for name in right)
    assert wrong["loss_dice"] > 4.5  # nothing found at all: nearly the weight of 5


def test_class_loss_weighs_no_object_by_a_tenth() -> None:
    """Two objects in four queries: the two others count a tenth each."""
    logits = torch.zeros(1, 4, 5)
    logits[0, :, 4] = 3.0  # sure of no object everywhere
    objects = _halves()
    found = _losses(Prediction(logits, torch.zeros(1, 4, 16, 16)), [objects])["loss_ce"]
    log_total = math.log(4 + math.exp(3))
    expected = 2 * (2 * log_total + 2 * 0.1 * (log_total - 3)) / 2.2
    assert found == pytest.approx(expected, rel=1e-5)


def test_mask_losses_are_divided_by_all_objects_also_empty_ones() -> None:
    """Flat mask logits: cross entropy log 2 per pair, whatever the masks; weight 5."""
    objects = _halves()
    empty = Objects(objects.classes, torch.zeros_like(objects.masks))
    flat = Prediction(torch.zeros(2, 4, 5), torch.zeros(2, 4, 16, 16))
    losses = _losses(flat, [objects, empty])
    assert losses["loss_mask"] == pytest.approx(5 * math.log(2), rel=1e-5)


def test_pictures_without_objects_train_the_classes_only() -> None:
    nothing = Objects(torch.zeros(0, dtype=torch.long), torch.zeros(0, 16, 16, dtype=torch.bool))
    losses = _losses(Prediction(torch.zeros(1, 4, 5), torch.zeros(1, 4, 8, 8)), [nothing])
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert losses["loss_ce"] > 0


def test_pictures_without_objects_and_a_weight_for_none_cost_nothing() -> None:
    nothing = Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16, 16, dtype=torch.bool))
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    terms = set_losses(
        Prediction(logits, torch.zeros(1, 3, 4, 4, requires_grad=True)), [], [nothing],
        lambda _: [Match(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))],
        replace(FEW, no_object_weight=0.0), [_draws()],
    )  # fmt: skip
    assert {name: term.item() for name, term in terms.items()} == {"loss_ce": 0, "loss_mask": 0, "loss_dice": 0}


def test_earlier_layers_have_suffixes() -> None:
    objects = _halves()
    prediction = _right(objects, 5)
    names = _losses(prediction, [objects], [prediction, prediction])
    assert sorted(names) == sorted(f"loss_{x}{s}" for x in ("ce", "mask", "dice") for s in ("", "_0", "_1"))


def test_padding_and_stacking_of_clips() -> None:
    masks = torch.ones(2, 3, 5, 6, dtype=torch.bool)
    clip = Clip(torch.tensor([0, 1]), masks, torch.ones(2, 3, dtype=torch.bool))
    pictures = clip.pictures((8, 8))
    assert [tuple(picture.masks.shape) for picture in pictures] == [(2, 8, 8)] * 3
    stacked = clip.stacked((8, 8)).masks
    assert stacked.shape == (2, 24, 8)
    assert stacked[0, 8:13, :6].all()
    assert stacked.sum() == masks.sum()


def _reid_case(present: list[list[bool]]) -> tuple[Tensor, list[Match], Tensor]:
    here = torch.tensor(present)
    reid = torch.randn(here.shape[1], 5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    match = Match(torch.arange(len(here)), torch.arange(len(here)))  # object i at query i
    return reid, [match] * here.shape[1], here


class _Gates(Draws):
    """Scripted choices between the fused (above 0.5) and the latest embedding."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(torch.Generator())
        self.values = values

    def uniform(self, *shape: int) -> Tensor:
        return torch.tensor([self.values.pop(0) for _ in range(math.prod(shape))])


def _item(anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """One item's two losses, written out."""
    contrast = torch.log(1 + (negatives @ anchor - positive @ anchor).exp().sum())
    cosine = torch.cosine_similarity(torch.cat((positive[None], negatives)), anchor[None])
    return contrast, (cosine - torch.eye(len(cosine))[0]).square().mean()


def test_contrastive_loss_of_an_object_hidden_in_the_middle() -> None:
    """Frame 1 without the object: its embedding is not remembered, and all queries of that frame are negatives."""
    reid, matches, present = _reid_case([[True, False, True, True]])
    found = contrastive_losses(reid, matches, present, LossSettings(), _Gates([0.1, 0.9]))
    first, third, fourth = (reid[t, 0] for t in (0, 2, 3))
    share = torch.cosine_similarity(third, first, dim=0).clamp(min=0)
    fused = (1 - share) * first + share * third
    items = [_item(third, first, reid[1]), _item(fourth, fused, reid[2, 1:])]
    torch.testing.assert_close(found["loss_reid"], 2 * torch.stack([a for a, _ in items]).mean())
    torch.testing.assert_close(found["loss_aux_reid"], 3 * torch.stack([b for _, b in items]).mean())


def test_contrastive_loss_of_a_late_object_looks_ahead() -> None:
    """Never seen before: the next later embedding is the positive, and no number is drawn."""
    reid, matches, present = _reid_case([[False, True, True]])
    found = contrastive_losses(reid, matches, present, LossSettings(), _Gates([0.0]))
    items = [_item(reid[1, 0], reid[2, 0], reid[0]), _item(reid[2, 0], reid[1, 0], reid[1, 1:])]
    torch.testing.assert_close(found["loss_reid"], 2 * torch.stack([a for a, _ in items]).mean())


def test_contrastive_loss_without_items_is_zero_and_connected() -> None:
    reid, matches, present = _reid_case([[False, False, True]])
    found = contrastive_losses(reid, matches, present, LossSettings(), _Gates([]))
    assert float(found["loss_reid"].detach()) == 0
    found["loss_reid"].backward()
    assert reid.grad is not None


def test_more_objects_than_queries() -> None:
    reid = torch.randn(2, 3, 4)
    match = Match(torch.arange(3), torch.tensor([4, 0, 2]))
    found = contrastive_losses(reid, [match] * 2, torch.ones(5, 2, dtype=torch.bool), LossSettings(), _draws())
    assert found["loss_reid"].isfinite()


def _clip(frames: int = 3) -> tuple[Tensor, Clip]:
    masks = torch.zeros(2, frames, 24, 32, dtype=torch.bool)
    masks[0, :, 4:12, 4:12] = True
    masks[1, :, 12:20, 16:28] = True
    pictures = 100 * masks.sum(0)[:, None].expand(-1, 3, -1, -1).float() + 50
    return pictures, Clip(torch.tensor([1, 3]), masks, torch.ones(2, frames, dtype=torch.bool))


def _toy(kind: type) -> CTVIS | OnlineDVIS | OfflineDVIS:
    torch.manual_seed(0)
    return CTVIS(TOY) if kind is CTVIS else kind(TOY, SMALL_VIDEO)


def _step(model: torch.nn.Module, draws: Draws, guided: bool = False, batch: int = 1) -> dict[str, Tensor]:
    frames, clip = _clip()
    arguments = () if isinstance(model, CTVIS) else (guided,)
    return model(torch.stack([frames] * batch), [clip] * batch, FEW, [draws] * batch, *arguments)


@pytest.mark.parametrize("kind", [CTVIS, OnlineDVIS, OfflineDVIS])
@pytest.mark.parametrize("guided", [True, False])
def test_training_lowers_the_loss(kind: type, guided: bool) -> None:
    model = _toy(kind).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for step in range(9):
        loss = torch.stack(list(_step(model, _draws(step), guided).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert sum(totals[-3:]) < 0.9 * sum(totals[:3])


@pytest.mark.parametrize("kind", [OnlineDVIS, OfflineDVIS])
def test_what_is_frozen_stays_frozen(kind: type) -> None:
    model = _toy(kind).train()
    frozen = {"segmenter"} | ({"tracker"} if kind is OfflineDVIS else set())
    assert {name for name, child in model.named_children() if not child.training} == frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.stack(list(_step(model, _draws()).values())).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen)
        if parameter.requires_grad:
            assert parameter.grad is not None, name


@pytest.mark.parametrize("kind", [OnlineDVIS, OfflineDVIS])
def test_a_batch_of_equal_clips_costs_what_one_costs(kind: type) -> None:
    class Centre(Draws):
        """All points in the same grid, no noise."""

        def points(self, masks: int, count: int) -> Tensor:
            return torch.linspace(0, 1, count)[:, None].expand(masks, -1, 2)

        def uniform(self, *shape: int) -> Tensor:
            return torch.ones(*shape)

    model = _toy(kind).train()
    one, two = (_step(model, Centre(torch.Generator()), batch=batch) for batch in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name])


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("kind", [CTVIS, OnlineDVIS, OfflineDVIS])
def test_a_clip_is_trained_on_alike_in_any_batch(kind: type, guided: bool) -> None:
    """Two clips with as many objects: the batch costs their mean, with each clip's own random draws."""
    torch.manual_seed(0)
    frozen = replace(TOY, norm="frozen")
    model = (CTVIS(frozen) if kind is CTVIS else kind(frozen, SMALL_VIDEO)).train()
    frames, clip = _clip()
    other_frames, other = frames.flip(-1), replace(clip, masks=clip.masks.flip(-1), classes=clip.classes.flip(0))
    arguments = () if kind is CTVIS else (guided,)
    both = model(torch.stack([frames, other_frames]), [clip, other], FEW, [_draws(1), _draws(2)], *arguments)
    first = model(frames[None], [clip], FEW, [_draws(1)], *arguments)
    second = model(other_frames[None], [other], FEW, [_draws(2)], *arguments)
    for name, value in both.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-4, atol=1e-5)


def test_the_same_generator_gives_the_same_loss() -> None:
    model = _toy(CTVIS).eval()  # batch statistics aside
    first, second = _step(model, _draws(5)), _step(model, _draws(5))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("kind", [CTVIS, OnlineDVIS, OfflineDVIS])
def test_a_training_step_in_half_precision(kind: type, guided: bool, dtype: torch.dtype) -> None:
    """As a GPU does it: forward pass under autocast, losses in float32, every trained weight with a finite gradient."""
    torch.manual_seed(0)
    size = replace(small_segmenter(4), norm="frozen")  # as published; statistics of 3 cells would overflow float16
    model = (CTVIS(size) if kind is CTVIS else kind(size, SMALL_VIDEO)).train()
    whole = torch.stack(list(_step(model, _draws(), guided).values())).sum()
    with torch.autocast("cpu", dtype=dtype):
        losses = _step(model, _draws(), guided)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    total = torch.stack(list(losses.values())).sum()
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=0.05)
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_queries_are_aligned_alike_under_autocast(dtype: torch.dtype) -> None:
    """Similarities that 8 bits of mantissa cannot tell apart: the second nearest is only a little farther."""
    draw = torch.Generator().manual_seed(3)
    previous = 1 + 0.02 * torch.randn(30, 64, generator=draw)
    order = torch.randperm(30, generator=draw)
    with torch.autocast("cpu", dtype=dtype):
        found = align(previous, previous[order])
    assert torch.equal(order[found], torch.arange(30))
    assert torch.equal(align(previous.to(dtype), previous[order].to(dtype)).sort().values, torch.arange(30))
