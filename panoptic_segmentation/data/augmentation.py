"""How a training clip is varied: one draw for all its frames (stage-1 specification, section 9.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from panoptic_segmentation.config.settings import ClipSettings
from panoptic_segmentation.data.pictures import edge_size, resize_picture

Picture = UInt8[np.ndarray, "_ _ 3"]
CategoryMap = UInt8[np.ndarray, "_ _"]

# Ranges of the colour jitter that training from nothing needs; the published training has none.
_GAIN, _CHANNEL_GAIN, _OFFSET = (0.7, 1.3), (0.9, 1.1), (-25.0, 25.0)


@dataclass(frozen=True)
class Augmentation:
    """One draw: a size, a part of the picture at that size, a flip, colours."""

    size: tuple[int, int]  # height, width, px
    top: int
    left: int
    height: int  # of the part, px
    width: int
    flip: bool  # left-right
    gain: Float32[np.ndarray, " 3"]  # per channel
    offset: float  # on the 0..255 scale

    def picture(self, picture: Picture) -> Picture:
        """The varied picture."""
        part = self._part(resize_picture(picture, *self.size))
        if self.offset or (self.gain != 1).any():
            part = np.clip(part * self.gain + np.float32(self.offset), 0, 255).astype(np.uint8)
        return part

    def categories(self, categories: CategoryMap) -> CategoryMap:
        """The varied map, nearest pixel."""
        return self._part(resize_categories(categories, *self.size))

    def _part(self, image: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
        part = image[self.top : self.top + self.height, self.left : self.left + self.width]
        return part[:, ::-1] if self.flip else part


def resize_categories(categories: CategoryMap, height: int, width: int) -> CategoryMap:
    """Nearest pixel."""
    if categories.shape == (height, width):
        return categories
    return np.asarray(Image.fromarray(categories).resize((width, height), Image.Resampling.NEAREST))


def draw_augmentation(height: int, width: int, settings: ClipSettings, rng: np.random.Generator) -> Augmentation:
    """Draw for pictures of `height` x `width` px."""
    size = edge_size(height, width, int(rng.choice(settings.shortest)), settings.longest)
    part = tuple(min(a, b) for a, b in zip(size, settings.crop_size)) if settings.crop else size
    top, left = (int(rng.integers(whole - some + 1)) for whole, some in zip(size, part))
    flip = bool(rng.random() < 0.5)
    gain, offset = np.ones(3, np.float32), 0.0
    if settings.color_jitter:
        gain = (rng.uniform(*_GAIN) * rng.uniform(*_CHANNEL_GAIN, 3)).astype(np.float32)
        offset = float(rng.uniform(*_OFFSET))
    return Augmentation(size, top, left, *part, flip, gain, offset)
