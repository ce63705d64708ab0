"""Which timepoints are asked at once, and by which of several processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from operating_room.domain.collection import Take
from operating_room.recordings.timepoint import Timepoint
from operating_room.work.processes import Share, deal


def batches(
    lanes: Mapping[Take, Sequence[Timepoint]], memory: bool, size: int, mixed: bool, share: Share
) -> list[list[Timepoint]]:
    """This process's batches, of which each has the members that it would have in one process where that matters.

    Args:
        lanes: the timepoints of each take.
        memory: those of a take come one after the other.
        size: of a batch.
        mixed: the answers of a batch depend on each other.
        share: which process this is.
    """
    if not memory:
        groups = list(_in_order(list(lanes.values()), size))
        first, behind = (len(groups) * rank // share.processes for rank in (share.rank, share.rank + 1))
        return groups[first:behind]
    together = _bound(_side_by_side(list(lanes.values()), size)) if mixed else [{take} for take in lanes]
    dealt = deal([sum(len(lanes[take]) for take in takes) for takes in together], share)
    own = set[Take]().union(*(together[place] for place in dealt))
    return list(_side_by_side([lane for take, lane in lanes.items() if take in own], size))


def _bound(groups: Iterable[Sequence[Timepoint]]) -> list[set[Take]]:
    """Takes that share a batch, and those that share one with these."""
    bound: list[set[Take]] = []
    for group in groups:
        takes = {timepoint.take for timepoint in group}
        touched = [others for others in bound if others & takes]
        bound = [*(others for others in bound if not others & takes), takes.union(*touched)]
    return bound


def _in_order(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints, one take after the other."""
    everything = [timepoint for lane in lanes for timepoint in lane]
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def _side_by_side(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints of different takes, each take in the order of time; when one ends, the next one begins."""
    waiting = sorted(filter(len, lanes), key=len)
    running: list[deque[Timepoint]] = []
    while waiting or running:
        while waiting and len(running) < size:
            running.append(deque(waiting.pop()))
        yield [lane.popleft() for lane in running]
        running = [lane for lane in running if lane]
