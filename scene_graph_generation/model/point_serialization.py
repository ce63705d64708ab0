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


# Two zeros between all bits of a number, in steps that move half of what is still together: halves, quarters, ...
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


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


def curve_codes(grids: Sequence[Int[Tensor, "_ 3"]], depths: Sequence[int]) -> Int[Tensor, "4 points"]:
    """Place of every voxel on each of the four curves through the cube of 2^depth voxels a side of its cloud.

    All clouds at once: thousands of small kernels less in a batch of 32. A cloud in a smaller cube goes through the
    largest one. There each further level sees only zeros, which makes (x, y, z) into (z, x, y); so its axes are turned
    back beforehand, and the codes are those of its own cube.
    """
    bits = max(depths)
    grid = torch.cat(list(grids))
    both = torch.stack((grid, torch.cat((grid[:, :2].flip(1), grid[:, 2:]), dim=1)))  # x, y, z and y, x, z
    clouds = both.split([len(cloud) for cloud in grids], dim=1)
    turned = torch.cat([cloud.roll(depth - bits, 2) for cloud, depth in zip(clouds, depths)], dim=1)
    curves = torch.cat((both, hilbert_axes(turned.flatten(0, 1), bits).view_as(both)))
    return interleave(curves.flatten(0, 1)).view(CURVES, -1)


def interleave(axes: Int[Tensor, "points 3"]) -> Int[Tensor, " points"]:
    """Bit i of the three axes, of which there are at most MAX_BITS, becomes bits 3i+2, 3i+1 and 3i."""
    for shift, kept in _SPREAD:
        axes = (axes | axes << shift) & kept
    return axes[:, 0] << 2 | axes[:, 1] << 1 | axes[:, 2]


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
