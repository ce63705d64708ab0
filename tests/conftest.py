"""Settings for all tests: one torch thread, no model hub, no time limit for single hypothesis examples.

On a busy machine work takes longer than the second after which a log gets its first line of progress: in the tests'
own process that line never comes, so that what a command says does not depend on the clock.
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


@pytest.fixture(autouse=True)
def no_progress_in_logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off where progress itself is tested."""
    if request.path.name != "test_progress.py":
        monkeypatch.setattr("operating_room.work.progress._FIRST", math.inf)
