"""One modality to features: the CLIP vision tower and the mask encoder (stage-2 specification, section 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from scene_graph_generation.config.settings import MM2SGConfig, VisionConfig


def stand_out(positions: nn.Embedding) -> None:
    """Draw position embeddings as large as what they are added to.

    The library draws them with a standard deviation of 0.02, a few percent of the features beside them: a model trained
    from scratch then needs long to learn where anything is. Published weights replace them.
    """
    nn.init.normal_(positions.weight, std=0.5)


class VisionTower(nn.Module):
    """CLIP's vision transformer up to its feature layer, without the class token.

    Layers behind the feature layer are kept for the sake of the published files, but not computed.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )
        stand_out(self.clip.embeddings.position_embedding)
        self.computed_layers = config.layers + 1 + config.feature_layer

    def forward(self, views: Float[Tensor, "views 3 size size"]) -> Float[Tensor, "views tokens width"]:
        """Patch features of normalised views."""
        hidden = self.clip.pre_layrnorm(self.clip.embeddings(views))
        for layer in self.clip.encoder.layers[: self.computed_layers]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]


class MaskEncoder(nn.Module):
    """A 32x32 label map to one vector: label embedding, then five strided convolutions, ReLU after every one.

    Initialised for ReLU (He et al. 2015). PyTorch's default, which the published training starts from, lets five such
    layers shrink the differences between masks a thousandfold; a model trained from scratch then never uses them.
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        pooler = config.pooler
        self.embedding = nn.Embedding(config.labels, pooler.mask_embedding)
        widths = (pooler.mask_embedding, *pooler.mask_channels)
        convolutions = [
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1) for before, after in pairwise(widths)
        ]
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, masks: UInt8[Tensor, "masks 32 32"]) -> Float[Tensor, "masks width"]:
        """Features of label maps; pixel values are raw labels, below `labels` of the settings."""
        hidden = self.embedding(masks.long()).permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            hidden = torch.relu(convolution(hidden))
        return hidden.flatten(1)
