"""The vision transformer of the encoder-only segmenter: DINOv2 with register tokens (Oquab et al.; Darcet et al.)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_segmentation.model.layers import xavier_uniform
from panoptic_segmentation.model.pixel_decoder import sine_position

EPSILON = 1e-6  # of every normalisation
Grid = tuple[int, int]  # rows and columns of patches


class Attention(nn.Module):
    """Self-attention of all tokens, or of those that are allowed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "pictures tokens width"], allowed: Bool[Tensor, "pictures tokens tokens"] | None = None
    ) -> Float[Tensor, "pictures tokens width"]:
        """Attend; without `allowed` PyTorch's fast ways are open."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, None if allowed is None else allowed[:, None])
        return self.out_proj(attended.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and two linear layers, each normalised before, scaled and added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.scale1 = nn.Parameter(torch.ones(width))
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.scale2 = nn.Parameter(torch.ones(width))

    def forward(
        self, x: Float[Tensor, "pictures tokens width"], allowed: Bool[Tensor, "pictures tokens tokens"] | None = None
    ) -> Float[Tensor, "pictures tokens width"]:
        """The tokens after this block."""
        x = x + self.scale1 * self.attention(self.norm1(x), allowed)
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches, a class token and registers through all blocks but the last ones, which the segmenter runs itself."""

    def __init__(
        self, patch: int, grid: Grid, registers: int, width: int, heads: int, hidden: int, depth: int, joint: int
    ) -> None:
        """Build it.

        Args:
            patch: px.
            grid: of the position embeddings; pictures with another one get them interpolated.
            depth: blocks before the queries come.
            joint: blocks that hold the queries, too.
        """
        super().__init__()
        self.depth, self.prefix = depth, 1 + registers
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.registers = nn.Parameter(torch.zeros(registers, width))
        # Sines to begin with: what learns from nothing need not find out first where its patches are.
        sines = sine_position(*grid, width, self.class_token.detach())
        self.positions = nn.Parameter(sines.permute(1, 2, 0).contiguous())
        self.layers = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth + joint)])
        self.norm = nn.LayerNorm(width, EPSILON)
        self.layers.apply(xavier_uniform)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.registers, std=0.02)

    def forward(
        self, images: Float[Tensor, "pictures 3 height width"]
    ) -> tuple[Float[Tensor, "pictures tokens channels"], Grid]:
        """The tokens before the blocks that hold the queries, class token and registers first; and their grid."""
        seen = self.patches(images)
        grid = seen.shape[-2], seen.shape[-1]
        seen = seen.flatten(2).transpose(1, 2) + self._positions(grid)
        prefix = torch.cat((self.class_token[None], self.registers)).expand(len(images), -1, -1)
        x = torch.cat((prefix, seen), dim=1)
        for layer in self.layers[: self.depth]:
            x = layer(x)
        return x, grid

    def _positions(self, grid: Grid) -> Float[Tensor, "patches width"]:
        return resized_positions(self.positions, grid).flatten(0, 1)


def resized_positions(positions: Float[Tensor, "rows columns width"], grid: Grid) -> Float[Tensor, "_ _ width"]:
    """Position embeddings for another grid, interpolated; the same for the same one."""
    if positions.shape[:2] == grid:
        return positions
    planes = positions.permute(2, 0, 1)[None]
    return F.interpolate(planes, size=grid, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
