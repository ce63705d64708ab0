"""Muon for the matrices inside of a network and AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from computing.machine import half_dtype

_MOMENTUM = 0.95
# Of the odd polynomial that drives all singular values towards 1 within five rounds (Jordan et al. 2024).
_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5
_TINY = 1e-7  # keeps a gradient of nothing but zeros from 0 / 0


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate (AdamW's) and a weight decay of their own."""

    weights: Sequence[nn.Parameter]
    rate: float
    decay: float


class Muon(torch.optim.Optimizer):
    """Muon for matrices (Jordan et al. 2024), in the precision that the device is fast in.

    What `torch.optim.Muon` computes, which always rounds to bfloat16: on a CPU without units for it that takes some 20
    times as long as float32 (docs/performance.md). Matrices of one shape go through as one product.

    Args:
        groups: of parameters with two dimensions; each has a `lr` and a `weight_decay`.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        super().__init__([dict(group) for group in groups], {"momentum": _MOMENTUM})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step: a matrix moves by the rate times the nearest orthogonal matrix of its momentum (after Nesterov)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for (rows, columns), weights in alike.items():
                wanted = torch.stack([self._wanted(weight, group["momentum"]) for weight in weights])
                # A step of 0.02 fits matrices of any size, if those with more outputs than inputs make larger ones.
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for weight, way in zip(weights, orthogonal(wanted).to(wanted.dtype)):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(way, alpha=rate)
        return loss

    def _wanted(self, weight: nn.Parameter, momentum: float) -> Tensor:
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight.grad)
        state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(state["momentum_buffer"], momentum)


def orthogonal(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Nearly the nearest orthogonal matrix of each: singular values between 0.7 and 1.2, the same directions.

    In bfloat16 on GPUs that have it, which is enough for it, and in float32 elsewhere.
    """
    gpu = matrices.device.type == "cuda" and half_dtype(matrices.device) == torch.bfloat16
    tall = matrices.shape[1] > matrices.shape[2]  # the smaller of the two products of a matrix with itself
    found = (matrices.mT if tall else matrices).to(torch.bfloat16 if gpu else torch.float32)
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some groups of parameters, AdamW for the others.

    Schedules, checkpoints and whoever changes a learning rate see one optimiser with the groups of both.

    Args:
        matrices: groups whose parameters have two dimensions.
        others: groups of all others.
    """

    def __init__(self, matrices: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices),
            torch.optim.AdamW([dict(group) for group in others]),
        )
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
