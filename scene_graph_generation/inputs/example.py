"""The tensors of one sample, and how text and visual tokens of several samples become one batch.

Stage-2 specification, sections 2 and 6. Samples travel as a list; nothing is padded before the merge, so no token id
has to stand for padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

IMAGE = -200  # placeholder id where the visual tokens go
IGNORED = -100  # label of what is not learnt


@dataclass(frozen=True)
class Example:
    """One sample as tensors. `others` holds what there is besides views, by the names of `inputs.modalities`."""

    ids: Int[Tensor, " tokens"]  # with IMAGE exactly once, or not at all if there are no views
    views: Float[Tensor, "views 3 size size"]  # normalised; none in a question that needs nothing but its text
    labels: Int[Tensor, " tokens"] | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    ego: int = 0  # so many of the views, the first ones, are of glasses
    dropped_memory: int = 0  # characters that were cut off the oldest end of the memory, so that the sample fits
    holds: Bool[Tensor, " triplets"] | None = None  # which of the triplets that a training asks for hold
    take: str | None = None  # whose answers before are the draft of this one's; None: it gets no draft

    @property
    def cloud(self) -> Float[Tensor, "points 6"] | None:
        """x, y, z in m, red, green, blue in 0..1."""
        return self.others.get("cloud")

    @property
    def audio(self) -> Float[Tensor, " audio"] | None:
        """The embedding of the sound."""
        return self.others.get("audio")

    @property
    def masks(self) -> UInt8[Tensor, "masks 32 32"] | None:
        """Label maps."""
        return self.others.get("masks")

    def without(self, *names: str) -> Example:
        """The sample without these modalities."""
        return replace(self, others={name: value for name, value in self.others.items() if name not in names})

    @cached_property
    def image_places(self) -> list[int]:
        """Where IMAGE stands in `ids`."""
        return (self.ids == IMAGE).nonzero().flatten().tolist()

    @cached_property
    def learnt_places(self) -> list[int]:
        """Where `labels` have something to learn, in order."""
        return [] if self.labels is None else (self.labels != IGNORED).nonzero().flatten().tolist()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Example:
        """The same sample on another device (accelerate calls this on every batch)."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        here = [
            {name: value.to(device, non_blocking=non_blocking) for name, value in of.items()}
            for of in (tensors, self.others)
        ]
        moved = replace(self, **here[0], others=here[1])
        # Looked for before the move: to ask a GPU would make the CPU wait for all that it still has to do.
        vars(moved).update(image_places=self.image_places, learnt_places=self.learnt_places)
        return moved


@dataclass(frozen=True)
class Merged:
    """Text and visual tokens of a batch, padded with zero vectors on one side."""

    embeddings: Float[Tensor, "samples length width"]
    attention_mask: Bool[Tensor, "samples length"]
    position_ids: Int[Tensor, "samples length"]  # 0.. on content, 0 on padding
    labels: Int[Tensor, "samples length"]  # IGNORED on visual tokens and padding
    learnt: Int[Tensor, "2 learnt"]  # sample and position of each label that is not IGNORED; on the CPU


def merge(
    examples: Sequence[Example],
    visual: Sequence[Float[Tensor, "_ width"]],
    embed: Callable[[Tensor], Tensor],
    max_length: int,
    side: Literal["left", "right"] = "right",
) -> Merged:
    """Put each sample's visual tokens in the place of its IMAGE, cut it to its first `max_length` tokens, and pad.

    Raises:
        ValueError: a sample with visual tokens does not have exactly one IMAGE, or one without has any.
    """
    embeddings, labels, learnt = [], [], []
    for example, tokens in zip(examples, visual):
        places = example.image_places
        if len(places) != min(len(tokens), 1):
            raise ValueError(f"a sample needs exactly one image placeholder (without views none), not {len(places)}")
        place = places[0] if places else 0
        before, after = slice(None, place), slice(place + len(places), None)
        text = example.labels if example.labels is not None else torch.full_like(example.ids, IGNORED)
        ignored = text.new_full((len(tokens),), IGNORED)
        start, end = embed(example.ids[before]), embed(example.ids[after])
        # In the embedding's number format: visual tokens of float32, even none of them, would make it all float32.
        embeddings.append(torch.cat((start, tokens.to(start.dtype), end))[:max_length])
        labels.append(torch.cat((text[before], ignored, text[after]))[:max_length])
        shift = len(tokens) - len(places)
        moved = [p + shift * (p >= place) for p in example.learnt_places if p not in places]
        learnt.append([p for p in moved if p < max_length])
    lengths = [len(sample) for sample in embeddings]
    longest = max(lengths)

    def pad(sample: Tensor, value: int) -> Tensor:
        missing = longest - len(sample)
        where = (missing, 0) if side == "left" else (0, missing)
        return F.pad(sample, (*((0, 0) * (sample.dim() - 1)), *where), value=value)

    device = embeddings[0].device
    positions = [torch.arange(length, device=device) for length in lengths]
    padding = [longest - length if side == "left" else 0 for length in lengths]
    found = [(i, p + padding[i]) for i, of_sample in enumerate(learnt) for p in of_sample]
    return Merged(
        torch.stack([pad(sample, 0) for sample in embeddings]),
        torch.stack([pad(torch.ones_like(sample), 0) for sample in positions]).bool(),
        torch.stack([pad(sample, 0) for sample in positions]),
        torch.stack([pad(sample, IGNORED) for sample in labels]),
        torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T,
    )
