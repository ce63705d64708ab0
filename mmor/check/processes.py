"""Self-test of training in two processes: their gradient is that of one process with both clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmor.check.measure import Outcome
from mmor.check.segmenters import SMALL, losses_of, make_model, pictures, random_clip
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.weights.checkpoints import VideoModel


def one_process(segmenter: str = "ctvis") -> Outcome:
    """Loss and gradient of both clips, on the CPU."""
    device = torch.device("cpu")
    model = make_model(segmenter, SMALL, device).train()
    losses = [losses_of(model, *_clip(rank, device), SMALL)() for rank in range(2)]
    loss = torch.stack(losses).mean()
    loss.backward()
    return Outcome((loss.detach(), _gradient(model)))


def two_processes(kind: str, segmenter: str = "ctvis") -> Outcome:
    """The same from one process for each clip.

    Args:
        kind: "cpu" (gloo) or "cuda" (NCCL, a GPU each).
    """
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (folder, kind, segmenter), nprocs=2)
        numbers = torch.load(Path(folder) / "numbers.pt", weights_only=True)
    return Outcome(tuple(numbers), "gloo" if kind == "cpu" else "NCCL")


def _work(rank: int, folder: str, kind: str, segmenter: str) -> None:
    device = torch.device("cpu") if kind == "cpu" else torch.device("cuda", rank)
    torch.set_num_threads(1)
    backend = "gloo" if kind == "cpu" else "nccl"
    distributed.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        model = make_model(segmenter, SMALL, device).train()
        together = _Loss(model)
        parallel = DistributedDataParallel(together, device_ids=None if kind == "cpu" else [rank])
        loss = parallel(*_clip(rank, device))
        loss.backward()
        mean = loss.detach() / 2
        distributed.all_reduce(mean)
        if rank == 0:
            torch.save([mean.cpu(), _gradient(model).cpu()], Path(folder) / "numbers.pt")
    finally:
        distributed.destroy_process_group()


class _Loss(nn.Module):
    """A model whose forward pass gives its loss, as DistributedDataParallel needs it."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, clip: Clip) -> Tensor:
        return losses_of(self.model, frames, clip, SMALL)()


def _clip(rank: int, device: torch.device) -> tuple[Tensor, Clip]:
    """The clip of a process: the second one's is the mirrored first."""
    frames, clip = pictures(SMALL, SMALL.clip, device), random_clip(SMALL, device)
    return (frames.flip(-1), replace(clip, masks=clip.masks.flip(-1))) if rank else (frames, clip)


def _gradient(model: nn.Module) -> Tensor:
    """All gradients in a row; what has none, as what training leaves out, is left out."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
