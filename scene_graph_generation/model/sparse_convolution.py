"""Submanifold convolution: a 3-D convolution whose inputs and outputs are the occupied voxels of a sparse grid.

Graham et al., "3D Semantic Segmentation with Submanifold Sparse Convolutional Networks" (CVPR 2018); stage-2
specification, section 3. Plain PyTorch, so it runs and has gradients wherever PyTorch does; on a GPU spconv takes over
when it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scene_graph_generation.model.gpu_kernels import spconv_convolution, spconv_serves, spconv_voxels


@dataclass(frozen=True)
class VoxelPoints:
    """Points of which one stands in each voxel, so that spconv can connect them with each other."""

    first: Int[Tensor, " voxels"]  # the first point of each voxel
    others: Int[Tensor, " others"]  # all other points
    voxels: Any  # of the first points: `spconv_voxels`


@dataclass(frozen=True)
class Neighbours:
    """Pairs of points that a kernel connects, the centre (each point with itself) excepted, grouped by kernel cell."""

    inputs: Int[Tensor, " pairs"]
    outputs: Int[Tensor, " pairs"]
    cells: tuple[int, ...]  # of each group: place in the kernel, in C order
    counts: tuple[int, ...]  # pairs of each group
    spconv: VoxelPoints | None  # where spconv serves: it connects these, so the pairs above lack those among them


def find_neighbours(grid: Int[Tensor, "points 3"], cloud: Int[Tensor, " points"], bits: int, kernel: int) -> Neighbours:
    """Neighbours inside a cubic kernel (an odd number of voxels a side), within the same cloud.

    Every point looks for others in the half of the kernel behind the centre; each pair found serves both ways. Of
    several points in a voxel only the first is found, so the others get nothing from the half before the centre: the
    rule of the published kernels.

    Args:
        grid: voxel of each point, 0..2^bits - 1.
        cloud: number of each point's cloud.
        bits: bits of a grid coordinate.
        kernel: voxels a side.
    """
    reach = kernel // 2
    side = (1 << bits) + 2 * reach  # with a margin, so that a neighbour never lies in the next row
    keys = ((cloud * side + grid[:, 0]) * side + grid[:, 1]) * side + grid[:, 2]
    ordered, order = keys.sort(stable=True)
    voxels, counts = torch.unique_consecutive(ordered, return_counts=True)
    starts = counts.cumsum(0) - counts
    first = order[starts]
    spconv = None
    if spconv_serves(grid):
        rest = torch.ones_like(order, dtype=torch.bool).index_fill_(0, starts, False)
        ordered, order = ordered[rest], order[rest]
        spconv = VoxelPoints(first, order, spconv_voxels(grid[first], cloud[first]))
    span = range(-reach, reach + 1)
    steps = [(i * side + j) * side + k for i, j, k in product(span, repeat=3) if (i, j, k) > (0, 0, 0)]
    wanted = ordered + torch.tensor(steps).to(grid.device, non_blocking=True)[:, None]
    found = torch.searchsorted(voxels, wanted).clamp_(max=len(voxels) - 1)
    hits = voxels[found] == wanted
    of_cell, place = hits.nonzero(as_tuple=True)
    points = order[place]
    neighbours = first[found[of_cell, place]]
    per_cell = tuple(hits.sum(1).tolist())
    centre = len(steps)
    return Neighbours(
        inputs=torch.cat((neighbours, points)),
        outputs=torch.cat((points, neighbours)),
        cells=(*range(centre + 1, 2 * centre + 1), *reversed(range(centre))),
        counts=per_cell * 2,
        spconv=spconv,
    )


class SubmanifoldConvolution(nn.Module):
    """out[p] = sum over kernel cells o of weight[o] in[p + o], over occupied voxels only.

    The weight is laid out as published: (out, x, y, z, in).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = (inputs * kernel**3) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, features: Float[Tensor, "points inputs"], neighbours: Neighbours
    ) -> Float[Tensor, "points outputs"]:
        """Features of the same points; `neighbours` are those of a kernel of this size."""
        weights = self.weight.flatten(1, 3).unbind(1)
        centre = weights[len(weights) // 2]
        if (points := neighbours.spconv) is None:
            result = nn.functional.linear(features, centre, self.bias)
        else:
            result = features.new_empty(len(features), len(self.weight))
            result[points.first] = spconv_convolution(features[points.first], points.voxels, self.weight, self.bias)
            result[points.others] = nn.functional.linear(features[points.others], centre, self.bias)
        gathered = features.index_select(0, neighbours.inputs).split(neighbours.counts)
        for part, outputs, cell in zip(gathered, neighbours.outputs.split(neighbours.counts), neighbours.cells):
            if len(part):
                result.index_add_(0, outputs, part @ weights[cell].T)
        return result
