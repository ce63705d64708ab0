"""Settings for all tests: one torch thread, no model hub, no time limit for single hypothesis examples."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
