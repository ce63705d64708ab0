"""From class scores and mask logits of a video to panoptic segments (stage-1 specification, section 8).

Frames are treated one after the other, so that only the small label maps of a video are held at the output size. All
pixels are looked at on the device of the model: what comes from there is a label map per frame, and a table of a few
rows per decision. A GPU that is asked for one number has to finish first, so nothing here asks per segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from operating_room.errors import UserError
from panoptic_segmentation.model.matching import NOT_FINITE, full_precision

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

    winners: list[Int[Tensor, "height width"]]  # int16: the entry that has each pixel, -1 where none has; on the CPU
    id_of_entry: Int[Tensor, " entries_and_none"]  # int32
    segments: list[Segment]

    def frames(self) -> Iterator[Int[Tensor, "height width"]]:
        """Segment ids (int32), frame by frame, made as they are asked for: all at once take twice what is kept here."""
        for winner in self.winners:
            yield self.id_of_entry[winner.long()]

    @property
    def ids(self) -> Int[Tensor, "frames height width"]:
        """Segment ids (int32) of all frames."""
        return torch.stack(list(self.frames()))

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
    areas = kept.new_zeros(3, len(kept))
    winners = []
    for frame in _chosen(masks, kept):
        scores = _marked(scores, frame)
        winner, frame_areas = _winners(scores, frame, sizes)
        winners.append(winner.cpu())
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
        logits = full_precision(logits)
        if self._logits is None or self._areas is None or not self.so_far:
            self._logits, self._frames = torch.zeros_like(logits), 0
            self._areas = torch.zeros(3, len(logits), dtype=torch.long, device=logits.device)
        self._logits = self._logits + logits
        self._frames += 1
        probabilities = (self._logits / self._frames).softmax(-1)
        kept, scores, labels = _confident(probabilities, self.score_threshold)
        masks = masks[kept]
        scores = _marked(scores, masks)
        winner, areas = _winners(scores, masks, self.sizes)
        self._areas.index_add_(1, kept, areas)
        accepted = _accepted(self._areas[:, kept], self.overlap_threshold)
        painted = _paint([winner.cpu()], accepted, kept, labels, scores, self.things)
        table = torch.zeros(len(painted.segments) + 1, dtype=torch.int32)
        segments = []
        for segment in painted.segments:
            key = ("thing", segment.query) if segment.is_thing else ("stuff", segment.category_id)
            table[segment.id] = self._ids.setdefault(key, len(self._ids) + 1)
            segments.append(replace(segment, id=int(table[segment.id])))
        return PanopticVideo(painted.winners, table[painted.id_of_entry.long()], segments)


def _chosen(
    masks: Iterable[Float[Tensor, "queries h w"]], queries: Int[Tensor, " chosen"]
) -> Iterator[Float[Tensor, "chosen h w"]]:
    """Masks of some queries on the device of `queries`, also of frames that wait in main memory."""
    in_main_memory = queries.cpu()  # once: the device would be waited for in each frame
    for frame in masks:
        if frame.device == queries.device:
            yield frame[queries]
        else:
            yield frame[in_main_memory].to(queries.device)


def _confident(
    probabilities: Float[Tensor, "queries classes"], threshold: float
) -> tuple[Int[Tensor, " kept"], Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Queries, scores and classes of those whose best class is one and scores above the threshold, or is no number."""
    scores, labels = probabilities.max(-1)
    above = (labels != probabilities.shape[-1] - 1) & (scores > threshold)
    kept = torch.nonzero(above | scores.isnan())[:, 0]
    return kept, scores[kept], labels[kept]


def _marked(scores: Float[Tensor, " entries"], masks: Float[Tensor, "entries h w"]) -> Float[Tensor, " entries"]:
    """The scores, no numbers for entries whose masks are none: such a mask would take its pixels from all others."""
    return scores.masked_fill(~masks.isfinite().flatten(1).all(1), torch.nan)


def _winners(
    scores: Float[Tensor, " kept"], masks: Float[Tensor, "kept h w"], sizes: Sizes
) -> tuple[Int[Tensor, "height width"], Int[Tensor, "3 kept"]]:
    """Who gets each pixel (-1: nobody), and per query the pixels it won, those inside its mask, and those both ways.

    The winner has the best score x probability; it gets the pixel if its probability is at least 0.5. Both results stay
    on the device, and nothing is asked of it: counting with `bincount` or a mask of pixels would wait for their number.
    """
    count = len(scores)
    if count == 0:
        return scores.new_full(sizes.output, -1, dtype=torch.int16), scores.new_zeros(3, 0, dtype=torch.long)
    probabilities = _resize(_to_image(masks, sizes).sigmoid(), sizes.output)
    best = _best(scores, probabilities)
    inside = probabilities >= 0.5
    certain = inside.gather(0, best[None])[0]
    place = best + count * certain
    # Counted by rows first: on a GPU few counters would be waited for by all pixels.
    by_row = place.new_zeros(len(place), 2 * count).scatter_add_(1, place, place.new_ones(()).expand_as(place))
    won, both = by_row.sum(0).view(2, count)
    areas = torch.stack((won + both, inside.flatten(1).sum(1, dtype=torch.int32), both))
    return torch.where(certain, best, -1).to(torch.int16), areas


def _best(
    scores: Float[Tensor, " entries"], shares: Shaped[Tensor, "entries height width"]
) -> Int[Tensor, "height width"]:
    """The entry with the largest score x share at each pixel, the first of equal ones."""
    return (scores[:, None, None] * shares).max(0).indices  # as argmax does, in a quarter of its time on a CPU


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
    for frame in _chosen(masks, queries):
        yield _binary(frame, sizes)


def _binary(frame: Float[Tensor, "entries h w"], sizes: Sizes) -> Bool[Tensor, "entries height width"]:
    return _resize(_to_image(frame, sizes), sizes.output) > 0


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
    entries = torch.arange(len(scores), device=scores.device)
    found = torch.zeros_like(entries, dtype=torch.bool)
    winners = []
    for frame in _chosen(masks, queries):
        scores, mask = _marked(scores, frame), _binary(frame, sizes)
        best = _best(scores, mask)
        winner = torch.where(mask.gather(0, best[None])[0], best, -1)
        found |= (winner == entries[:, None, None]).flatten(1).any(1)
        winners.append(winner.to(torch.int16).cpu())
    return _paint(winners, found, queries, labels, scores, things)


def _paint(
    winners: list[Int[Tensor, "height width"]],
    accepted: Bool[Tensor, " entries"],
    queries: Int[Tensor, " entries"],
    labels: Int[Tensor, " entries"],
    scores: Float[Tensor, " entries"],
    things: int,
) -> PanopticVideo:
    """Give the accepted entries ids in their order; what wins pixels and is not accepted has no id.

    Raises:
        UserError: a score is no number, or was marked so. Finite weights can still make too much of a picture for 16
            bits.
    """
    # All that is known of the entries in one piece: every number that is asked for alone makes the CPU wait.
    table = torch.stack([column.double() for column in (accepted, labels, queries, scores)], dim=1).tolist()
    if any(math.isnan(score) for *_, score in table):
        raise UserError(NOT_FINITE)
    id_of_entry = torch.zeros(len(accepted) + 1, dtype=torch.int32)  # the last one is for -1
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for entry, (is_accepted, label, query, score) in enumerate(table):
        if not is_accepted:
            continue
        if label in stuff:
            id_of_entry[entry] = stuff[label]
            continue
        segment = Segment(len(segments) + 1, label < things, int(label), int(query), score)
        segments.append(segment)
        id_of_entry[entry] = segment.id
        if not segment.is_thing:
            stuff[label] = segment.id
    return PanopticVideo(winners, id_of_entry, segments)


def _to_image(masks: Float[Tensor, "entries h w"], sizes: Sizes) -> Float[Tensor, "entries height width"]:
    """Enlarge to the padded picture and cut the padding off; in float32, also what autocast has made in 16 bits."""
    height, width = sizes.image
    return _resize(full_precision(masks), sizes.padded)[:, :height, :width]


def _resize(masks: Float[Tensor, "entries h w"], size: tuple[int, int]) -> Float[Tensor, "entries height width"]:
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
