"""A device that computes as the CPU does and refuses tensors of the CPU as a GPU does.

What a GPU stops at (a mask made on the CPU, weights that were never moved, `numpy()` of a tensor on the device) is
found with it on any machine. It is PyTorch's own experimental way to write a backend in Python; as it is registered
once for a whole process, tests use it in a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
DEVICE = f"{NAME}:0"
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}  # may have a tensor of each device
# Places may lie on the CPU, also for a GPU.
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# What a GPU knows only when all before it is done, because the CPU needs a number or the size of the result.
_AWAITED = {
    *(_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default),
    *(_aten.bincount.default, _aten.unique_consecutive.default, _aten._unique2.default),
}
WAITS: list[str] = []  # operations so far at which a GPU would have been waited for, copies from and to it included
KERNELS = torch.library.Library("aten", "IMPL")  # lives as long as its kernels
_MATHEMATICAL = 0  # of the ways to attend: the one of single products


class OnDevice(torch.Tensor):
    """A tensor of the device; `numbers` holds its numbers."""

    numbers: Tensor

    @staticmethod
    def __new__(cls: Any, numbers: Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(DEVICE),
            requires_grad=numbers.requires_grad,
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers.detach() if numbers.requires_grad else numbers

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.numbers})"

    def tolist(self) -> Any:
        """As a GPU does it, it waits for the numbers; PyTorch has this for no other tensor than its own."""
        WAITS.append("tolist")
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(  # ty: ignore[incompatible-method-override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """Inside, what is made on the device `pretend` is a tensor of it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Backend(_DummyBackendModule):
    """What PyTorch asks a device's module for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Formats of autocast."""
        return [torch.bfloat16, torch.float16]


def register() -> None:
    """Make the device known to PyTorch; once in a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    # `torch.tensor(..., device=...)` and indexing with lists ask below all modes.
    for name, kernel in (("empty_strided", _empty_strided), ("_copy_from", _copy_from)):
        KERNELS.impl(name, kernel, "PrivateUse1")


def _empty_strided(size: Any, stride: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    plain = [x.numbers if isinstance(x, OnDevice) else x for x in (source, target)]
    if type(source) is not type(target):
        WAITS.append("copy")
    plain[1].copy_(plain[0])
    return target


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in trees.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    wanted = kwargs.get("device")
    to_device = bool(here) if wanted is None else torch.device(wanted).type == NAME
    if not here and not to_device:
        return function(*args, **kwargs)
    if _waits(function, args, here, to_device):
        WAITS.append(str(function))
    if function is _aten._fused_sdp_choice.default:
        return _MATHEMATICAL
    if here and function not in _MOVES:
        checked = trees.tree_leaves((args[0], args[2:])) if function in _INDEXED else tensors
        strangers = [x for x in checked if isinstance(x, Tensor) and not isinstance(x, OnDevice) and x.dim()]
        if strangers:
            raise RuntimeError(f"{function}: a tensor of the CPU, {tuple(strangers[0].shape)}, meets one of the device")
    plain_args, plain_kwargs = trees.tree_map_only(OnDevice, lambda tensor: tensor.numbers, (args, kwargs))
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = function(*plain_args, **plain_kwargs)
    if to_device:
        result = trees.tree_map_only(Tensor, OnDevice, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if here else result


def _waits(function: Any, args: Any, here: list[OnDevice], to_device: bool) -> bool:
    """Whether the CPU would wait for a GPU: for a copy, for a number, or for how many pixels a mask has."""
    if function is _aten._to_copy.default:
        return isinstance(args[0], OnDevice) != to_device
    if function is _aten.copy_.default:
        return isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice)
    if function in _INDEXED:
        return any(isinstance(place, Tensor) and place.dtype == torch.bool for place in args[1])
    return bool(here) and function in _AWAITED
