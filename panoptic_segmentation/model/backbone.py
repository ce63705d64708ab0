"""The image backbone: a ResNet that returns its four stages (stage-1 specification, section 4.2).

He et al., "Deep Residual Learning for Image Recognition". Parameter names are the published (detectron2) ones:
a convolution carries its normalisation as `.norm`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Norm = type[nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics and fixed scale; nothing here is ever trained."""

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Normalise with the stored statistics."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvNorm(nn.Conv2d):
    """A convolution without bias and its normalisation, named as detectron2 names them: `weight`, `norm.*`."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, norm: nn.Module) -> None:
        super().__init__(channels, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = norm

    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out h w"]:
        """Convolve, then normalise."""
        return self.norm(super().forward(input))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolution, residual."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        hidden = out // 4
        self.shortcut = _shortcut(channels, out, stride, norm)
        self.conv1 = ConvNorm(channels, hidden, 1, 1, norm(hidden))
        self.conv2 = ConvNorm(hidden, hidden, 3, stride, norm(hidden))
        self.conv3 = ConvNorm(hidden, out, 1, 1, norm(out))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out h w"]:
        """Residual block."""
        y = self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))
        return F.relu_(y + self.shortcut(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (the first with the stride), residual: the block of small ResNets."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.shortcut = _shortcut(channels, out, stride, norm)
        self.conv1 = ConvNorm(channels, out, 3, stride, norm(out))
        self.conv2 = ConvNorm(out, out, 3, 1, norm(out))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out h w"]:
        """Residual block."""
        return F.relu_(self.conv2(F.relu_(self.conv1(x))) + self.shortcut(x))


def _shortcut(channels: int, out: int, stride: int, norm: Norm) -> nn.Module:
    if channels == out and stride == 1:
        return nn.Identity()
    return ConvNorm(channels, out, 1, stride, norm(out))


class Stem(nn.Module):
    """7x7 convolution with stride 2."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, width, 7, 2, norm(width))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """Reduce the pictures to a half."""
        return F.relu_(self.conv1(images))


class ResNet(nn.Module):
    """Stem and four stages; stage s is called `res{s+2}` as in the published checkpoints.

    He-normal convolutions (section 13). With frozen normalisation a random start does not train: load weights.
    """

    def __init__(
        self,
        block: type[Bottleneck] | type[BasicBlock],
        stem_width: int,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        norm: Norm,
    ) -> None:
        super().__init__()
        self.stem = Stem(stem_width, norm)
        channels = stem_width
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            blocks = []
            for i in range(depth):
                blocks.append(block(channels, width, stride=2 if stage > 0 and i == 0 else 1, norm=norm))
                channels = width
            self.add_module(f"res{stage + 2}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Features of the stem and of the four stages, finest first, at strides 2, 4, 8, 16 and 32."""
        features = [self.stem(images)]
        x = F.max_pool2d(features[0], 3, stride=2, padding=1)
        for stage in range(2, 6):
            x = self.get_submodule(f"res{stage}")(x)
            features.append(x)
        return features
