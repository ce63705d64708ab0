"""The order in which training goes through the samples: grouped by length, as in the published training.

Stage-2 specification, section 6 (case 11).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class GroupedOrder(Sampler[tuple[int, int]]):
    """(epoch, index) of all samples in the order of `length_grouped_order`, another one in each epoch."""

    def __init__(self, lengths: Sequence[int], batch: int, world: int, seed: int) -> None:
        self._lengths, self._batch, self._world, self._seed = lengths, batch, world, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self._seed + 1_000_003 * self._epoch)
        order = length_grouped_order(self._lengths, self._batch, self._world, generator)
        yield from ((self._epoch, index) for index in order)


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
