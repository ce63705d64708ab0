"""Point Transformer V3, encoder only: a point cloud to one vector (Wu et al., CVPR 2024; stage-2 specification, 3).

Modules have their published names. Everything is computed in float32, except that attention through flash-attn, which
takes over on a GPU when it is installed, is float16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scene_graph_generation.config.settings import PointConfig
from scene_graph_generation.model.gpu_kernels import flash_attention, flash_attention_serves
from scene_graph_generation.model.point_serialization import CURVES, Patches, curve_codes, deal_patches, voxelise
from scene_graph_generation.model.sparse_convolution import Neighbours, SubmanifoldConvolution, find_neighbours

IN_CHANNELS = 6  # coordinates and colour
STEM_KERNEL, BLOCK_KERNEL = 5, 3  # voxels a side


@dataclass(frozen=True)
class Points:
    """The points of a batch of clouds at one stage. Clouds stand one after the other."""

    features: Float[Tensor, "points channels"]
    grid: Int[Tensor, "points 3"]  # voxel
    cloud: Int[Tensor, " points"]  # 0.., ascending
    counts: list[int]  # points of each cloud
    codes: Int[Tensor, "curves points"]  # place on each curve, number of the cloud above
    bits: int  # of a grid coordinate
    orders: Int[Tensor, "curves points"]  # points in the order of each curve
    patches: Patches
    neighbours: Neighbours  # in a block's kernel

    def on_curves(self, permutation: Int[Tensor, "curves"]) -> Points:
        """The same points with their curves in another order."""
        permutation = permutation.to(self.codes.device, non_blocking=True)
        return replace(self, codes=self.codes[permutation], orders=self.orders[permutation])


def arrange(
    features: Float[Tensor, "points channels"],
    grid: Int[Tensor, "points 3"],
    cloud: Int[Tensor, " points"],
    counts: list[int],
    codes: Int[Tensor, "curves points"],
    bits: int,
    patch: int,
) -> Points:
    """Order points on their curves, cut patches and find neighbours."""
    return Points(
        features=features,
        grid=grid,
        cloud=cloud,
        counts=counts,
        codes=codes,
        bits=bits,
        orders=codes.argsort(dim=1, stable=True),
        patches=deal_patches(counts, patch, cloud.device),
        neighbours=find_neighbours(grid, cloud, bits, BLOCK_KERNEL),
    )


class PointEncoder(nn.Module):
    """A batch of point clouds to one vector each.

    In training the curves change places at random, once before each stage; in evaluation their order is fixed, so the
    same cloud always gives the same vector.
    """

    def __init__(self, config: PointConfig, width: int, shared_origin: bool = False) -> None:
        super().__init__()
        self.settings = config
        self.shared_origin = shared_origin  # of the clouds that are encoded together
        channels = config.channels
        self.embedding = nn.ModuleDict({"stem": Stem(channels[0])})
        drops = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.enc = nn.ModuleDict()
        for number, depth in enumerate(config.depths):
            modules: list[tuple[str, nn.Module]] = []
            if number:
                modules.append(("down", Pooling(channels[number - 1], channels[number], config.patch)))
            for i in range(depth):
                block = Block(channels[number], config.heads[number], config.mlp_ratio, i % CURVES, next(drops))
                modules.append((f"block{i}", block))
            self.enc[f"enc{number}"] = Stage(OrderedDict(modules))
        self.project_pc = nn.Linear(channels[-1], width)

    def forward(
        self,
        clouds: Sequence[Float[Tensor, "_ 6"] | None],
        shared_origin: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "clouds width"]:
        """One vector per cloud; None and a cloud without points give the projection of zeros.

        Args:
            clouds: x, y, z in metres and red, green, blue in 0..1.
            shared_origin: count voxels from the smallest coordinates of the whole batch, as published. Otherwise each
                cloud has its own origin, and its points are put into an order of their own, so that in evaluation the
                result depends neither on other clouds nor on the order of points.
            generator: for the order of the curves in training; None is PyTorch's global one, as for dropout.

        Raises:
            ValueError: a coordinate is not finite, or a cloud is too large for its voxels.
        """
        with torch.autocast(self.project_pc.weight.device.type, enabled=False):
            return self.project_pc(self.pool(clouds, shared_origin, self._curve_orders(generator)))

    def encode(self, clouds: Sequence[Float[Tensor, "_ 6"] | None]) -> Float[Tensor, "clouds 1 width"]:
        """One token per cloud."""
        return self(clouds, self.shared_origin).unsqueeze(1)

    def pool(
        self,
        clouds: Sequence[Float[Tensor, "_ 6"] | None],
        shared_origin: bool,
        curve_orders: Int[Tensor, "stages curves"],
    ) -> Float[Tensor, "clouds channels"]:
        """The mean feature of each cloud's points after the last stage, zeros for none.

        Args:
            clouds: as in `forward`.
            shared_origin: as in `forward`.
            curve_orders: the permutation of the curves before each stage.
        """
        pooled = self.project_pc.weight.new_zeros(len(clouds), self.settings.channels[-1])
        present = {i: cloud.float() for i, cloud in enumerate(clouds) if cloud is not None and len(cloud)}
        if not present:
            return pooled
        points = self.embed(list(present.values()), shared_origin)
        for stage, permutation in zip(self.enc.values(), curve_orders):
            points = stage(points, permutation)
        counts, places = (
            torch.tensor(numbers).to(pooled.device, non_blocking=True) for numbers in (points.counts, list(present))
        )
        return pooled.index_copy(0, places, reduce_segments(points.features, "mean", counts))

    def embed(self, clouds: Sequence[Float[Tensor, "_ 6"]], shared_origin: bool) -> Points:
        """Voxels, curves and the stem's features of clouds that have points."""
        if not shared_origin:
            clouds = [canonical(cloud) for cloud in clouds]
        origins = [cloud[:, :3].amin(0) for cloud in clouds]
        if shared_origin:
            origins = [torch.stack(origins).amin(0)] * len(clouds)
        grids, largest = voxelise([cloud[:, :3] for cloud in clouds], origins, self.settings.voxel)
        depths = [number.bit_length() for number in largest]
        bits = max(depths)
        if shared_origin:
            depths = [bits] * len(clouds)
        features, grid = torch.cat(list(clouds)), torch.cat(grids)
        counts = [len(cloud) for cloud in clouds]
        cloud = torch.cat([torch.full((count,), i, device=features.device) for i, count in enumerate(counts)])
        codes = cloud << 3 * bits | curve_codes(grids, depths)
        points = arrange(features, grid, cloud, counts, codes, bits, self.settings.patch)
        hidden = self.embedding["stem"](features, find_neighbours(grid, cloud, bits, STEM_KERNEL))
        return replace(points, features=hidden)

    def _curve_orders(self, generator: torch.Generator | None) -> Int[Tensor, "stages curves"]:
        if not self.training:
            return torch.arange(CURVES).expand(len(self.enc), CURVES)
        return torch.stack([torch.randperm(CURVES, generator=generator) for _ in self.enc])

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001, ANN202 - as in nn.Module
        """Whatever the model is cast to, the point encoder keeps its bits: the original is moved, no rounded copy."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_float32, recurse)


class Stem(nn.Module):
    """The first features of each point."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = SubmanifoldConvolution(IN_CHANNELS, channels, STEM_KERNEL, bias=False)
        self.norm = PointNorm(channels)

    def forward(self, points: Float[Tensor, "points 6"], neighbours: Neighbours) -> Float[Tensor, "points channels"]:
        """Features of points with coordinates and colour."""
        return F.gelu(self.norm(self.conv(points, neighbours)))


class Stage(nn.ModuleDict):
    """Pooling ("down", unless it is the first stage), then blocks."""

    def forward(self, points: Points, permutation: Int[Tensor, "curves"]) -> Points:
        """The points after this stage; `permutation` is the new order of the curves."""
        if "down" in self:
            points = self["down"](points)
        points = points.on_curves(permutation)
        for name, block in self.items():
            if name != "down":
                points = block(points)
        return points


class Block(nn.Module):
    """Convolution as position encoding, attention inside patches along one curve, and a feed-forward network."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int, curve: int, drop_path: float) -> None:
        super().__init__()
        convolution = SubmanifoldConvolution(channels, channels, BLOCK_KERNEL)
        self.cpe = nn.Sequential(convolution, nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.norm1 = nn.Sequential(nn.LayerNorm(channels))
        self.attn = PatchAttention(channels, heads, curve)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels))
        wide = mlp_ratio * channels
        layers: list[tuple[str, nn.Module]] = [
            ("fc1", nn.Linear(channels, wide)),
            ("gelu", nn.GELU()),
            ("fc2", nn.Linear(wide, channels)),
        ]
        self.mlp = nn.Sequential(nn.Sequential(OrderedDict(layers)))
        self.drop_path = drop_path

    def forward(self, points: Points) -> Points:
        """The same points with new features."""
        hidden = points.features
        hidden = hidden + self.cpe[1:](self.cpe[0](hidden, points.neighbours))
        hidden = hidden + self._drop(self.attn(self.norm1(hidden), points))
        hidden = hidden + self._drop(self.mlp(self.norm2(hidden)))
        return replace(points, features=hidden)

    def _drop(self, branch: Float[Tensor, "points channels"]) -> Float[Tensor, "points channels"]:
        """Stochastic depth for each point on its own, as in the published encoder."""
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * torch.bernoulli(branch.new_full((len(branch), 1), keep)) / keep


class PatchAttention(nn.Module):
    """Softmax attention among the points of a patch; patches are cut along one curve and never mix clouds."""

    def __init__(self, channels: int, heads: int, curve: int) -> None:
        super().__init__()
        self.heads, self.curve = heads, curve
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, features: Float[Tensor, "points channels"], points: Points) -> Float[Tensor, "points channels"]:
        """Attend; `points` says where the patches are."""
        order, patches = points.orders[self.curve], points.patches
        slots = self.qkv(features).index_select(0, order[patches.slots]).unflatten(1, (3, self.heads, -1))
        attended = attend(slots, patches.lengths).flatten(1)
        slot_of_point = torch.empty_like(order).index_copy_(0, order, patches.places)
        return self.proj(attended.index_select(0, slot_of_point))


def attend(qkv: Float[Tensor, "slots 3 heads width"], lengths: tuple[int, ...]) -> Float[Tensor, "slots heads width"]:
    """Softmax attention inside each patch; `lengths` are those of the patches, one after the other.

    On a GPU with flash-attn installed through its kernel (in float16, as published), otherwise through PyTorch's.
    """
    if flash_attention_serves(qkv):
        return flash_attention(qkv, lengths)
    attended, start = [], 0
    for length, group in groupby(lengths):  # neighbouring patches of one length in one call
        count = len(list(group))
        query, key, value = qkv[start : start + count * length].unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
        attended.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(attended)


class Pooling(nn.Module):
    """Merges the points of 2x2x2 voxels: the largest value of each projected feature."""

    def __init__(self, inputs: int, outputs: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)
        self.norm = nn.Sequential(PointNorm(outputs))
        self.patch = patch

    def forward(self, points: Points) -> Points:
        """One point for each occupied coarse voxel, in the order of the first curve."""
        shift = min(points.bits, 1)  # a grid of one voxel has nothing left to halve
        order = points.orders[0]
        _, counts = torch.unique_consecutive(points.codes[0, order] >> 3 * shift, return_counts=True)
        members = order[counts.cumsum(0) - counts]
        features = reduce_segments(self.proj(points.features).index_select(0, order), "max", counts)
        cloud = points.cloud[members]
        clouds = torch.arange(len(points.counts), device=cloud.device)
        ends = torch.searchsorted(cloud, clouds, right=True).tolist()
        return arrange(
            F.gelu(self.norm(features)),
            points.grid[members] >> shift,
            cloud,
            [end - start for start, end in pairwise([0, *ends])],
            points.codes[:, members] >> 3 * shift,
            points.bits - shift,
            self.patch,
        )


class PointNorm(nn.BatchNorm1d):
    """Batch normalisation over points, with the published constants."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, input: Float[Tensor, "points channels"]) -> Float[Tensor, "points channels"]:
        """Normalise; a single point has no variance, so it gets the running statistics in training as well."""
        if len(input) > 1:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def reduce_segments(
    features: Float[Tensor, "points channels"], how: Literal["mean", "max"], lengths: Int[Tensor, " segments"]
) -> Float[Tensor, "segments channels"]:
    """Mean or maximum of runs of consecutive rows."""
    return torch.segment_reduce(features, how, lengths=lengths, unsafe=True)  # ty: ignore[missing-attribute]


def canonical(cloud: Float[Tensor, "points 6"]) -> Float[Tensor, "points 6"]:
    """The points in lexicographic order."""
    for column in reversed(range(cloud.shape[1])):
        cloud = cloud[cloud[:, column].argsort(stable=True)]
    return cloud
