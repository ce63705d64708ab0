"""The published model at its full size has the published names and shapes (on the meta device, without weights)."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from scene_graph_generation.config import MM2SGConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.parameter_names import our_name, published_name
from tests.parity.case import load_json
from tests.parity.test_runner import SHARED

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded manifests are not here")


@cache
def published_model() -> dict[str, list[int]]:
    """Our name -> shape."""
    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in MM2SG(MM2SGConfig()).state_dict().items()}


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


def test_what_is_trained_beside_the_adapter() -> None:
    trained = ("pooler.", "projector.", *(f"vision.clip.encoder.layers.{i}." for i in range(12, 24)))
    ours = {name: shape for name, shape in published_model().items() if name.startswith(trained)}
    assert ours == manifest("manifest_non_lora_trainables_7b")
