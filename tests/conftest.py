"""Settings for all tests: one torch thread, no model hub, no time limit for single hypothesis examples.

On a busy machine work takes longer than the second after which a log gets its first line of progress: in the tests'
own process that line never comes, so that what a command says does not depend on the clock. DeepSpeed's operators are
compiled once for all processes of a run: the mark that an ended compilation left in the home folder stops trainings.
"""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(autouse=True, scope="session")
def operators_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder / "operators")


@pytest.fixture(autouse=True)
def no_progress_in_logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off where progress itself is tested."""
    if request.path.name != "test_progress.py":
        monkeypatch.setattr("operating_room.work.progress._FIRST", math.inf)
