"""From class scores and mask logits of a video to panoptic segments (stage-1 specification, section 8).

Frames are treated one after the other, so that only the small label maps of a video are held at the output size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

SCORE_THRESHOLD = 0.8  # of a query's best class
OVERLAP_THRESHOLD = 0.8  # share of its own mask that a query must win
TOP_ENTRIES = 25  # of CTVIS
CTVIS_THINGS = 58  # the published evaluator calls the classes below this one things when it reads CTVIS's result


@dataclass(frozen=True)
class Sizes:
    """Heights and widths in px: of the padded picture the masks cover, of the picture in it, of the result."""

    padded: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """One segment of a video."""

    id: int  # value in the maps, from 1 on
    is_thing: bool
    category_id: int
    query: int
    score: float


@dataclass(frozen=True)
class PanopticVideo:
    """Segment ids per pixel and frame; 0 is nothing."""

    ids: Int[Tensor, "frames height width"]  # int32
    segments: list[Segment]

    def categories(self, count: int) -> Int[Tensor, "frames height width"]:
        """Category per pixel; 0, the background, where there is no segment or one of a category >= `count`."""
        table = torch.zeros(len(self.segments) + 1, dtype=torch.uint8)
        for segment in self.segments:
            if segment.category_id < count:
                table[segment.id] = segment.category_id
        return table[self.ids.long()]


def panoptic_video(
    probabilities: Float[Tensor, "queries classes"],
    masks: Iterable[Float[Tensor, "queries h w"]],
    sizes: Sizes,
    things: int,
    score_threshold: float = SCORE_THRESHOLD,
    overlap_threshold: float = OVERLAP_THRESHOLD,
) -> PanopticVideo:
    """The online and offline models' result: each pixel to the best score x probability, unless overlaps are large.

    Args:
        probabilities: class scores, the last class is "no object".
        masks: logits, frame by frame.
        things: the classes below this number are things, each query a segment of its own; the others share one
            segment per class.
    """
    scores, labels = probabilities.max(-1)
    kept = torch.nonzero((labels != probabilities.shape[-1] - 1) & (scores > score_threshold))[:, 0]
    scores, labels = scores[kept], labels[kept]
    won = torch.zeros(len(kept), dtype=torch.long)  # px over the whole video
    own, both = won.clone(), won.clone()
    winners = []
    for frame in masks:
        if len(kept) == 0:
            winners.append(torch.full(sizes.output, -1, dtype=torch.int16))
            continue
        inside = _resize(_to_image(frame[kept], sizes).sigmoid(), sizes.output)
        best = (scores[:, None, None] * inside).argmax(0)
        mine = inside >= 0.5
        certain = mine.gather(0, best[None])[0]
        won += best.flatten().bincount(minlength=len(kept)).cpu()
        own += mine.flatten(1).sum(1).cpu()
        both += best[certain].bincount(minlength=len(kept)).cpu()
        winners.append(torch.where(certain, best, -1).to(torch.int16).cpu())
    accepted = (won > 0) & (own > 0) & (both > 0)
    accepted &= won.double() / own.double() >= overlap_threshold
    return _paint(winners, accepted, kept, labels, scores, things)


def top_entries(
    logits: Float[Tensor, "queries classes"], count: int = TOP_ENTRIES
) -> tuple[Float[Tensor, " entries"], Int[Tensor, " entries"], Int[Tensor, " entries"]]:
    """Scores, classes and queries of CTVIS's best (query, class) pairs, best first; a query may occur repeatedly."""
    scores = logits.softmax(-1)[:, :-1]
    best, places = scores.flatten().topk(min(count, scores.numel()))
    return best, places % scores.shape[1], places // scores.shape[1]


def binary_masks(
    masks: Iterable[Float[Tensor, "queries h w"]], queries: Int[Tensor, " entries"], sizes: Sizes
) -> Iterator[Bool[Tensor, "entries height width"]]:
    """CTVIS's masks of the given queries, frame by frame: logits above zero at the output size."""
    for frame in masks:
        yield _resize(_to_image(frame[queries], sizes), sizes.output) > 0


def ctvis_panoptic(
    logits: Float[Tensor, "queries classes"],
    masks: Iterable[Float[Tensor, "queries h w"]],
    sizes: Sizes,
    things: int = CTVIS_THINGS,
) -> PanopticVideo:
    """CTVIS's 25 best entries as segments: each pixel to the best entry whose mask covers it.

    No threshold and no overlap test; an entry needs only one pixel.

    Args:
        logits: averaged over time, the last class is "no object".
        masks: logits, frame by frame, aligned over time.
    """
    scores, labels, queries = top_entries(logits)
    found = torch.zeros(len(scores), dtype=torch.long)
    winners = []
    for mask in binary_masks(masks, queries, sizes):
        best = (scores[:, None, None] * mask).argmax(0)
        winner = torch.where(mask.gather(0, best[None])[0], best, -1)
        found += winner[winner >= 0].bincount(minlength=len(scores)).cpu()
        winners.append(winner.to(torch.int16).cpu())
    return _paint(winners, found > 0, queries, labels, scores, things)


def _paint(
    winners: list[Int[Tensor, "height width"]],
    accepted: Bool[Tensor, " entries"],
    queries: Int[Tensor, " entries"],
    labels: Int[Tensor, " entries"],
    scores: Float[Tensor, " entries"],
    things: int,
) -> PanopticVideo:
    """Give the accepted entries ids in their order and replace the winners (-1: nobody) by them."""
    id_of_entry = torch.zeros(len(accepted) + 1, dtype=torch.int32)  # the last one is for -1
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for entry in torch.nonzero(accepted)[:, 0].tolist():
        label = int(labels[entry])
        if label in stuff:
            id_of_entry[entry] = stuff[label]
            continue
        segment = Segment(len(segments) + 1, label < things, label, int(queries[entry]), float(scores[entry]))
        segments.append(segment)
        id_of_entry[entry] = segment.id
        if not segment.is_thing:
            stuff[label] = segment.id
    ids = torch.stack([id_of_entry[winner.long()] for winner in winners])
    return PanopticVideo(ids, segments)


def _to_image(masks: Float[Tensor, "entries h w"], sizes: Sizes) -> Float[Tensor, "entries height width"]:
    """Enlarge to the padded picture and cut the padding off."""
    height, width = sizes.image
    return _resize(masks, sizes.padded)[:, :height, :width]


def _resize(masks: Float[Tensor, "entries h w"], size: tuple[int, int]) -> Float[Tensor, "entries height width"]:
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
