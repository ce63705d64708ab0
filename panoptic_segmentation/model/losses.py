"""The set loss: class, mask and dice of the queries against the objects assigned to them (section 9.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed
from torch.nn import functional as F

from panoptic_segmentation.model.matching import Draws, LossSettings, Match, Objects, full_precision, sample_masks
from panoptic_segmentation.model.transformer_decoder import Prediction

Losses = dict[str, Float[Tensor, ""]]  # weighted terms under their published names; their sum is the loss


@dataclass(frozen=True)
class Clip:
    """The annotated objects of one clip, each with its mask in every frame."""

    classes: Int[Tensor, " objects"]
    masks: Bool[Tensor, "objects frames height width"]  # of the unpadded frames; empty where an object is not seen
    present: Bool[Tensor, "objects frames"]  # published data: true everywhere, also where the mask is empty (9.1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Clip:
        """The same on another device (accelerate does it to batches) but for `present`, by which the CPU decides."""
        classes, masks = (x.to(device, non_blocking=non_blocking) for x in (self.classes, self.masks))
        return Clip(classes, masks, self.present)

    def pictures(self, padded_size: tuple[int, int]) -> list[Objects]:
        """The objects of each frame, masks padded with zeros at the right and bottom."""
        height, width = self.masks.shape[-2:]
        padded = F.pad(self.masks, (0, padded_size[1] - width, 0, padded_size[0] - height))
        return [Objects(self.classes, masks) for masks in padded.unbind(1)]

    def stacked(self, padded_size: tuple[int, int]) -> Objects:
        """The frames laid on top of each other as one picture of frames * height (section 7)."""
        masks = torch.stack([picture.masks for picture in self.pictures(padded_size)], dim=1)
        return Objects(self.classes, masks.flatten(1, 2))


def set_losses(
    last: Prediction,
    auxiliary: Sequence[Prediction],
    pictures: Sequence[Objects],
    match: Callable[[Prediction], list[Match]],
    settings: LossSettings,
    draws: Sequence[Draws],
) -> Losses:
    """`loss_ce`, `loss_mask`, `loss_dice` of the last layer, and with suffix `_0`, `_1`, ... of the earlier ones.

    Args:
        match: assigns the objects of each picture to queries, anew for every layer.
        draws: one per picture; those of a clip share theirs.
    """
    objects = sum(len(picture.classes) for picture in pictures)
    count = _mean_over_processes(torch.full((), float(objects), device=last.logits.device)).clamp(min=1)
    losses = {}
    layers = [("", last), *((f"_{i}", prediction) for i, prediction in enumerate(auxiliary))]
    for suffix, prediction in layers:
        terms = _layer_losses(prediction, pictures, match(prediction), count, settings, draws)
        losses |= {name + suffix: value for name, value in terms.items()}
    return losses


def _layer_losses(
    prediction: Prediction,
    pictures: Sequence[Objects],
    matches: Sequence[Match],
    count: Float[Tensor, ""],
    settings: LossSettings,
    draws: Sequence[Draws],
) -> Losses:
    with torch.autocast(prediction.logits.device.type, enabled=False):
        masks = torch.cat([full_precision(m[match.queries]) for m, match in zip(prediction.masks, matches)])
        truth = torch.cat([picture.masks[match.objects] for picture, match in zip(pictures, matches)])
        counts = [len(match.queries) for match in matches]
        mask_loss, dice_loss = _mask_losses(masks, truth, counts, settings, draws)
        return {
            "loss_ce": settings.class_weight
            * _class_loss(full_precision(prediction.logits), pictures, matches, settings),
            "loss_mask": settings.mask_weight * mask_loss / count,
            "loss_dice": settings.dice_weight * dice_loss / count,
        }


def _class_loss(
    logits: Float[Tensor, "pictures queries classes"],
    pictures: Sequence[Objects],
    matches: Sequence[Match],
    settings: LossSettings,
) -> Float[Tensor, ""]:
    """Cross entropy, one weighted mean over all queries of all pictures; the last class is "no object".

    The mean is over all processes: the mean of their gradients is then that of one process with all pictures.
    """
    no_object = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], no_object, device=logits.device)
    for row, picture, match in zip(wanted, pictures, matches):
        row[match.queries] = picture.classes[match.objects]
    weights = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    weights[no_object] = settings.no_object_weight
    total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weights, reduction="sum")
    # Without objects, and without a weight for none of them, there is nothing to divide by.
    return total / _mean_over_processes(weights[wanted].sum()).clamp(min=torch.finfo(weights.dtype).tiny)


def _mask_losses(
    masks: Float[Tensor, "pairs h w"],
    truth: Bool[Tensor, "pairs height width"],
    counts: Sequence[int],
    settings: LossSettings,
    draws: Sequence[Draws],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross entropy and dice at uncertain and random points, summed over the pairs; `counts` is pairs per picture."""
    if len(masks) == 0:
        return masks.sum(), masks.sum()  # zero, connected to the network
    points = _uncertain_points(masks, counts, settings, draws)
    with torch.no_grad():
        wanted = sample_masks(truth, points, like=masks)
    logits = sample_masks(masks, points, like=masks)
    mask_loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1).sum()
    inside = logits.sigmoid()
    dice = 1 - (2 * (inside * wanted).sum(1) + 1) / (inside.sum(1) + wanted.sum(1) + 1)
    return mask_loss, dice.sum()


@torch.no_grad()
def _uncertain_points(
    masks: Float[Tensor, "pairs h w"], counts: Sequence[int], settings: LossSettings, draws: Sequence[Draws]
) -> Float[Tensor, "pairs points 2"]:
    """Of many random points those with the smallest |logit|, and some random ones (PointRend, Kirillov et al.)."""

    def points(number: int) -> Float[Tensor, "pairs points 2"]:
        return torch.cat([draw.points(count, number) for count, draw in zip(counts, draws) if count]).to(masks)

    uncertain = int(settings.uncertain * settings.points)
    candidates = points(int(settings.oversample * settings.points))
    distance = sample_masks(masks, candidates, like=masks).abs()
    chosen = distance.topk(uncertain, dim=1, largest=False, sorted=False).indices
    picked = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat((picked, points(settings.points - uncertain)), dim=1)


def _mean_over_processes(count: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The mean of a count over the processes of a training, so that all divide by the same."""
    if distributed.is_available() and distributed.is_initialized():
        count = count.clone()
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return count
