"""The published model at its full size has the published names and shapes (on the meta device, without weights)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapters import add_lora, freeze
from scene_graph_generation.weights.fine_tuned import adapter_state, other_state
from scene_graph_generation.weights.parameter_names import our_name, published_name
from tests.parity.case import load_json
from tests.parity.test_runner import SHARED

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded manifests are not here")


@cache
def published_model() -> dict[str, list[int]]:
    """Our name -> shape."""
    return _shapes(_build().state_dict())


def _build() -> MM2SG:
    with torch.device("meta"):
        return MM2SG(MM2SGConfig())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def manifest(name: str) -> dict[str, list[int]]:
    """Our name -> shape, of what is not computed."""
    entries = load_json(SHARED / "stage2" / f"{name}.json.gz")
    return {ours: entry["shape"] for published, entry in entries.items() if (ours := our_name(published))}


def test_the_whole_model() -> None:
    assert published_model() == manifest("manifest_mm2sg_7b")
    assert {published_name(name) for name in published_model()} <= load_json(
        SHARED / "stage2" / "manifest_mm2sg_7b.json.gz"
    ).keys()


def test_the_pooler() -> None:
    pooler = {name: shape for name, shape in published_model().items() if name.startswith("pooler.")}
    assert pooler == manifest("manifest_pooler")
    assert len(pooler) == 340


def test_the_files_of_a_fine_tuned_model() -> None:
    model = _build()
    add_lora(model)
    freeze(model)
    for name, state in (("lora", adapter_state(model)), ("non_lora_trainables", other_state(model))):
        entries = load_json(SHARED / "stage2" / f"manifest_{name}_7b.json.gz")
        assert _shapes(state) == {published: entry["shape"] for published, entry in entries.items()}
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == (
        319_815_680 + 248_507_312
    )
