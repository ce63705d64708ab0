"""Deterministic weights for the parity cases: the same name, shape and seed give the same values anywhere.

A parity case stores no weights. It stores a manifest (parameter name -> shape and kind of number, in the
published checkpoints' own naming), the inputs, and the outputs that the published implementation computed from
the weights that `fill_state_dict(manifest, seed)` returns.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np


def fill_array(name: str, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Return the array for one parameter or buffer.

    Floating-point values are uniform with a standard deviation that keeps activations of order one:
    1/sqrt(fan_in) for matrices and kernels, 0.02 for biases and embeddings' offsets, 1 + 0.1 u for
    normalisation scales, 0.5..1.5 for running variances. Integer and boolean buffers are not filled here:
    a manifest stores their values.
    """
    if not dtype.startswith("float") and dtype != "bfloat16":
        raise ValueError(f"{name}: a manifest stores the values of {dtype} buffers, they are not filled")
    rng = np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), seed]))
    uniform = rng.random(int(math.prod(shape)), dtype=np.float32).reshape(shape)  # [0, 1)
    centred = (2.0 * uniform - 1.0) * math.sqrt(3.0)  # zero mean, unit variance
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return (0.5 + uniform).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * centred).astype(np.float32)
    if len(shape) <= 1:
        if leaf == "weight":  # normalisation scale
            return (1.0 + 0.1 * centred).astype(np.float32)
        return (0.02 * centred).astype(np.float32)
    fan_in = math.prod(shape[1:])
    return (centred / math.sqrt(fan_in)).astype(np.float32)


def fill_state_dict(manifest: Mapping[str, Mapping], seed: int) -> dict[str, np.ndarray]:
    """Return name -> array for every entry of a manifest.

    A manifest entry is {"shape": [...], "dtype": "float32"} or, for integer and boolean buffers,
    {"shape": [...], "dtype": "int64", "values": [...]} with the values flattened in C order.
    """
    filled = {}
    for name, entry in manifest.items():
        shape = tuple(entry["shape"])
        if "values" in entry:
            filled[name] = np.asarray(entry["values"], dtype=entry["dtype"]).reshape(shape)
        else:
            filled[name] = fill_array(name, shape, entry["dtype"], seed)
    return filled
