"""How much memory a training step of a segmenter takes: the real step on tensors without data, byte by byte.

PyTorch can run a model on shapes alone. What would be alive at the worst moment of a step is counted there, at full
size and within seconds; no formula has to follow the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from computing.machine import autocast
from panoptic_segmentation.config.settings import Config
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.losses import Clip, set_losses
from panoptic_segmentation.model.matching import Draws, Match
from panoptic_segmentation.model.transformer_decoder import Prediction
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Step:
    """What a training step gets on one GPU."""

    clips: int
    frames: int  # of each clip
    height: int  # px
    width: int
    objects: int  # annotated, in each clip


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int  # and their running average, if there is one
    optimiser: int
    step: int  # activations and gradients at the worst moment

    @property
    def total(self) -> int:
        """All of it; PyTorch itself takes 1 to 2 GB more."""
        return self.weights + self.optimiser + self.step


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and still there, and the most that there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch for every operation."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        if self._bytes > self.peak:  # as if nothing had been freed; look
            self.now()
            self.peak = max(self.peak, self._bytes)
        return result

    def now(self) -> int:
        """Bytes that are alive."""
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._alive.values())
        return self._bytes

    def _add(self, storage: torch.UntypedStorage) -> None:
        known = self._alive.get(storage._cdata)
        if known is None or known[0].expired():
            self._bytes += storage.nbytes() - (0 if known is None else known[1])
            self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()


def step_memory(config: Config, step: Step, dtype: torch.dtype | None, processes: int = 1) -> Memory:
    """The memory of one training step.

    Args:
        config: the experiment.
        step: what the step gets.
        dtype: of mixed precision; None is without.
        processes: they keep a second copy of the gradients, to sum them up.
    """
    with FakeTensorMode():
        model = build_model(config.kind, config.segmenter, config.video)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        with LiveBytes() as live, autocast(_CPU, dtype):
            frames = torch.zeros(step.clips * step.frames, 3, step.height, step.width)
            masks = torch.zeros(step.objects, step.frames, step.height, step.width, dtype=torch.bool)
            _loss(model, config, step, frames, masks).backward()
    return Memory(
        weights=size * (2 if config.solver.average_decay else 1),
        optimiser=8 * trained,
        step=live.peak + (4 * trained if processes > 1 else 0),
    )


def _loss(model: VideoModel, config: Config, step: Step, frames: Tensor, masks: Tensor) -> Tensor:
    """The loss of a step. Who is matched with whom does not change any size, and is not asked."""
    pictures, draws = len(frames), Draws(torch.Generator())
    if isinstance(model, EncoderOnly):
        clips_of = frames.unflatten(0, (step.clips, step.frames))
        predictions, _, padded_size = model.layers(clips_of, [draws] * step.clips, done=0.0)
    elif config.kind != "ctvis":
        with torch.no_grad():
            seen = model.segmenter(frames)
        # What tracker or refiner predict, layer by layer, with its gradient; they themselves see queries only.
        shape = (pictures, config.segmenter.queries, *seen.mask_features.shape[-2:])
        layers = [
            torch.zeros(shape, dtype=seen.masks.dtype, requires_grad=True) for _ in range(config.video_layers + 1)
        ]
        logits = torch.zeros(*shape[:2], config.segmenter.classes + 1, requires_grad=True)
        predictions, padded_size = [Prediction(logits, masks) for masks in layers], seen.padded_size
    else:
        seen = model.segmenter(frames, auxiliary=True)
        predictions, padded_size = [*seen.auxiliary, Prediction(seen.logits, seen.masks)], seen.padded_size
    classes = torch.zeros(step.objects, dtype=torch.long)
    present = torch.ones(step.objects, step.frames, dtype=torch.bool)
    clips = [Clip(classes, masks, present) for _ in range(step.clips)]
    objects = [picture for clip in clips for picture in clip.pictures(padded_size)]
    count = min(step.objects, config.segmenter.queries)
    match = Match(torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long))
    losses = set_losses(
        predictions[-1],
        predictions[:-1],
        objects,
        lambda _: [match] * pictures,
        config.losses,
        [draws] * pictures,
    )
    return torch.stack(list(losses.values())).sum()
