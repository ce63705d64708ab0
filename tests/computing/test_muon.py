"""One optimiser of two: Muon for matrices, AdamW for all else."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from computing.muon import Group, MuonAdamW, matrices_of, new_optimizer


class Small(nn.Module):
    """An embedding, a matrix, a norm and a score for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.inside = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))
        self.lm_head = nn.Linear(4, 5, bias=False)

    def loss(self, words: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.lm_head(self.inside(self.embedding(words[:-1]))), words[1:])


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def optimizer_of(model: Small, ratio: float | None = 10.0) -> torch.optim.Optimizer:
    return new_optimizer([Group(list(model.parameters()), 1e-2, 0.1)], matrices_of(model), ratio)


def steps(model: Small, optimizers: list[torch.optim.Optimizer], count: int) -> None:
    words = torch.tensor([0, 1, 2, 3, 4, 0, 2])
    for _ in range(count):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model.loss(words).backward()
        for optimizer in optimizers:
            optimizer.step()


def same(one: Small, other: Small) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_matrices_inside_of_the_network() -> None:
    model = small()
    assert matrices_of(model) == {model.inside[0].weight, model.inside[2].weight}
    model.inside[0].requires_grad_(False)
    assert matrices_of(model) == {model.inside[2].weight}


def test_it_does_what_the_two_do() -> None:
    model, apart = small(), small()
    inside = matrices_of(apart)
    muon = torch.optim.Muon(inside, 0.1, weight_decay=0.1)
    adamw = torch.optim.AdamW([w for w in apart.parameters() if w not in inside], 1e-2, weight_decay=0.1)
    steps(model, [optimizer_of(model)], 5)
    steps(apart, [muon, adamw], 5)
    assert same(model, apart)


def test_without_ratio_it_is_adamw() -> None:
    model, apart = small(), small()
    optimizer = optimizer_of(model, ratio=None)
    assert type(optimizer) is torch.optim.AdamW
    steps(model, [optimizer], 3)
    steps(apart, [torch.optim.AdamW(apart.parameters(), 1e-2, weight_decay=0.1)], 3)
    assert same(model, apart)


def test_it_goes_on_from_its_state() -> None:
    model = small()
    optimizer = optimizer_of(model)
    steps(model, [optimizer], 3)
    again = deepcopy(model)
    other = optimizer_of(again)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    steps(model, [optimizer], 3)
    steps(again, [other], 3)
    assert same(model, again)


def test_a_schedule_reaches_both() -> None:
    model, still = small(), small()
    optimizer = optimizer_of(model)
    assert isinstance(optimizer, MuonAdamW)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    steps(model, [optimizer], 2)
    assert same(model, still)
