"""Teach the mask encoder what is in a mask, however small: how many of its 1024 cells each label has.

A held tool is one to five cells of a 32x32 mask, and which tool it is tells the deed. An encoder of five strided
convolutions that learns from triplets alone learns instead where large things stand in the rooms that it is shown
(docs/results.md, "What is in a mask").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from scene_graph_generation.model.encoders import MaskEncoder

WEIGHT = 2.0  # against the loss of triplets, both summed over what is told of a sample
TYPICAL = 60.0  # cells of a label whose embedding is drawn as it is anywhere
STRONGEST = (0.3, 6.0)  # how much smaller or larger that of another may be
SEEN = 9 / 4  # windows of 3x3 cells, two apart, that see a cell in the mean


def draw_by_size(encoder: MaskEncoder, masks: Sequence[UInt8[Tensor, "_ 32 32"]]) -> None:
    """Draw an encoder anew so that it begins with what is in a mask, however small and wherever, in place.

    Embeddings of labels are the larger the fewer cells a label has where it is (by the root, so that each brings as
    much into the first convolution). And the first channels of each convolution only add up those before: positive
    parts of embeddings come through to the vector, where drawn weights would let three cells of a drill vanish beside
    the edge of a table. All is trained from there.

    Args:
        encoder: of a model that begins from nothing.
        masks: of some samples, which tell how large labels are; those that they lack stay as they are.
    """
    labels, added = encoder.embedding.num_embeddings, encoder.embedding.embedding_dim
    cells = F.one_hot(torch.cat(tuple(masks)).flatten(1).long(), labels).sum(1)
    where = (cells > 0).sum(0)
    size = torch.where(where > 0, cells.sum(0) / where.clamp(min=1), TYPICAL)
    with torch.no_grad():
        encoder.embedding.weight *= (
            (TYPICAL / size).sqrt().clamp(*STRONGEST).to(encoder.embedding.weight.device)[:, None]
        )
        for convolution in encoder.convolutions:
            weight = convolution.weight
            assert isinstance(weight, Tensor)
            for channel in range(min(added, len(weight) // 2)):
                weight[channel] = 0.0
                weight[channel, channel] = 1 / SEEN


class MaskContents(nn.Module):
    """Tells from the encoder's vector of a mask how many cells each label has; is thrown away after pretraining.

    Cells count as log(1 + cells), so that one of a drill weighs as much as a hundred of a table.

    Args:
        encoder: what it says in training is listened to until `close`.
    """

    def __init__(self, encoder: MaskEncoder) -> None:
        super().__init__()
        labels, width = encoder.embedding.num_embeddings, encoder.convolutions[-1].out_channels
        assert isinstance(width, int)
        self.readout = nn.Linear(width, labels)
        self._heard: list[tuple[Tensor, Tensor]] = []
        self._hook = encoder.register_forward_hook(self._hear)

    def _hear(self, _: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> None:
        if said.requires_grad:  # not where held-out takes are scored
            self._heard.append((given[0], said))

    def close(self) -> None:
        """Listen no longer."""
        self._hook.remove()

    def loss(self) -> Tensor | float:
        """Of all masks that the encoder was given since this was asked last: summed over labels, mean over masks."""
        heard, self._heard = self._heard, []
        return sum((self.of(masks, vectors) for masks, vectors in heard), 0.0)

    def of(self, masks: UInt8[Tensor, "masks 32 32"], vectors: Float[Tensor, "masks width"]) -> Float[Tensor, ""]:
        """Of these masks and what the encoder made of them."""
        cells = F.one_hot(masks.flatten(1).long(), self.readout.out_features).sum(1)
        wrong = F.smooth_l1_loss(self.readout(vectors).float(), torch.log1p(cells.float()), reduction="sum")
        return wrong / len(masks)
