"""spconv and flash-attn instead of plain PyTorch in the point encoder: the same results, chosen only on a GPU.

Neither runs here as it does on a GPU. spconv, if installed, is called on the CPU, in one thread. flash-attn is a module
of the test that does what its documentation says, one sequence after the other.
"""

from __future__ import annotations

import importlib.machinery
import itertools
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scene_graph_generation.config.settings import PointConfig
from scene_graph_generation.model import gpu_kernels, point_transformer, sparse_convolution
from scene_graph_generation.model.point_transformer import PointEncoder, attend
from scene_graph_generation.model.sparse_convolution import SubmanifoldConvolution, find_neighbours

SMALL = PointConfig(depths=(2, 1, 1), channels=(8, 16, 16), heads=(2, 2, 2), patch=32, voxel=0.05)


@pytest.fixture
def with_spconv(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    pytest.importorskip("spconv.pytorch", reason="spconv is not installed (docs/dependencies.md)")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more its CPU kernels give wrong sums now and then
    monkeypatch.setattr(sparse_convolution, "spconv_serves", lambda _: True)
    # All that its backward pass lacks on a CPU is the stream of a GPU to run on.
    monkeypatch.setattr("spconv.pytorch.ops.get_current_stream", lambda: 0)
    yield monkeypatch
    torch.set_num_threads(threads)


@pytest.fixture
def flash_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def flash_attn_varlen_qkvpacked_func(
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
    ) -> Tensor:
        calls.append({"dtype": qkv.dtype, "starts": cu_seqlens, "longest": max_seqlen})
        assert not causal
        assert dropout_p == 0
        assert qkv.dtype in (torch.float16, torch.bfloat16)
        attended = [
            F.scaled_dot_product_attention(*qkv[start:end].permute(1, 2, 0, 3), scale=softmax_scale).transpose(0, 1)
            for start, end in itertools.pairwise(cu_seqlens.tolist())
        ]
        return torch.cat(attended)

    module = ModuleType("flash_attn")
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    module.flash_attn_varlen_qkvpacked_func = flash_attn_varlen_qkvpacked_func  # ty: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return calls


def make_encoder() -> PointEncoder:
    torch.manual_seed(0)
    encoder = PointEncoder(SMALL, width=12).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def make_clouds() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([0.6] * 3 + [1.0] * 3)
    return [torch.rand(points, 6, generator=generator) * size for points in (400, 5, 90)]


class GpuTensor(Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bits", [0, 1, 3, 9])
def test_spconv_convolves_as_plain_pytorch_does(
    with_spconv: pytest.MonkeyPatch, bits: int, kernel: int, bias: bool
) -> None:
    """Bits 0 and 1: many points in each voxel."""
    torch.manual_seed(0)
    grid = torch.randint(min(8, 1 << bits), (300, 3)) + max(0, (1 << bits) - 8)
    cloud = torch.randint(3, (300,)).sort().values
    features = torch.randn(300, 4, requires_grad=True)
    convolution = SubmanifoldConvolution(4, 6, kernel, bias)
    leaves, direction = (features, *convolution.parameters()), torch.randn(300, 6)
    fast = find_neighbours(grid, cloud, bits, kernel)
    assert fast.spconv is not None
    again, result = (convolution(features, fast) for _ in range(2))
    assert torch.equal(again, result)
    gradients = torch.autograd.grad(result, leaves, direction)
    with_spconv.undo()
    plain = find_neighbours(grid, cloud, bits, kernel)
    assert plain.spconv is None
    expected = convolution(features, plain)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, leaves, direction)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_clouds_through_spconv_are_those_through_plain_pytorch(with_spconv: pytest.MonkeyPatch) -> None:
    encoder = make_encoder()
    state = torch.get_rng_state()
    with torch.no_grad():
        fast = encoder(make_clouds())
        assert torch.equal(torch.get_rng_state(), state)
        with_spconv.undo()
        torch.testing.assert_close(fast, encoder(make_clouds()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 3])
def test_points_that_share_a_voxel_come_out_right_beside_spconv(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """In place of spconv a dense convolution of the first point of each voxel."""
    side = 1 << bits

    def dense(features: Tensor, voxels: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        grid, cloud = voxels
        volume = features.new_zeros(2, side, side, side, 3).index_put((cloud, *grid.T), features)
        full = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight.permute(0, 4, 1, 2, 3), bias, padding=1)
        return full.permute(0, 2, 3, 4, 1)[(cloud, *grid.T)]

    torch.manual_seed(0)
    grid, cloud = torch.randint(side, (200, 3)), torch.arange(200) // 120
    features = torch.randn(200, 3, dtype=torch.float64, requires_grad=True)
    convolution = SubmanifoldConvolution(3, 5, kernel=3).double()
    plain = convolution(features, find_neighbours(grid, cloud, bits, kernel=3))
    monkeypatch.setattr(sparse_convolution, "spconv_serves", lambda _: True)
    monkeypatch.setattr(sparse_convolution, "spconv_voxels", lambda *places: places)
    monkeypatch.setattr(sparse_convolution, "spconv_convolution", dense)
    fast = convolution(features, find_neighbours(grid, cloud, bits, kernel=3))
    torch.testing.assert_close(fast, plain)
    direction, leaves = torch.randn_like(plain), (features, *convolution.parameters())
    ours, expected = (torch.autograd.grad(result, leaves, direction) for result in (fast, plain))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("lengths", [(7,), (8, 8, 8), (5, 8, 8, 1, 3)])
def test_flash_attention_stays_inside_patches(
    flash_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 2, 16).requires_grad_()
    plain = attend(qkv, lengths)
    assert not flash_calls
    monkeypatch.setattr(point_transformer, "flash_attention_serves", lambda _: True)
    fast = attend(qkv, lengths)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, plain, rtol=0, atol=5e-3)  # float16 has 11 bits
    assert (fast - plain).abs().mean() < 5e-4
    direction = torch.randn_like(plain)
    ours, expected = (torch.autograd.grad(result, qkv, direction)[0] for result in (fast, plain))
    assert F.cosine_similarity(ours.flatten(), expected.flatten(), dim=0) > 0.9999
    (call,) = flash_calls
    assert call["longest"] == max(lengths)
    assert call["starts"].dtype == torch.int32


def test_clouds_through_flash_attention_are_those_through_plain_pytorch(
    flash_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        plain = encoder(make_clouds())
        monkeypatch.setattr(point_transformer, "flash_attention_serves", lambda _: True)
        torch.testing.assert_close(encoder(make_clouds()), plain, rtol=0, atol=2e-3 * float(plain.std()))
    assert len(flash_calls) == sum(SMALL.depths)


def test_fast_kernels_serve_on_a_gpu_where_they_are_installed(
    flash_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert gpu_kernels.flash_attention_serves(torch.empty(1).as_subclass(GpuTensor))
    assert not gpu_kernels.flash_attention_serves(torch.empty(1))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not gpu_kernels.flash_attention_serves(torch.empty(1).as_subclass(GpuTensor))
    monkeypatch.setattr(gpu_kernels, "find_spec", lambda _: None)
    assert not gpu_kernels.flash_attention_serves(torch.empty(1).as_subclass(GpuTensor))
    assert not gpu_kernels.spconv_serves(torch.empty(1).as_subclass(GpuTensor))


@pytest.mark.parametrize(("of_features", "present"), [(GpuTensor, torch.device("cpu")), (Tensor, None)])
def test_spconv_convolves_on_the_gpu_where_its_tensors_are(
    monkeypatch: pytest.MonkeyPatch, of_features: type[Tensor], present: torch.device | None
) -> None:
    """It uses PyTorch's present GPU, which is the first one unless somebody says otherwise."""
    now: list[torch.device | None] = [None]
    seen: list[torch.device | None] = []

    @contextmanager
    def device(wanted: torch.device) -> Generator[None]:
        now.append(wanted)
        yield
        now.pop()

    class Convolution(torch.nn.Module):
        def __init__(self, inputs: int, outputs: int, kernel: int, **_: Any) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs))

        def forward(self, voxels: SimpleNamespace) -> SimpleNamespace:
            seen.append(now[-1])
            return voxels

    core, of_torch = ModuleType("spconv.core"), ModuleType("spconv.pytorch")
    vars(core).update(ConvAlgo=SimpleNamespace(Native=0))
    vars(of_torch).update(SubMConv3d=Convolution)
    for module in (ModuleType("spconv"), core, of_torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "device", device)
    voxels = SimpleNamespace(replace_feature=lambda features: SimpleNamespace(features=features, indice_dict={}))
    features = torch.randn(2, 3).as_subclass(of_features)
    gpu_kernels.spconv_convolution(features, voxels, torch.randn(3, 3, 3, 3, 3), None)
    assert seen == [present]


@pytest.mark.parametrize("cpu_only", [True, False])
def test_spconv_without_gpu_kernels_does_not_serve(monkeypatch: pytest.MonkeyPatch, cpu_only: bool) -> None:
    module = ModuleType("spconv.cppconstants")
    module.CPU_ONLY_BUILD = cpu_only  # ty: ignore[missing-attribute]
    package = ModuleType("spconv")
    package.__spec__ = importlib.machinery.ModuleSpec("spconv", None)
    monkeypatch.setitem(sys.modules, "spconv", package)
    monkeypatch.setitem(sys.modules, "spconv.cppconstants", module)
    assert gpu_kernels.spconv_serves(torch.empty(1).as_subclass(GpuTensor)) is not cpu_only
    assert not gpu_kernels.spconv_serves(torch.empty(1))
