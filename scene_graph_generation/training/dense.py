"""Teach the vision tower densely, before all else: what is in each patch of each view, how far away, in whose hand.

Views are decoded once and stay in memory, on the GPU if there is one, so that a step is a few calls. What tells the
answers is thrown away afterwards; tower, pooler and projector stay.

And teach the mask encoder what is in a mask: a held tool is one to five of its 1024 cells, and which tool it is
tells the deed. As they are drawn usually, five strided convolutions tell deeds in rooms that they have not seen no
better than a count of cells does (docs/trials.md, "What is in a mask").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from operating_room.graphs.scene_graph import Triplet
from scene_graph_generation.inputs.views import MEAN, STD
from scene_graph_generation.model.encoders import MaskEncoder
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.patches import Patched
from scene_graph_generation.training.presence import PresenceHead, f1_of, rarity_of

MAX_RARITY = 8.0  # how much more a seldom category counts in a patch
DEPTH_WEIGHT = 0.3  # of a metre, against the category's cross entropy
HOLDING = "holding"  # the predicate that tells which hand has which tool
CONTENTS_WEIGHT = 2.0  # against the loss of triplets, both summed over what is told of a sample
TYPICAL = 60.0  # cells of a label whose embedding is drawn as it is anywhere
STRONGEST = (0.3, 6.0)  # how much smaller or larger that of another may be
SEEN = 9 / 4  # windows of 3x3 cells, two apart, that see a cell in the mean
_SCORED = 64  # timepoints at once
_FLIPPED = 0.5  # share of rooms that are mirrored


class PatchHead(nn.Module):
    """What a patch shows and how far away it is, from its token alone."""

    def __init__(self, width: int, categories: int) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(width)
        self.category = nn.Linear(width, categories)
        self.depth = nn.Linear(width, 1)

    def forward(
        self, tokens: Float[Tensor, "views patches width"]
    ) -> tuple[Float[Tensor, "views patches categories"], Float[Tensor, "views patches"]]:
        """Logits of the categories, and depth in m."""
        tokens = self.normalise(tokens)
        return self.category(tokens), self.depth(tokens).squeeze(-1)


@dataclass(frozen=True)
class Phase:
    """One thing to learn.

    Attributes:
        name: in the log.
        head: is trained with the model and thrown away.
        loss: of a group of timepoints and some places in it.
        score: what the held-out timepoints say.
    """

    name: str
    head: nn.Module
    loss: Callable[[Patched, Int64[Tensor, " chosen"], bool], Tensor]
    score: Callable[[], dict[str, float]]


def patch_phase(model: MM2SG, train: Sequence[Patched], held_out: Sequence[Patched]) -> Phase | None:
    """Categories and depth by patch; None where neither masks nor depth are known."""
    categories = train[0].shares.shape[-1]
    counts = sum((of.shares.flatten(0, 2).sum(0, dtype=torch.float64) for of in train), torch.zeros(()))
    if not counts.sum() and all(of.depth.isnan().all() for of in train):
        return None
    share = (counts / counts.sum().clamp(min=1)).float()
    rarity = (share.max() / share.clamp(min=1e-9)).sqrt().clamp(1.0, MAX_RARITY)
    assert model.vision is not None
    tower = model.vision
    head = PatchHead(model.settings.vision.width, categories).to(rarity.device)

    def told(
        of: Patched, chosen: Int64[Tensor, " chosen"], augment: bool
    ) -> tuple[Float[Tensor, "views patches categories"], Float[Tensor, "views patches"], Tensor, Tensor]:
        views, shares, depth = of.views[chosen], of.shares[chosen], of.depth[chosen]
        if augment:
            views, shares, depth = mirrored(views, shares, depth)
        logits, metres = head(tower(shown(views, augment).flatten(0, 1)))
        return logits.float(), metres.float(), shares.flatten(0, 1).float() / 255, depth.flatten(0, 1).float()

    def loss(of: Patched, chosen: Int64[Tensor, " chosen"], augment: bool) -> Tensor:
        logits, metres, shares, depth = told(of, chosen, augment)
        weights = shares * rarity
        wrong = -(weights * logits.log_softmax(-1)).sum() / weights.sum().clamp(min=1e-6)
        known = ~depth.isnan()
        away = F.smooth_l1_loss(metres, depth.nan_to_num(), reduction="none") * known
        return wrong + DEPTH_WEIGHT * away.sum() / known.sum().clamp(min=1)

    def score() -> dict[str, float]:
        confusion = torch.zeros(categories * categories, dtype=torch.int64, device=rarity.device)
        off = torch.zeros(2, dtype=torch.float64, device=rarity.device)
        for of in held_out:
            for chosen in torch.arange(len(of.places), device=rarity.device).split(_SCORED):
                logits, metres, shares, depth = told(of, chosen, False)
                labelled = shares.sum(-1) > 0
                pairs = shares.argmax(-1)[labelled] * categories + logits.argmax(-1)[labelled]
                confusion += torch.bincount(pairs, minlength=categories**2)
                known = ~depth.isnan()
                off += torch.stack([(metres - depth)[known].abs().sum().double(), known.sum().double()])
        return {**overlap(confusion.reshape(categories, categories)), "depth_error_m": float(off[0] / off[1])}

    return Phase("patches", head, loss, score)


def hand_phase(
    model: MM2SG,
    train: Sequence[Patched],
    held_out: Sequence[Patched],
    graphs: dict[tuple[str, str], frozenset[Triplet]],
    frequent: Sequence[Triplet],
) -> Phase | None:
    """Who holds what, from the tokens of all views together; None where nobody holds anything."""
    held = [triplet for triplet in frequent if triplet.predicate == HOLDING]
    if not held:
        return None
    device = train[0].views.device

    def truth_of(of: Patched) -> Bool[Tensor, "timepoints triplets"]:
        return torch.tensor([[t in graphs[place] for t in held] for place in of.places], device=device)

    truths = {id(of): truth_of(of) for of in (*train, *held_out)}
    share = torch.cat([truths[id(of)] for of in train]).float().mean(0).clamp(min=1e-6)
    rarity = rarity_of(share)
    head = PresenceHead(len(held), model.settings.language.width).to(device)

    def told(of: Patched, chosen: Int64[Tensor, " chosen"], augment: bool) -> Float[Tensor, "chosen triplets"]:
        assert model.vision is not None
        views = mirrored(of.views[chosen])[0] if augment else of.views[chosen]
        features = model.vision(shown(views, augment).flatten(0, 1))
        pooled = model.pooler.views(features.unflatten(0, views.shape[:2]))
        return head(list(model.projector(pooled)))

    def loss(of: Patched, chosen: Int64[Tensor, " chosen"], augment: bool) -> Tensor:
        wrong = F.binary_cross_entropy_with_logits(
            told(of, chosen, augment).float(), truths[id(of)][chosen].float(), pos_weight=rarity, reduction="sum"
        )
        return wrong / len(chosen)

    def score() -> dict[str, float]:
        found = [
            (told(of, chosen, False) > 0, truths[id(of)][chosen])
            for of in held_out
            for chosen in torch.arange(len(of.places), device=device).split(_SCORED)
        ]
        said, true = (torch.cat(part) for part in zip(*found))
        return f1_of(said, true)

    return Phase("hands", head, loss, score)


def shown(
    views: UInt8[Tensor, "timepoints views 3 size size"], augment: bool
) -> Float[Tensor, "timepoints views 3 size size"]:
    """Views as the tower takes them, in other light and colours if so asked."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(views.device, non_blocking=True) for values in (MEAN, STD))
    normal = (views.float() / 255 - mean) / std
    if not augment:
        return normal
    gain, offset = torch.empty(2, len(views), 1, 3, 1, 1, device=views.device).uniform_(-0.2, 0.2)
    return normal * (1 + gain) + offset


def mirrored(views: UInt8[Tensor, "timepoints views 3 size size"], *of_patches: Tensor) -> tuple[Tensor, ...]:
    """Half of the timepoints seen in a mirror, views with what is known of their patches (third dimension)."""
    flips = torch.rand(len(views), device=views.device) < _FLIPPED
    found = [torch.where(flips.view(-1, 1, 1, 1, 1), views.flip(-1), views)]
    for known in of_patches:
        side = int(known.shape[2] ** 0.5)
        other = known.unflatten(2, (side, side)).flip(3).flatten(2, 3)
        found.append(torch.where(flips.view(-1, *(1,) * (known.dim() - 1)), other, known))
    return tuple(found)


def overlap(confusion: Int64[Tensor, "categories categories"]) -> dict[str, float]:
    """Accuracy of patches and mean IoU over the categories that are there, of counts by truth and answer."""
    right, true, said = confusion.diagonal().double(), confusion.sum(1).double(), confusion.sum(0).double()
    there = true > 0
    iou = (right / (true + said - right).clamp(min=1))[there]
    return {
        "patch_accuracy": float(right.sum() / true.sum()),
        "mean_iou": float(iou.mean()),
        "categories": float(there.sum()),
    }


def draw_group(
    groups: Sequence[Patched], count: int, generator: Random
) -> tuple[Patched, Int64[np.ndarray, " chosen"]]:
    """A group, the larger the likelier, and some of its timepoints."""
    (of,) = generator.choices(groups, [len(group.places) for group in groups])
    return of, np.array(generator.sample(range(len(of.places)), min(count, len(of.places))))


def cells_of(masks: Sequence[UInt8[Tensor, "_ 32 32"]], labels: int) -> Int64[Tensor, "masks labels"]:
    """How many cells of each mask each label has; masks of some samples, at least one."""
    return F.one_hot(torch.cat(tuple(masks)).flatten(1).long(), labels).sum(1)


def draw_by_size(encoder: MaskEncoder, masks: Sequence[UInt8[Tensor, "_ 32 32"]]) -> None:
    """Draw an encoder anew so that it begins with what is in a mask, however small and wherever, in place.

    Embeddings of labels are the larger the fewer cells a label has where it is (by the root, so that each brings as
    much into the first convolution). And the first channels of each convolution only add up those before: positive
    parts of embeddings come through to the vector, where drawn weights would let three cells of a drill vanish beside
    the edge of a table. All is trained from there.

    Args:
        encoder: of a model that begins from nothing.
        masks: of some samples, which tell how large labels are; those that they lack stay as they are.
    """
    labels, added = encoder.embedding.num_embeddings, encoder.embedding.embedding_dim
    cells = cells_of(masks, labels)
    where = (cells > 0).sum(0)
    size = torch.where(where > 0, cells.sum(0) / where.clamp(min=1), TYPICAL)
    with torch.no_grad():
        encoder.embedding.weight *= (
            (TYPICAL / size).sqrt().clamp(*STRONGEST).to(encoder.embedding.weight.device)[:, None]
        )
        for convolution in encoder.convolutions:
            weight = convolution.weight
            assert isinstance(weight, Tensor)
            for channel in range(min(added, weight.shape[1], len(weight) // 2)):
                weight[channel] = 0.0
                weight[channel, channel] = 1 / SEEN


def contents_readout(masks: Sequence[UInt8[Tensor, "_ 32 32"]], width: int, labels: int) -> nn.Linear:
    """What tells from the mask encoder's vector log(1 + cells) of each label; is thrown away after pretraining.

    It begins with what the mean of these masks has. Drawn, its first errors, of the large labels, would silence half of
    the encoder's channels.
    """
    readout = nn.Linear(width, labels)
    nn.init.zeros_(readout.weight)
    with torch.no_grad():
        readout.bias.copy_(torch.log1p(cells_of(masks, labels).float()).mean(0))
    return readout


def contents_loss(
    encoder: MaskEncoder, readout: nn.Linear, masks: Sequence[UInt8[Tensor, "_ 32 32"]]
) -> Float[Tensor, ""]:
    """How badly the encoder's vectors of masks tell the cells of each label: summed over labels, mean over masks.

    Cells count as log(1 + cells): one of a drill against none is as much as 200 of a table against 100.

    Args:
        encoder: of the masks.
        readout: see `contents_readout`.
        masks: of some samples, at least one.
    """
    told, cells = readout(encoder(torch.cat(tuple(masks)))), cells_of(masks, readout.out_features)
    return F.smooth_l1_loss(told.float(), torch.log1p(cells.float()), reduction="sum") / len(cells)
