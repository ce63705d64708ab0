"""Programs that end themselves as by `kill -9` at a chosen moment, however busy the machine is."""

from __future__ import annotations

import subprocess


def dies_in(module: str, function: str, call: int) -> str:
    """Code that kills its process at the beginning of the `call`-th call of a function, such as `Class.method`."""
    *owners, name = function.split(".")
    return f"""
import importlib, itertools, os, signal
owner = importlib.import_module({module!r}){"".join(f".{one}" for one in owners)}
calls, whole = itertools.count(1), owner.{name}
def dying(*arguments, **options):
    if next(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **options)
owner.{name} = dying
"""


def require_killed(process: subprocess.Popen[str]) -> None:
    """Wait for the end, which must have been that one."""
    _, errors = process.communicate()
    assert process.returncode == -9, errors
