"""Reading model files safely: bytes to tensors under published names, with errors that name the file.

Read are `.pth` files of the published training (optimiser state beside the model, or stripped), `.pkl` files of the
Mask2Former zoo (NumPy arrays), torchvision's ResNets, `.safetensors` of ours, and what
`panoptic_segmentation.weights.encoder_files` translates. Nothing is unpickled without an allow-list.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files.tensors import damaged, named_tensors, read_pickle, read_safetensors
from panoptic_segmentation.weights.encoder_files import is_strange, our_names

_TORCHVISION = (  # torchvision's ResNet -> published
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


# NumPy numbers in the state of published trainers, under NumPy 1's and 2's module names.
_SCALARS: list[Any] = [
    multiarray.scalar,
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool")},
]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, which old pickles use for the bytes of an array."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding} is not allowed")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays, nothing else."""

    allowed: Mapping[tuple[str, str], Any] = {
        **{(f"numpy.{core}.multiarray", "_reconstruct"): multiarray._reconstruct for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): multiarray.scalar for core in ("core", "_core")},
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The few harmless names; everything else is refused."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}, which is not allowed")
        return self.allowed[module, name]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a model file under published names.

    Raises:
        UserError: the file is missing, a folder, damaged, or holds something else than tensors.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "not found"
        told = "what published trainings start from comes with `mmor checkpoints download segmenter-initial`"
        raise UserError(f"{path}: {what}; give a .pth, .pkl or .safetensors ({told})")
    if path.suffix == ".safetensors":
        state: Any = read_safetensors(path)
    elif path.suffix == ".pkl":
        state = _read_arrays(path)
    else:
        state = read_pickle(path, _SCALARS)
    if isinstance(state, Mapping):
        state = state.get("model", state)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds no parameters; give a checkpoint file")
    tensors = named_tensors({name: _tensor(value) for name, value in state.items()}, path)
    return our_names(tensors, path) if is_strange(tensors) else _renamed(tensors)


def _read_arrays(path: Path) -> Any:
    try:
        return _ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a stranger's pickle: whatever it makes the unpickler stumble over, the file is bad
        raise damaged(path, error) from error


def _tensor(value: Any) -> Any:
    """A NumPy array of numbers as a tensor; anything else as it is."""
    is_known = isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8
    return torch.from_numpy(value) if is_known else value  # torch has no long double


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Older and foreign names -> published ones."""
    if "layer1.0.conv1.weight" in state or "stem.conv1.weight" in state:  # an ImageNet backbone alone
        for pattern, replacement in _TORCHVISION:
            state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    return {name.replace("predictor.static_query.", "predictor.query_feat."): t for name, t in state.items()}
