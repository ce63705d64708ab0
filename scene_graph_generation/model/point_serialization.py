"""Order of 3-D voxels on space-filling curves, and patches of consecutive points.

Point Transformer V3 (Wu et al., CVPR 2024), section 4.1; stage-2 specification, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

CURVES = 4  # z, z with x and y swapped, Hilbert, Hilbert with x and y swapped
MAX_BITS = 16  # per axis: codes of three axes and the number of the cloud share 64 bits


@dataclass(frozen=True)
class Patches:
    """How serialized points are dealt into patches, the same for every curve."""

    slots: Int[Tensor, " slots"]  # serialized position that stands in each slot
    places: Int[Tensor, " points"]  # slot of each serialized position
    lengths: tuple[int, ...]  # slots of each patch


def voxelise(
    clouds: Sequence[Float[Tensor, "_ 3"]], origins: Sequence[Float[Tensor, "3"]], size: float
) -> tuple[list[Int[Tensor, "_ 3"]], list[int]]:
    """Integer voxel coordinates of each cloud's points and the largest of them; everything in metres.

    Raises:
        ValueError: a coordinate is not finite, lies before the origin, or too far behind it.
    """
    voxels = [torch.div(cloud - origin, size, rounding_mode="trunc") for cloud, origin in zip(clouds, origins)]
    valid = [((grid >= 0) & (grid < 2**MAX_BITS)).all() for grid in voxels]  # NaN is neither
    # Asked for all clouds together: a GPU has to be waited for once.
    largest = torch.stack([torch.where(good, grid.amax(), -1.0) for good, grid in zip(valid, voxels)]).tolist()
    if min(largest) < 0:
        raise ValueError(f"a point cloud has coordinates that are not finite or spans more than {2**MAX_BITS} voxels")
    return [grid.long() for grid in voxels], [int(number) for number in largest]


def curve_codes(grid: Int[Tensor, "points 3"], bits: int) -> Int[Tensor, "4 points"]:
    """Place of every voxel on each of the four curves through a cube of 2^bits voxels a side."""
    x, y, z = grid.unbind(1)
    swapped = torch.stack((y, x, z), dim=1)
    curves = (grid, swapped, hilbert_axes(grid, bits), hilbert_axes(swapped, bits))
    return torch.stack([interleave(axes, bits) for axes in curves])


def interleave(axes: Int[Tensor, "points 3"], bits: int) -> Int[Tensor, " points"]:
    """Bit i of the three axes becomes bits 3i+2, 3i+1 and 3i."""
    place = torch.arange(bits, device=axes.device)
    shift = 3 * place + torch.arange(2, -1, -1, device=axes.device)[:, None]
    return (((axes[..., None] >> place) & 1) << shift).sum((1, 2))


def hilbert_axes(grid: Int[Tensor, "points 3"], bits: int) -> Int[Tensor, "points 3"]:
    """Three numbers per voxel whose interleaved bits are its place on the Hilbert curve.

    Skilling, "Programming the Hilbert curve" (2004).
    """
    axes = list(grid.unbind(1))
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for axis in range(3):
            high = (axes[axis] >> bit) & 1
            exchange = (axes[0] ^ axes[axis]) & low * (1 - high)  # of the lower bits of both axes
            axes[axis] = axes[axis] ^ exchange
            axes[0] = axes[0] ^ (exchange if axis else 0) ^ low * high
    axes[1] = axes[1] ^ axes[0]
    axes[2] = axes[2] ^ axes[1]
    flips = torch.zeros_like(axes[2])
    for bit in range(1, bits):
        flips = flips ^ (((axes[2] >> bit) & 1) * ((1 << bit) - 1))
    return torch.stack([axis ^ flips for axis in axes], dim=1)


def deal_patches(counts: list[int], size: int, device: torch.device) -> Patches:
    """Cut the serialized points of each cloud into patches of `size`.

    A cloud of up to `size` points is one patch of its own length. The last patch of a larger one is filled up with the
    points that stand `size` slots earlier: further keys, whose own results are not used.
    """
    slots, places, lengths = [], [], []
    start = filled = 0
    for count in counts:
        padded = count if count <= size else -(-count // size) * size
        slot = torch.arange(padded, device=device)
        slots.append(start + torch.where(slot < count, slot, slot - size))
        places.append(filled + slot[:count])
        lengths += [count] if count <= size else [size] * (padded // size)
        start, filled = start + count, filled + padded
    return Patches(torch.cat(slots), torch.cat(places), tuple(lengths))
