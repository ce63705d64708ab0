"""Muon for the matrices inside of a network and AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

_MOMENTUM = 0.95


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate (AdamW's) and a weight decay of their own."""

    weights: Sequence[nn.Parameter]
    rate: float
    decay: float


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, PyTorch's own) for some groups of parameters, AdamW for the others.

    Schedules, checkpoints and whoever changes a learning rate see one optimiser with the groups of both.

    Args:
        matrices: groups whose parameters have two dimensions.
        others: groups of all others.
    """

    def __init__(self, matrices: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
        # A step is an orthogonal matrix times the rate, so that 0.02 fits matrices of any size: "original" also scales
        # it by the square root of outputs to inputs, where there are more of them.
        muon = torch.optim.Muon([dict(group) for group in matrices], momentum=_MOMENTUM, adjust_lr_fn="original")
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, torch.optim.AdamW([dict(group) for group in others]))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both parts work on the very groups and states that this optimiser shows."""
        start = 0
        for part in self._parts:
            part.state = self.state
            part.param_groups = self.param_groups[start : (start := start + len(part.param_groups))]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimiser."""
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss


def matrices_of(*modules: nn.Module) -> set[nn.Parameter]:
    """Weights of linear layers inside of these modules, which Muon is for; embeddings and what scores words are not."""
    layers = (
        (name, layer) for module in modules for name, layer in module.named_modules() if isinstance(layer, nn.Linear)
    )
    return {layer.weight for name, layer in layers if not name.endswith("lm_head") and layer.weight.requires_grad}


def new_optimizer(groups: Iterable[Group], matrices: set[nn.Parameter], ratio: float | None) -> torch.optim.Optimizer:
    """AdamW for all parameters, or Muon for the matrices among them.

    Args:
        groups: what is trained, and how by AdamW.
        matrices: what Muon is for.
        ratio: Muon's learning rate by that of AdamW; None: AdamW for all.
    """
    by_muon: list[dict[str, Any]] = []
    by_adamw: list[dict[str, Any]] = []
    for group in groups:
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for weight in group.weights:
            parts[ratio is not None and weight in matrices].append(weight)
        for weights, rate, into in zip(parts, (group.rate, group.rate * (ratio or 0.0)), (by_adamw, by_muon)):
            if weights:
                into.append({"params": weights, "lr": rate, "weight_decay": group.decay})
    return MuonAdamW(by_muon, by_adamw) if by_muon else torch.optim.AdamW(by_adamw)
