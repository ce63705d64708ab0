"""No tensor is left on the CPU where the others are on a GPU: training, pretraining, prediction and generation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as backends

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"), reason="this torch takes no backends in Python"
)
def test_everything_that_computes_stays_on_its_device(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.recipes.on_pretend_gpu", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads(ran.stdout.splitlines()[-1])
    assert len(results) == 16
    assert {name: wrong for name, wrong in results.items() if wrong} == {}
