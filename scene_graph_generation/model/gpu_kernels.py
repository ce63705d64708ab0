"""Faster kernels of two optional packages for the point encoder: spconv (convolution) and flash-attn (attention).

Nobody chooses them: what is installed is used for tensors on a GPU, as in the published encoder. On a CPU, or without
the packages, the plain PyTorch code beside each call computes the same.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def spconv_serves(tensor: Tensor) -> bool:
    """Whether spconv convolves this: on a GPU, if it is installed with its GPU kernels.

    On a CPU it has no backward pass, and its forward pass gives wrong sums now and then with more than one thread.
    """
    if not tensor.is_cuda or find_spec("spconv") is None:
        return False
    from spconv.cppconstants import CPU_ONLY_BUILD

    return not CPU_ONLY_BUILD


def flash_attention_serves(tensor: Tensor) -> bool:
    """Whether flash-attn attends: on a GPU that its kernels support (compute capability 8.0), if it is installed."""
    return (
        tensor.is_cuda
        and find_spec("flash_attn") is not None
        and torch.cuda.get_device_capability(tensor.device) >= (8, 0)
    )


def spconv_voxels(grid: Int[Tensor, "voxels 3"], cloud: Int[Tensor, " voxels"]) -> Any:
    """An `spconv.pytorch.SparseConvTensor` of voxels, all different, still without features.

    On a CPU, where tests call it, spconv gives wrong neighbours from 2^31 voxels on, empty ones included; on a GPU it
    then counts in 64 bits.
    """
    from spconv.pytorch import SparseConvTensor

    places = torch.cat((cloud[:, None], grid), dim=1).int()
    clouds, *extent = (places.amax(0) + 1).tolist()
    return SparseConvTensor(torch.empty(len(grid), 0, device=grid.device), places, extent, clouds)


def spconv_convolution(
    features: Float[Tensor, "voxels inputs"],
    voxels: Any,
    weight: Float[Tensor, "outputs kernel kernel kernel inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "voxels outputs"]:
    """Submanifold convolution of the features of `spconv_voxels`, always in a kernel of the same size.

    spconv lays weights out as the published encoder does.
    """
    from spconv.core import ConvAlgo
    from spconv.pytorch import SubMConv3d

    algorithm = None if features.is_cuda else ConvAlgo.Native  # None: spconv's choice; on a CPU it has this one only
    with torch.device("meta"):  # a shape only: the parameters are ours
        layer: nn.Module = SubMConv3d(
            weight.shape[-1], len(weight), weight.shape[1], bias=bias is not None, indice_key="pairs", algo=algorithm
        )
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    # spconv launches its kernels on PyTorch's present GPU, wherever its tensors are: on another one they read what is
    # not theirs and stop. To answer, a process of several has its own GPU without making it the present one.
    with torch.cuda.device(features.device) if features.is_cuda else nullcontext():
        result = torch.func.functional_call(layer, parameters, (voxels.replace_feature(features),))
    voxels.indice_dict = result.indice_dict  # the next convolution finds the pairs of neighbours there
    return result.features


def flash_attention(
    qkv: Float[Tensor, "slots 3 heads width"], lengths: tuple[int, ...]
) -> Float[Tensor, "slots heads width"]:
    """Softmax attention inside each patch; `lengths` are those of the patches, one after the other.

    The kernel computes in half precision: float32 becomes float16 and the result float32 again, as in the published
    encoder (stage-2 specification, section 11). Pooled features change by 3e-4 at a standard deviation of 2.5.
    """
    from flash_attn import flash_attn_varlen_qkvpacked_func

    starts = _starts(lengths, qkv.device)
    scale = qkv.shape[-1] ** -0.5
    attended = flash_attn_varlen_qkvpacked_func(
        qkv.half(), starts, max_seqlen=max(lengths), dropout_p=0.0, softmax_scale=scale
    )
    return attended.to(qkv.dtype)


@lru_cache(16)  # the blocks of a stage share their patches, and every copy to a GPU costs time
def _starts(lengths: tuple[int, ...], device: torch.device) -> Int[Tensor, " edges"]:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
