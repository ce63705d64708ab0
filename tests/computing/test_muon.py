"""One optimiser of two: Muon for matrices, AdamW for all else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from computing.muon import Group, Muon, MuonAdamW, matrices_of, new_optimizer, orthogonal


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
    muon = Muon([{"params": list(inside), "lr": 0.1, "weight_decay": 0.1}])
    adamw = torch.optim.AdamW([w for w in apart.parameters() if w not in inside], 1e-2, weight_decay=0.1)
    steps(model, [optimizer_of(model)], 5)
    steps(apart, [muon, adamw], 5)
    assert same(model, apart)


@pytest.mark.parametrize("shape", [(8, 4), (4, 8), (6, 6)])
def test_it_steps_as_pytorchs_does(shape: tuple[int, int]) -> None:
    gradients = torch.randn(3, 4, *shape, generator=torch.Generator().manual_seed(0))  # of four matrices in three steps
    ours, theirs = ([nn.Parameter(matrix.clone()) for matrix in gradients[0]] for _ in range(2))
    optimizers = (
        Muon([{"params": ours, "lr": 0.1, "weight_decay": 0.1}]),
        torch.optim.Muon(theirs, 0.1, weight_decay=0.1),
    )
    for step in gradients:
        for weights, optimizer in zip((ours, theirs), optimizers):
            for weight, gradient in zip(weights, step):
                weight.grad = gradient.clone()
            optimizer.step()
    # PyTorch's rounds each of its 15 products to eight bits; a step of a weight is 0.1 at most, of a tall matrix 0.14.
    torch.testing.assert_close(torch.stack([*ours]), torch.stack([*theirs]), atol=0.01, rtol=0)
    assert not torch.equal(ours[0], gradients[0, 0])


def test_nearly_orthogonal_in_the_same_directions() -> None:
    matrices = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = torch.linalg.svdvals(orthogonal(matrices))
    assert found.min() > 0.6
    assert found.max() < 1.3
    wanted = values / matrices.norm(dim=(1, 2))[:, None]
    for _ in range(5):
        wanted = 3.4445 * wanted - 4.7750 * wanted**3 + 2.0315 * wanted**5
    torch.testing.assert_close(orthogonal(matrices), left @ torch.diag_embed(wanted) @ right, atol=1e-4, rtol=1e-4)


def test_a_matrix_without_gradient_stays() -> None:
    matrices = [nn.Parameter(torch.ones(3, 3)) for _ in range(3)]
    matrices[0].grad = torch.eye(3)
    matrices[1].grad = torch.zeros(3, 3)
    Muon([{"params": matrices, "lr": 0.1, "weight_decay": 0.0}]).step()
    moved = [not torch.equal(matrix, torch.ones(3, 3)) for matrix in matrices]
    assert moved == [True, False, False]
    assert all(torch.isfinite(matrix).all() for matrix in matrices)


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
