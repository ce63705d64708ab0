"""Nothing that a library calls deprecated is used by us, also where the warning is raised deep inside the library."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from mmor.check import graphs, segmenters

CPU = torch.device("cpu")


def _train_graphs() -> None:
    model = graphs.make_model(graphs.SMALL, CPU, 32)
    graphs.prepare_training(model, graphs.SMALL, checkpointing=True)
    graphs.training_step(model, graphs.SMALL, torch.bfloat16, update=True)


def _segment(kind: str) -> None:
    model = segmenters.make_model(kind, segmenters.SMALL, CPU)
    segmenters.inference(model, segmenters.SMALL, None)
    segmenters.training_step(model, segmenters.SMALL, torch.bfloat16, update=True)


@pytest.mark.parametrize(
    "run",
    [
        _train_graphs,
        lambda: graphs.generation(graphs.make_model(graphs.SMALL, CPU, 32), graphs.SMALL, None, 4),
        *(lambda kind=kind: _segment(kind) for kind in ("ctvis", "online", "offline")),
    ],
)
def test_no_deprecation_warnings(run: Callable[[], None]) -> None:
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("error", kind)
        run()
