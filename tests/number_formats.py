"""In which formats of numbers PyTorch computes what happens within a block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class Formats(TorchFunctionMode):
    """Notes the formats of attention and of linear layers; entered outside of whatever else changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention: set[torch.dtype] = set()
        self.linear: set[torch.dtype] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self.attention.add(torch.bfloat16 if torch.is_autocast_enabled("cpu") else args[0].dtype)
        elif func is F.linear:
            self.linear.add(result.dtype)
        return result
