"""From class scores and mask logits of a video to panoptic segments (stage-1 specification, section 8).

Frames are treated one after the other, so that only the small label maps of a video are held at the output size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
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

    def categories(self, count: int) -> UInt8[Tensor, "frames height width"]:
        """Category per pixel; 0, the background, where there is no segment or one of a category >= `count`."""
        table = torch.zeros(max([0, *(segment.id for segment in self.segments)]) + 1, dtype=torch.uint8)
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
    kept, scores, labels = _confident(probabilities, score_threshold)
    areas = torch.zeros(3, len(kept), dtype=torch.long)
    winners = []
    for frame in masks:
        winner, frame_areas = _winners(scores, _chosen(frame, kept), sizes)
        winners.append(winner)
        areas += frame_areas
    return _paint(winners, _accepted(areas, overlap_threshold), kept, labels, scores, things)


class CausalPanoptic:
    """The same rules frame by frame, for masks that must not depend on the future, and for videos without end.

    Memory does not grow. Not in the published code. An object keeps its id while its query does; its class may change.
    """

    def __init__(
        self,
        sizes: Sizes,
        things: int,
        score_threshold: float = SCORE_THRESHOLD,
        overlap_threshold: float = OVERLAP_THRESHOLD,
        so_far: bool = True,
    ) -> None:
        """Start a video.

        Args:
            so_far: class logits are averaged and areas added up over the frames so far, in place of the whole video;
                else each frame is judged alone.
        """
        self.sizes, self.things = sizes, things
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold
        self.so_far = so_far
        self._logits: Tensor | None = None  # summed over the frames so far
        self._frames = 0
        self._areas: Tensor | None = None  # of each query over the frames so far
        self._ids: dict[tuple[str, int], int] = {}  # ("thing", query) or ("stuff", class) -> id

    def add(self, logits: Float[Tensor, "queries classes"], masks: Float[Tensor, "queries h w"]) -> PanopticVideo:
        """The next frame, as a video of one frame; its segments may have any ids."""
        if self._logits is None or self._areas is None or not self.so_far:
            self._logits, self._frames = torch.zeros_like(logits), 0
            self._areas = torch.zeros(3, len(logits), dtype=torch.long)
        self._logits = self._logits + logits
        self._frames += 1
        probabilities = (self._logits / self._frames).softmax(-1)
        kept, scores, labels = _confident(probabilities, self.score_threshold)
        winner, areas = _winners(scores, masks[kept], self.sizes)
        places = kept.cpu()
        self._areas[:, places] += areas
        accepted = _accepted(self._areas[:, places], self.overlap_threshold)
        painted = _paint([winner], accepted, kept, labels, scores, self.things)
        table = torch.zeros(len(painted.segments) + 1, dtype=torch.int32)
        segments = []
        for segment in painted.segments:
            key = ("thing", segment.query) if segment.is_thing else ("stuff", segment.category_id)
            table[segment.id] = self._ids.setdefault(key, len(self._ids) + 1)
            segments.append(replace(segment, id=int(table[segment.id])))
        return PanopticVideo(table[painted.ids.long()], segments)


def _chosen(masks: Float[Tensor, "queries h w"], queries: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen h w"]:
    """Masks of some queries on the device of `queries`, also of masks that wait in main memory."""
    return masks[queries.to(masks.device)].to(queries.device)


def _confident(
    probabilities: Float[Tensor, "queries classes"], threshold: float
) -> tuple[Int[Tensor, " kept"], Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Queries, scores and classes of those whose best class is one and scores above the threshold."""
    scores, labels = probabilities.max(-1)
    kept = torch.nonzero((labels != probabilities.shape[-1] - 1) & (scores > threshold))[:, 0]
    return kept, scores[kept], labels[kept]


def _winners(
    scores: Float[Tensor, " kept"], masks: Float[Tensor, "kept h w"], sizes: Sizes
) -> tuple[Int[Tensor, "height width"], Int[Tensor, "3 kept"]]:
    """Who gets each pixel (-1: nobody), and per query the pixels it won, those inside its mask, and those both ways.

    The winner has the best score x probability; it gets the pixel if its probability is at least 0.5.
    """
    if len(scores) == 0:
        return torch.full(sizes.output, -1, dtype=torch.int16), torch.zeros(3, 0, dtype=torch.long)
    probabilities = _resize(_to_image(masks, sizes).sigmoid(), sizes.output)
    best = (scores[:, None, None] * probabilities).argmax(0)
    inside = probabilities >= 0.5
    certain = inside.gather(0, best[None])[0]
    count = len(scores)
    areas = (
        best.flatten().bincount(minlength=count),
        inside.flatten(1).sum(1),
        best[certain].bincount(minlength=count),
    )
    return torch.where(certain, best, -1).to(torch.int16).cpu(), torch.stack(areas).cpu()


def _accepted(areas: Int[Tensor, "3 kept"], overlap_threshold: float) -> Bool[Tensor, " kept"]:
    """Queries that win enough of their own mask; `areas` over all frames."""
    won, own, both = areas
    return (won > 0) & (own > 0) & (both > 0) & (won.double() / own.double() >= overlap_threshold)


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
        yield _resize(_to_image(_chosen(frame, queries), sizes), sizes.output) > 0


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
