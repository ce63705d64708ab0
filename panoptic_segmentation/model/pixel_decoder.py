"""The pixel decoder: multi-scale deformable attention over three levels, then one step up to the mask features.

Stage-1 specification, section 4.3; Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation";
Zhu et al., "Deformable DETR". Parameter names are the published ones. Always computed in the precision of its weights
(float32), also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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
    locations: Float[Tensor, "batch heads levels points queries 2"],
    weights: Float[Tensor, "batch heads levels points queries"],
) -> Float[Tensor, "batch queries _"]:
    """Weighted sum of bilinearly sampled values.

    One sampling point at a time: that stays in a CPU's cache and is twice as fast as all points at once.

    Args:
        values: the cells of all levels, one level after the other.
        sizes: height and width of each level.
        locations: sampling points as (x, y), 0..1 over each level; outside there are zeros.
        weights: of each sampling point; sum to 1 over levels and points.

    Returns:
        per query the heads' sums side by side (heads * channels).
    """
    batch, _, heads, channels = values.shape
    levels = values.split([height * width for height, width in sizes], dim=1)
    grids = (2 * locations - 1).flatten(0, 1).unsqueeze(-2).unbind(1)
    shares = weights.flatten(0, 1).unsqueeze(1).unbind(2)
    total = values.new_zeros(())
    for level, (height, width), level_grids, level_shares in zip(levels, sizes, grids, shares):
        picture = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        for grid, share in zip(level_grids.unbind(1), level_shares.unbind(2)):
            sampled = F.grid_sample(picture, grid, mode="bilinear", align_corners=False)
            total = total + sampled[..., 0] * share
    return total.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2)


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
        sizes: Sequence[Size],
    ) -> Float[Tensor, "batch cells width"]:
        """Attend from every cell at `places` (x, y in 0..1)."""
        query = x + position
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, LEVELS, POINTS, 2)).permute(0, 2, 3, 4, 1, 5)
        scale = torch.tensor([(w, h) for h, w in sizes], dtype=x.dtype, device=x.device)
        locations = places + offsets / scale[:, None, None]
        scores = self.attention_weights(query).transpose(1, 2).unflatten(1, (self.heads, LEVELS * POINTS))
        weights = scores.softmax(2).unflatten(2, (LEVELS, POINTS))
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
        sizes: Sequence[Size],
    ) -> Float[Tensor, "batch cells width"]:
        """One round of looking around."""
        x = self.norm1(x + self.self_attn(x, position, places, sizes))
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
        for layer in self.encoder.layers:
            x = layer(x, position, places, sizes)
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
        super().__init__()
        res2, *coarser = channels
        self.input_proj = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(GROUPS, width)) for c in reversed(coarser)]
        )
        self.transformer = DeformableTransformer(width, heads, hidden, depth)
        self.adapter_1 = ConvNorm(res2, width, 1, 1, nn.GroupNorm(GROUPS, width))
        self.layer_1 = ConvNorm(width, width, 3, 1, nn.GroupNorm(GROUPS, width))
        self.mask_features = nn.Conv2d(width, width, 1)
        self.input_proj.apply(xavier_uniform)
        for convolution in (self.adapter_1, self.layer_1, self.mask_features):
            he_uniform(convolution)

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> tuple[Float[Tensor, "batch width height width_"], list[Float[Tensor, "batch width _ _"]]]:
        """Mask features at the stride of res2, and the encoder's maps at the strides of res5, res4 and res3."""
        with torch.autocast(features[0].device.type, enabled=False):
            dtype = self.mask_features.weight.dtype
            res2, *coarser = [feature.to(dtype) for feature in features]
            maps = self.transformer([project(f) for project, f in zip(self.input_proj, reversed(coarser))])
            up = F.interpolate(maps[-1], size=res2.shape[-2:], mode="bilinear", align_corners=False)
            fine = F.relu(self.layer_1(self.adapter_1(res2) + up))
            return self.mask_features(fine), maps
