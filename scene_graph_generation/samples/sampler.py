"""The order in which training goes through the samples: by similar length, or grouped as in the published training.

Stage-2 specification, section 6 (case 11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from torch.utils.data import Sampler

GROUPED_BATCHES = 16  # batches of similar length are cut out of groups of this many


class EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of `count` samples, in the order that `arrange` gives to each epoch."""

    def __init__(self, count: int, arrange: Callable[[int], list[int]]) -> None:
        self._count, self._arrange, self._epoch = count, arrange, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from ((self._epoch, index) for index in self._arrange(self._epoch))


def similar_length_order(lengths: Sequence[int], batch: int, generator: Random) -> list[int]:
    """Indices of all samples: batches of similar length, so that little is padded, in random order."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    size = batch * GROUPED_BATCHES
    batches = []
    for start in range(0, len(order), size):
        group = sorted(order[start : start + size], key=lambda i: lengths[i])
        batches += [group[i : i + batch] for i in range(0, len(group), batch)]
    *full, last = batches
    generator.shuffle(full)  # the last one may be smaller and stays, or it would shift all those behind it
    return [index for group in [*full, last] for index in group]


def length_grouped_order(lengths: Sequence[int], batch: int, world: int, generator: torch.Generator) -> list[int]:
    """Indices of all samples in the order of an epoch.

    A random permutation is cut into megabatches of `batch * world` samples. Each is sorted by length, longest first,
    and dealt to `world` micro-batches, every sample to the one with the smallest sum of lengths that still has room.

    Args:
        lengths: of each sample. The published training hands in negative word counts (it misses the pictures of the
            samples and takes them for text only), so that its micro-batches are filled one after the other, shortest
            samples first; positive ones balance the micro-batches.
        batch: samples of a micro-batch.
        world: processes times gradient accumulation steps.
        generator: source of the permutation.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    size = batch * world
    megabatches = [sorted(order[i : i + size], key=lambda j: -lengths[j]) for i in range(0, len(order), size)]
    return [index for megabatch in megabatches for chunk in _deal(megabatch, lengths, world) for index in chunk]


def _deal(megabatch: list[int], lengths: Sequence[int], world: int) -> list[list[int]]:
    """Split a sorted megabatch into `world` chunks; the last one of an epoch, if uneven, is dealt out in turn."""
    if len(megabatch) % world:
        return [megabatch[place::world] for place in range(world)]
    room = len(megabatch) // world
    chunks: list[list[int]] = [[] for _ in range(world)]
    sums = [0] * world
    for index in megabatch:
        place = min((p for p in range(world) if len(chunks[p]) < room), key=lambda p: sums[p])
        chunks[place].append(index)
        sums[place] += lengths[index]
    return chunks
