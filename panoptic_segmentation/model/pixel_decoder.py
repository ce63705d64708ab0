"""The pixel decoder: multi-scale deformable attention over three levels, then one step up to the mask features.

Stage-1 specification, section 4.3; Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation";
Zhu et al., "Deformable DETR". Parameter names are the published ones. Always computed in the precision of its weights
(float32), also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from panoptic_segmentation.model.backbone import ConvNorm
from panoptic_segmentation.model.layers import he_uniform, xavier_uniform

LEVELS = 3  # res5, res4, res3
POINTS = 4  # sampled per head and level
GROUPS = 32  # of every GroupNorm
Size = tuple[int, int]  # height, width


def sine_position(height: int, width: int, channels: int, like: Tensor) -> Float[Tensor, "channels height width"]:
    """Two-dimensional sine encoding: the y half of the channels first, then x, sine and cosine interleaved."""
    half = channels // 2
    index = torch.arange(half, dtype=like.dtype, device=like.device)
    frequencies = 10000 ** (2 * (index // 2) / half)
    axes = []
    for length in (height, width):
        place = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
        angles = (place / (length + 1e-6) * 2 * math.pi)[:, None] / frequencies
        axes.append(torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1).T)
    y, x = axes
    return torch.cat((y[:, :, None].expand(-1, -1, width), x[:, None, :].expand(-1, height, -1)))


def deformable_attention(
    values: Float[Tensor, "batch cells heads channels"],
    sizes: Sequence[Size],
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries _"]:
    """Weighted sum of bilinearly sampled values: by the fast way where it is one, else by one that trains well.

    Args:
        values: the cells of all levels, one level after the other.
        sizes: height and width of each level.
        locations: sampling points as (x, y), 0..1 over each level; outside there are zeros.
        weights: of each sampling point; sum to 1 over levels and points.

    Returns:
        per query the heads' sums side by side (heads * channels).
    """
    if values.device.type != "cpu" or values.requires_grad:
        return sampled_attention(values, sizes, locations, weights)
    pictures = zip(values, locations, weights)
    return torch.stack([gathered_attention(value, sizes, *points) for value, *points in pictures])


def sampled_attention(
    values: Float[Tensor, "batch cells heads channels"],
    sizes: Sequence[Size],
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries _"]:
    """`deformable_attention` by `grid_sample`, which has fast gradients and runs everywhere.

    One sampling point at a time: that stays in a CPU's cache and is twice as fast as all points at once.
    """
    batch, _, heads, channels = values.shape
    levels = values.split([height * width for height, width in sizes], dim=1)
    grids = (2 * locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1).unsqueeze(-2).unbind(1)
    shares = weights.permute(0, 2, 3, 4, 1).flatten(0, 1).unsqueeze(1).unbind(2)
    total = values.new_zeros(())
    for level, (height, width), level_grids, level_shares in zip(levels, sizes, grids, shares):
        picture = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        for grid, share in zip(level_grids.unbind(1), level_shares.unbind(2)):
            sampled = F.grid_sample(picture, grid, mode="bilinear", align_corners=False)
            total = total + sampled[..., 0] * share
    return total.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2)


def gathered_attention(
    values: Float[Tensor, "cells heads channels"],
    sizes: Sequence[Size],
    locations: Float[Tensor, "queries heads levels points 2"],
    weights: Float[Tensor, "queries heads levels points"],
) -> Float[Tensor, "queries _"]:
    """`deformable_attention` of one picture as a sum over table rows: a CPU reads all channels of a cell in one go.

    Each sampling point is four cells with a share each; `embedding_bag` adds them up. Six times as fast as
    `grid_sample` on a CPU for the published model, but its gradients are slow.
    """
    heads, points = values.shape[1], weights.shape[-1]
    cells = [height * width for height, width in sizes]
    table = [(*size, sum(cells[:level])) for level, size in enumerate(sizes) for _ in range(points)]
    heights, widths, starts = torch.tensor(table, dtype=torch.int32).unbind(1)
    columns = _neighbours(locations[..., 0].flatten(2) * widths - 0.5, widths)
    rows = _neighbours(locations[..., 1].flatten(2) * heights - 0.5, heights)
    head = torch.arange(heads, dtype=torch.int32)[:, None]
    indices, shares = [], []
    for row, row_share in rows:
        row_start, row_share = row * widths + starts, row_share * weights.flatten(2)
        for column, column_share in columns:
            indices.append((row_start + column) * heads + head)
            shares.append(row_share * column_share)
    bags, bag_weights = (torch.cat(parts, dim=-1).flatten(0, 1) for parts in (indices, shares))
    sums = F.embedding_bag(bags, values.flatten(0, 1), mode="sum", per_sample_weights=bag_weights)
    return sums.view(len(locations), -1)


def _neighbours(
    places: Float[Tensor, "*points"], lengths: Int[Tensor, "_"]
) -> list[tuple[Int[Tensor, "*points"], Float[Tensor, "*points"]]]:
    """The two cells around each place on an axis and their shares; a cell outside has none and is moved inside."""
    before = places.floor()
    after_share = places - before
    result = []
    for cell, share in ((before, 1 - after_share), (before + 1, after_share)):
        inside = torch.minimum(cell.clamp(min=0), lengths - 1)
        result.append((inside.int(), share * (inside == cell)))
    return result


class DeformableAttention(nn.Module):
    """Each query looks at a few points around its own place, on all levels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(width, heads * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(width, heads * LEVELS * POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Head h starts by looking in direction h, its points 1..4 steps away (section 13)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, POINTS + 1)[:, None]
        offsets = (directions[:, None, None] * steps).expand(-1, LEVELS, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        self.value_proj.apply(xavier_uniform)
        self.output_proj.apply(xavier_uniform)

    def forward(
        self,
        x: Float[Tensor, "batch cells width"],
        position: Float[Tensor, "cells width"],
        places: Float[Tensor, "cells 2"],
        scale: Float[Tensor, "levels 1 2"],
        sizes: Sequence[Size],
    ) -> Float[Tensor, "batch cells width"]:
        """Attend from every cell at `places` (x, y in 0..1); `scale` holds width and height of each level in cells."""
        query = x + position
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, LEVELS, POINTS, 2))
        locations = places[:, None, None, None] + offsets / scale
        scores = self.attention_weights(query).unflatten(-1, (self.heads, LEVELS * POINTS))
        weights = scores.softmax(-1).unflatten(-1, (LEVELS, POINTS))
        values = self.value_proj(x).unflatten(-1, (self.heads, -1))
        return self.output_proj(deformable_attention(values, sizes, locations, weights))


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each with residual and LayerNorm after."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        x: Float[Tensor, "batch cells width"],
        position: Float[Tensor, "cells width"],
        places: Float[Tensor, "cells 2"],
        scale: Float[Tensor, "levels 1 2"],
        sizes: Sequence[Size],
    ) -> Float[Tensor, "batch cells width"]:
        """One round of looking around."""
        x = self.norm1(x + self.self_attn(x, position, places, scale, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Encoder(nn.Module):
    """The layers, under the published name `encoder.layers`."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(width, heads, hidden) for _ in range(depth)])


class DeformableTransformer(nn.Module):
    """Encoder over the cells of the three levels together."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.encoder = Encoder(width, heads, hidden, depth)

    def forward(self, maps: Sequence[Float[Tensor, "batch width _ _"]]) -> list[Float[Tensor, "batch width _ _"]]:
        """Maps of the same sizes, coarsest first as given."""
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        x = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
        position = torch.cat(
            [
                sine_position(*size, x.shape[-1], like=x).flatten(1).T + embed
                for size, embed in zip(sizes, self.level_embed)
            ]
        )
        places = torch.cat([_cell_centres(size, x) for size in sizes])
        # Filled in on the device: a tensor of a list is copied there, and the CPU would wait for all before it.
        scale = torch.stack([x.new_full((), length) for h, w in sizes for length in (w, h)]).view(LEVELS, 1, 2)
        for layer in self.encoder.layers:
            if torch.is_grad_enabled() and x.requires_grad:
                # Computed again in the backward pass. Twelve sampled values for each of 8 heads and all that follows
                # would else be kept: over half of what a training step of the published model keeps.
                x = checkpoint(layer, x, position, places, scale, sizes, use_reentrant=False)
            else:
                x = layer(x, position, places, scale, sizes)
        levels = x.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        return [level.unflatten(2, size) for level, size in zip(levels, sizes)]


def _cell_centres(size: Size, like: Tensor) -> Float[Tensor, "cells 2"]:
    height, width = size
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
    return torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1)


class PixelDecoder(nn.Module):
    """Backbone features -> mask features at the finest stride and three feature maps for the transformer decoder."""

    def __init__(self, channels: Sequence[int], width: int, heads: int, hidden: int, depth: int) -> None:
        """Expect features of so many `channels`, finest first; the last three go through the encoder."""
        super().__init__()
        *finer, res3, res4, res5 = channels
        self.input_proj = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(GROUPS, width)) for c in (res5, res4, res3)]
        )
        self.transformer = DeformableTransformer(width, heads, hidden, depth)
        self.steps = len(finer)
        for step, c in enumerate(reversed(finer), 1):  # published: adapter_1 and layer_1
            self.add_module(f"adapter_{step}", ConvNorm(c, width, 1, 1, nn.GroupNorm(GROUPS, width)))
            self.add_module(f"layer_{step}", ConvNorm(width, width, 3, 1, nn.GroupNorm(GROUPS, width)))
        self.mask_features = nn.Conv2d(width, width, 1)
        self.input_proj.apply(xavier_uniform)
        for name, module in self.named_children():
            if name.startswith(("adapter", "layer", "mask")):
                he_uniform(module)

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch width height width_"], list[Float[Tensor, "batch width _ _"]]]:
        """Mask features at the stride of the finest feature, and the encoder's maps at those of res5, res4 and res3."""
        with torch.autocast(features[0].device.type, enabled=False):
            dtype = self.mask_features.weight.dtype
            *finer, res3, res4, res5 = [feature.to(dtype) for feature in features]
            maps = self.transformer([project(f) for project, f in zip(self.input_proj, (res5, res4, res3))])
            fine = maps[-1]
            for step, feature in enumerate(reversed(finer), 1):
                up = F.interpolate(fine, size=feature.shape[-2:], mode="bilinear", align_corners=False)
                adapter, layer = self.get_submodule(f"adapter_{step}"), self.get_submodule(f"layer_{step}")
                fine = F.relu(layer(adapter(feature) + up))
            return self.mask_features(fine), maps
