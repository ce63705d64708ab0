"""Who is who: queries to objects for the training loss, and queries of one frame to those of the next.

Stage-1 specification, sections 5.1 and 6.1 (alignment of frames), 5.2, 6.3 and 9.3 (assignment to objects).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from operating_room.errors import UserError
from panoptic_segmentation.model.transformer_decoder import Prediction

NOT_FINITE = (
    "the model's predictions are not finite: its training diverged (lower the learning rate or load other weights), or "
    "they are too large for float16 (choose bfloat16 or float32: --dtype, SOLVER.AMP.DTYPE)"
)
TAKEN = 1e6  # cost of a query that an object of an earlier frame has

Pairs = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]  # rows and columns of an assignment, equally many


class Draws:
    """All that is random in training on one clip.

    Each clip has its own, so that it is trained on alike in whatever batch and on whatever process it comes.

    Args:
        generator: of points, best on the device of the step.
        choices: of everything that the CPU decides by: asked on a GPU it would have to wait for it each time. None:
            the same.
    """

    def __init__(self, generator: torch.Generator, choices: torch.Generator | None = None) -> None:
        self.generator, self.choices = generator, choices or generator

    @staticmethod
    def seeded(seed: int, device: torch.device) -> Draws:
        """For a step on this device."""
        generator = torch.Generator(device).manual_seed(seed)
        return Draws(generator, None if device.type == "cpu" else torch.Generator().manual_seed(seed))

    def uniform(self, *shape: int) -> Float[Tensor, "*shape"]:
        """Numbers of U(0, 1) to decide by."""
        return torch.rand(*shape, generator=self.choices, device=self.choices.device)

    def points(self, masks: int, count: int) -> Float[Tensor, "masks count 2"]:
        """`count` points (x, y) in 0..1 of the padded picture for each of `masks` masks."""
        return torch.rand(masks, count, 2, generator=self.generator, device=self.generator.device)

    def coins(self, count: int) -> list[bool]:
        """Tosses of a fair coin."""
        return (self.uniform(count) > 0.5).tolist() if count else []

    def permutation(self, count: int) -> Int[Tensor, " count"]:
        """A shuffle of 0 .. count-1."""
        return torch.randperm(count, generator=self.choices, device=self.choices.device)


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one picture."""

    classes: Int[Tensor, " objects"]
    masks: Shaped[Tensor, "objects height width"]  # zero or one, over the padded picture; may be empty


@dataclass(frozen=True)
class Match:
    """Queries and the objects assigned to them, pair by pair, in ascending order of the queries."""

    queries: Int[Tensor, " pairs"]
    objects: Int[Tensor, " pairs"]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Each query and its object, as numbers of the CPU."""
        return list(zip(self.queries.tolist(), self.objects.tolist()))


@dataclass(frozen=True)
class LossSettings:
    """Weights and numbers of points of the matching and of the losses (sections 5.2, 9.3, 10)."""

    points: int = 12544  # per picture
    oversample: float = 3.0  # candidates for the uncertain points, as a multiple of `points`
    uncertain: float = 0.75  # share of `points` that is picked for uncertainty
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1  # of queries without object in the class loss
    reid_weight: float = 2.0
    reid_cosine_weight: float = 3.0


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32 if it is coarser, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sample_masks(
    masks: Shaped[Tensor, "masks height width"], points: Float[Tensor, "#masks points 2"], like: Tensor
) -> Float[Tensor, "masks points"]:
    """Bilinear values of `masks` at `points` (x, y in 0..1), zero outside, in the precision of `like`."""
    grid = 2 * points.to(like) - 1
    masks = masks.to(like)
    if len(grid) == 1:  # the same points for all masks: masks as channels, so that places are computed once
        return F.grid_sample(masks[None], grid[:, None], mode="bilinear", align_corners=False)[0, :, 0]
    return F.grid_sample(masks[:, None], grid[:, None], mode="bilinear", align_corners=False)[:, 0, 0]


@torch.no_grad()
def pair_costs(
    logits: Float[Tensor, "queries classes"],
    masks: Float[Tensor, "queries h w"],
    objects: Objects,
    settings: LossSettings,
    draws: Draws,
) -> Float[Tensor, "queries objects"]:
    """Cost of giving each query to each object of a picture: class, point-wise cross entropy, dice (section 9.3)."""
    with torch.autocast(logits.device.type, enabled=False):
        logits, masks = full_precision(logits), full_precision(masks)
        points = draws.points(1, settings.points)
        truth = sample_masks(objects.masks, points, like=masks)
        predicted = sample_masks(masks, points, like=masks)
        class_cost = -logits.softmax(-1)[:, objects.classes]
        positive, negative = F.softplus(-predicted), F.softplus(predicted)
        mask_cost = (positive @ truth.T + negative @ (1 - truth).T) / settings.points
        inside = predicted.sigmoid()
        overlap = 2 * (inside @ truth.T)
        dice_cost = 1 - (overlap + 1) / (inside.sum(-1)[:, None] + truth.sum(-1) + 1)
        return settings.class_weight * class_cost + settings.mask_weight * mask_cost + settings.dice_weight * dice_cost


def assign(costs: Float[Tensor, "rows columns"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Rows and columns of the cheapest one-to-one assignment (Hungarian method), in ascending order of the rows.

    Raises:
        UserError: a cost is not finite, as after a training run that diverged.
    """
    found = torch.from_numpy(np.stack(cheapest(costs.detach().double().cpu().numpy())))  # NumPy has no bfloat16
    rows, columns = found.to(costs.device, non_blocking=True)
    return rows, columns


def cheapest(costs: Float[np.ndarray, "rows columns"]) -> Pairs:
    """Rows and columns of the cheapest assignment; all matching is decided here.

    Raises:
        UserError: a cost is not finite.
    """
    if not np.isfinite(costs).all():
        raise UserError(NOT_FINITE)
    return linear_sum_assignment(costs)


def _solve(costs: Float[Tensor, "rows columns"]) -> list[tuple[int, int]]:
    """The pairs of `assign`; costs are on the CPU."""
    rows, columns = cheapest(costs.double().numpy())
    return list(zip(rows.tolist(), columns.tolist()))


def _matches(pairs: Sequence[list[tuple[int, int]]], device: torch.device) -> list[Match]:
    """Matches of several pictures, sent to the device together."""
    together = torch.tensor([pair for of_picture in pairs for pair in of_picture], dtype=torch.int64).reshape(-1, 2)
    there = together.to(device, non_blocking=True).split([len(of_picture) for of_picture in pairs])
    found = [Match(of_picture[:, 0], of_picture[:, 1]) for of_picture in there]
    for match, of_picture in zip(found, pairs):
        vars(match)["pairs"] = of_picture
    return found


def match_pictures(
    prediction: Prediction, pictures: Sequence[Objects], settings: LossSettings, draws: Sequence[Draws]
) -> list[Match]:
    """Assign objects to queries, picture by picture; all objects take part, also those with an empty mask.

    Args:
        draws: one per picture; those of a clip share theirs.
    """
    costs = [
        pair_costs(logits, masks, objects, settings, draw)
        for logits, masks, objects, draw in zip(prediction.logits, prediction.masks, pictures, draws)
    ]
    # Brought to the CPU together: a GPU is waited for once, not for each picture.
    here = torch.cat([of_picture.flatten() for of_picture in costs]).cpu().split([each.numel() for each in costs])
    return _matches([_solve(flat.view(each.shape)) for flat, each in zip(here, costs)], prediction.logits.device)


def match_clip(
    prediction: Prediction,
    pictures: Sequence[Objects],
    present: Bool[Tensor, "objects frames"],
    settings: LossSettings,
    draws: Draws,
) -> list[Match]:
    """Assign objects to queries once for a clip: in the first frame in which an object is present (section 6.3).

    The object keeps its query in all frames. An object that is never present, or that finds none left, is not matched.
    """
    device = prediction.logits.device
    query_of = [-1] * len(present)
    for logits, masks, objects, here in zip(prediction.logits, prediction.masks, pictures, present.T.tolist()):
        new = [i for i, (query, is_here) in enumerate(zip(query_of, here)) if query < 0 and is_here]
        if not new:
            continue
        places = torch.tensor(new).to(device, non_blocking=True)
        appearing = Objects(objects.classes[places], objects.masks[places])
        costs = pair_costs(logits, masks, appearing, settings, draws).cpu()
        costs[[query for query in query_of if query >= 0]] = TAKEN
        for query, column in _solve(costs):
            if query not in query_of:  # else there are more objects than queries: one cannot learn two of them
                query_of[new[column]] = query
    pairs = sorted((query, i) for i, query in enumerate(query_of) if query >= 0)
    return _matches([pairs], device) * len(pictures)


@torch.no_grad()
def align(
    previous: Float[Tensor, "queries channels"], current: Float[Tensor, "queries channels"]
) -> Int[Tensor, " queries"]:
    """Which query of the current frame continues each query of the previous one, by cosine similarity.

    Returns:
        a permutation `order` with `current[order[k]]` continuing `previous[k]`.
    """
    return follow(previous, current[None])[0]


@torch.no_grad()
def follow(
    previous: Float[Tensor, "queries channels"] | None, frames: Float[Tensor, "frames queries channels"]
) -> Int[Tensor, "frames queries"]:
    """`align` from frame to frame through a window.

    Assigning is work for the CPU, but who was assigned before only changes the order of the rows: so the similarities
    of a whole window are computed at once and the device is waited for once, not in every frame.

    Args:
        previous: of the frame before the window; None if there is none: the first frame keeps its own order.

    Returns:
        per frame a permutation `order` with `frames[t][order[k]]` continuing `previous[k]`.
    """
    with torch.autocast(frames.device.type, enabled=False):  # else the product would be rounded to 8 bits
        chain = full_precision(frames)
        if previous is not None:
            chain = torch.cat((full_precision(previous)[None], chain))
        chain = chain / (chain.norm(dim=-1, keepdim=True) + 1e-6)
        products = [1 - before @ now.T for before, now in pairwise(chain)]
    order = np.arange(frames.shape[1])
    orders = [order] if previous is None else []
    for costs in torch.stack(products).double().cpu().numpy() if products else ():
        order = cheapest(costs[order])[1]
        orders.append(order)
    return torch.from_numpy(np.stack(orders)).to(frames.device, non_blocking=True)
