"""What a parity case reports, and how two values are compared."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EXACT = 0.0  # tolerance of strings, integers and orders
DOUBLE = 1e-9  # tolerance of float64 results, data specification, section 0
PUBLISHED = Path(__file__).parents[3] / "shared" / "parity"  # the recorded cases, where they are beside this checkout


@dataclass(frozen=True)
class Result:
    """One line of the runner: the largest error of a comparison. NaN fails."""

    name: str
    error: float
    tolerance: float
    where: str = ""  # where in the value the largest error is

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def compare(name: str, ours: Any, theirs: Any, tolerance: float) -> Result:
    """Largest absolute difference of two values: numbers, arrays, tensors, strings, or lists and mappings of these.

    Another type, length, shape, key or string counts as an infinite difference.
    """
    error, where = _difference(ours, theirs, "")
    return Result(name, error, tolerance, where)


def beside(case: Path, part: str, name: str) -> Path:
    """What cases of a part (`data`, `stage1`, `stage2`) share: beside the case, else among the recorded ones."""
    return own if (own := case.with_name(name)).exists() else PUBLISHED / part / name


def load_json(path: Path) -> Any:
    """The value of a JSON file, gzipped or not."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def _difference(ours: Any, theirs: Any, where: str) -> tuple[float, str]:
    if _is_array(ours) or _is_array(theirs):
        return _array_difference(ours, theirs), where
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if ours.keys() != theirs.keys():
            return math.inf, f"{where} keys {sorted(map(str, ours.keys() ^ theirs.keys()))[:3]}"
        return _worst(_difference(ours[key], theirs[key], f"{where}.{key}") for key in theirs)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return math.inf, f"{where} length {len(ours)} instead of {len(theirs)}"
        return _worst(_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(ours, theirs)))
    if _is_number(ours) and _is_number(theirs):
        return (0.0 if ours == theirs else abs(float(ours) - float(theirs))), where
    return (0.0 if ours == theirs else math.inf), where


def _worst(differences: Any) -> tuple[float, str]:
    """The largest difference; a NaN is worse than anything."""
    worst = (0.0, "")
    for error, where in differences:
        if math.isnan(error):
            return error, where
        if error > worst[0]:
            worst = (error, where)
    return worst


def _array_difference(ours: Any, theirs: Any) -> float:
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return 0.0 if np.array_equal(a, b) else math.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    unequal = a != b  # equal infinities do not differ, NaN does from everything
    return float(np.max(np.abs(a[unequal] - b[unequal]), initial=0.0))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, np.generic)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)
