"""No word of other libraries in a normal command: each is looked at in a process of its own, as a user would see it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmor.demo import BUNDLED, GRAPHS

NOISE = """
import warnings, logging, sys
from mmor import cli
def noisy():
    warnings.warn("old", FutureWarning)
    import transformers, accelerate, peft
    transformers.utils.logging.get_logger("transformers.trainer").warning("mtime may not be reliable")
    if {deepspeed}:
        import deepspeed
        deepspeed.utils.logger.warning("Setting accelerator to CPU")
    if {quant}:
        import bitsandbytes
    logging.getLogger("torch.distributed.run").warning("Setting OMP_NUM_THREADS")
    logging.getLogger("bitsandbytes.anything").warning("Failed to load")
cli.app = noisy
cli.main()
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    quiet = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "PYTHONSTARTUP")}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=quiet | environment)


def test_libraries_are_silent() -> None:
    code = NOISE.format(deepspeed=find_spec("deepspeed") is not None, quant=find_spec("bitsandbytes") is not None)
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_who_asks_for_warnings_gets_them() -> None:
    code = NOISE.format(deepspeed=False, quant=False)
    assert "FutureWarning: old" in run("-W", "always", "-c", code).stderr


@pytest.mark.parametrize(
    "command",
    [
        ("checkpoints", "inspect", str(BUNDLED / GRAPHS)),
        ("checkpoints", "list"),
        ("scene-graph", "train", "--dry-run", "--samples", "none.json", "--out", "none"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_say_only_what_is_ours(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run("-m", "mmor.cli", *command, HF_HUB_OFFLINE="1", HOME=str(tmp_path))
    lines = done.stderr.splitlines()
    assert all(line.startswith(("error: ", "note: ", "--")) for line in lines), done.stderr
    assert "Warning" not in done.stdout + done.stderr
