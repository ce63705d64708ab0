"""Attention on a CPU in bfloat16: computed in float32.

On a processor with units for bfloat16 products of matrices are faster in it, but PyTorch's attention is slower, going
back above all: only with attention in float32 is a whole step faster (`scripts/bench_training.py formats`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from computing.machine import autocast, half_dtype


def attention_on(device: torch.device, bf16: bool) -> AbstractContextManager[Any]:
    """Around a forward pass whose products are in bfloat16 or not: attention as the device does it best."""
    return Float32Attention() if bf16 and device.type == "cpu" else nullcontext()


@contextmanager
def forward_pass(device: torch.device, bf16: bool) -> Generator[None]:
    """Around one forward pass: products in bfloat16 if so asked; not around several, as weights are cast once.

    Raises:
        UserError: the device has no bfloat16.
    """
    with attention_on(device, bf16), autocast(device, half_dtype(device, "bfloat16") if bf16 else None):
        yield


class Float32Attention(TorchFunctionMode):
    """Attention to what is on a CPU is computed in float32, whatever autocast says, and comes back as without this."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch around each of its functions."""
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        if query.device.type != "cpu":
            return func(*args, **kwargs)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
        with torch.autocast("cpu", enabled=False):
            of = {name: _float32(value) for name, value in kwargs.items()}
            return func(*(_float32(value) for value in args), **of).to(dtype)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
