"""The point cloud encoder: a cloud's vector, its voxels and curves, and the sparse convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scene_graph_generation.config.settings import PointConfig
from scene_graph_generation.model.point_serialization import MAX_BITS, curve_codes, deal_patches
from scene_graph_generation.model.point_transformer import PointEncoder
from scene_graph_generation.model.sparse_convolution import SubmanifoldConvolution, find_neighbours

SMALL = PointConfig(depths=(2, 1, 1), channels=(8, 16, 16), heads=(2, 2, 4), patch=32, voxel=0.05)


def make_encoder(config: PointConfig = SMALL) -> PointEncoder:
    torch.manual_seed(0)
    encoder = PointEncoder(config, width=12).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def make_cloud(points: int, seed: int = 0, span: float = 1.0) -> torch.Tensor:
    return torch.rand(points, 6, generator=torch.Generator().manual_seed(seed)) * torch.tensor([span] * 3 + [1.0] * 3)


def test_a_batch_of_clouds_gives_what_each_gives_alone() -> None:
    encoder = make_encoder()
    clouds = [make_cloud(200), make_cloud(31, seed=1, span=0.1), None, make_cloud(90, seed=2, span=4.0) + 7]
    together = encoder(clouds)
    alone = torch.cat([encoder([cloud]) for cloud in clouds])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.cdist(alone, alone)[~torch.eye(4, dtype=torch.bool)].min() > 0.01


def test_published_voxels_depend_on_the_batch() -> None:
    encoder = make_encoder()
    cloud, other = make_cloud(200), make_cloud(50, seed=1) - 0.125
    assert not torch.allclose(encoder([cloud, other], True)[0], encoder([cloud], True)[0], atol=1e-3)


def test_the_order_of_points_does_not_matter() -> None:
    encoder = make_encoder()
    cloud = make_cloud(300, span=0.3)  # several points in many voxels
    assert torch.equal(encoder([cloud]), encoder([cloud[torch.randperm(300)]]))


def test_a_cloud_can_stand_anywhere() -> None:
    encoder = make_encoder()
    cloud = make_cloud(100)
    cloud[:, :3] = (cloud[:, :3] * 64).round() / 64  # exact sums
    encoder.get_parameter("embedding.stem.conv.weight").data[..., :3] = 0  # coordinates are features, too
    moved = cloud + torch.tensor([8.0, -4, 2, 0, 0, 0])
    assert torch.equal(encoder([cloud]), encoder([moved]))


def test_no_cloud_and_an_empty_cloud_are_the_projection_of_zeros() -> None:
    encoder = make_encoder()
    vectors = encoder([None, torch.zeros(0, 6), make_cloud(9)])
    assert torch.equal(vectors[:2], encoder.project_pc.bias.expand(2, -1))
    assert torch.equal(encoder([None]), vectors[:1])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("points", [1, 2])
def test_the_smallest_clouds(points: int, training: bool) -> None:
    encoder = make_encoder().train(training)
    assert encoder([torch.zeros(points, 6)]).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_impossible_coordinates_are_refused(value: float) -> None:
    cloud = make_cloud(10)
    cloud[3, 1] = value
    with pytest.raises(ValueError, match="not finite or spans more"):
        make_encoder()([cloud])


def test_every_parameter_learns() -> None:
    encoder = make_encoder().train()
    encoder([make_cloud(200, span=0.4), make_cloud(100, seed=1, span=0.4)]).square().sum().backward()
    assert [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_curves_change_places_in_training_by_the_generator() -> None:
    encoder = make_encoder(PointConfig(depths=(2, 1), channels=(8, 16), heads=(2, 2), patch=16, drop_path=0.0)).train()
    cloud = make_cloud(100)
    first, second, again = (encoder([cloud], False, torch.Generator().manual_seed(seed)) for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    encoder.eval()
    assert torch.equal(encoder([cloud]), encoder([cloud]))


def test_it_stays_float32() -> None:
    encoder = make_encoder().to(torch.bfloat16)
    plain = encoder([make_cloud(40)])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder([make_cloud(40)]), plain)
    assert plain.dtype == encoder.project_pc.weight.dtype == torch.float32


@settings(max_examples=20, deadline=None)
@given(bits=st.integers(1, 4))
def test_hilbert_curve_visits_every_voxel_in_single_steps(bits: int) -> None:
    side = torch.arange(1 << bits)
    grid = torch.cartesian_prod(side, side, side)
    codes = curve_codes([grid], [bits])
    for curve in codes:
        assert torch.equal(curve.sort().values, torch.arange(len(grid)))
    for curve in codes[2:]:
        steps = grid[curve.argsort()].diff(dim=0).abs().sum(1)
        assert (steps == 1).all()


def test_z_codes_interleave_bits() -> None:
    codes = curve_codes([torch.tensor([[0b10, 0b01, 0b11]])], [2])
    assert codes[:2, 0].tolist() == [0b101_011, 0b011_101]


@settings(max_examples=30, deadline=None)
@given(depths=st.lists(st.integers(1, MAX_BITS), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_codes_of_many_clouds_at_once_are_those_of_each_alone(depths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.randint(1 << depth, (int(depth) + 3, 3), generator=generator) for depth in depths]
    alone = [curve_codes([grid], [depth]) for grid, depth in zip(grids, depths)]
    assert torch.equal(curve_codes(grids, depths), torch.cat(alone, dim=1))
    for grid, codes in zip(grids, alone):
        for (x, y, z), code in zip(grid.tolist(), codes[0].tolist()):
            bits = zip(*(format(axis, f"0{MAX_BITS}b") for axis in (x, y, z)))
            assert code == int("".join(map("".join, bits)), 2)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11])
def test_patches_hold_every_point_once_and_fill_up_with_earlier_ones(count: int) -> None:
    patches = deal_patches([3, count], size=4, device=torch.device("cpu"))
    assert torch.equal(patches.slots[patches.places], torch.arange(3 + count))
    assert len(patches.slots) == sum(patches.lengths)
    assert patches.lengths[0] == 3
    fillers = patches.slots[patches.places[-1] + 1 :]
    assert fillers.tolist() == [] if count in (1, 4, 8) else torch.equal(fillers, patches.slots[-4 - len(fillers) : -4])


@pytest.mark.parametrize("kernel", [3, 5])
def test_submanifold_convolution_is_dense_convolution_at_occupied_voxels(kernel: int) -> None:
    torch.manual_seed(0)
    occupied = torch.rand(2, 8, 8, 8) < 0.3
    cloud, grid = (lambda where: (where[:, 0], where[:, 1:]))(occupied.nonzero())
    shuffled = torch.randperm(len(cloud))
    cloud, grid = cloud[shuffled], grid[shuffled]
    convolution = SubmanifoldConvolution(3, 5, kernel).double()
    features = torch.randn(len(cloud), 3, dtype=torch.float64, requires_grad=True)
    sparse = convolution(features, find_neighbours(grid, cloud, bits=3, kernel=kernel))
    dense = torch.zeros(2, 8, 8, 8, 3, dtype=torch.float64).index_put((cloud, *grid.T), features)
    weight = convolution.weight.permute(0, 4, 1, 2, 3)
    full = F.conv3d(dense.permute(0, 4, 1, 2, 3), weight, convolution.bias, padding=kernel // 2)
    expected = full.permute(0, 2, 3, 4, 1)[(cloud, *grid.T)]
    assert torch.allclose(sparse, expected, atol=1e-12)
    target = torch.randn_like(sparse)
    gradients = []
    for result in (sparse, expected):
        convolution.zero_grad()
        features.grad = None
        result.backward(target, retain_graph=True)
        gradients.append([features.grad, *(parameter.grad for parameter in convolution.parameters())])
    for ours, theirs in zip(*gradients):
        assert torch.allclose(ours, theirs, atol=1e-11)


def test_of_several_points_in_a_voxel_only_the_first_is_found() -> None:
    grid = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 2]])  # two points, and one behind them along z
    convolution = SubmanifoldConvolution(1, 1, kernel=3, bias=False)
    torch.nn.init.ones_(convolution.weight)
    values = torch.tensor([[1.0], [10.0], [100.0]])
    result = convolution(values, find_neighbours(grid, torch.zeros(3, dtype=torch.long), bits=2, kernel=3))
    assert result.flatten().tolist() == [101, 110, 111]
    mirrored = convolution(values, find_neighbours(3 - grid, torch.zeros(3, dtype=torch.long), bits=2, kernel=3))
    assert mirrored.flatten().tolist() == [101, 10, 101]
