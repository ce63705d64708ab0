"""How much memory a training takes on one GPU: the formula, and what it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from operating_room.errors import UserError
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import (
    Experiment,
    PointConfig,
)
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.deepspeed_settings import zero_stage
from scene_graph_generation.training.dry_run import counts
from scene_graph_generation.training.starting_point import meta_model
from scene_graph_generation.training.training_memory import Load, kept_per_point, memory_per_gpu, usual_and_worst_load


def test_memory_follows_bits_batch_and_zero_stage(published: Experiment, model: MM2SG, tmp_path: Path) -> None:
    trained = 568_322_992

    def memory(gpus: int = 1, bits: int = 4, **train: object) -> dict[str, float]:
        changed = replace(published, start=replace(published.start, bits=bits))
        changed = replace(changed, train=replace(published.train, **train))
        return vars(memory_per_gpu(changed, model, gpus, usual_and_worst_load(changed, model)[1]))

    zero2, alone = memory(gpus=4), memory(gpus=4, deepspeed=None)
    assert [zero2[name] for name in ("weights", "gradients", "optimiser")] == [6 * trained, trained, 3 * trained]
    assert [alone[name] for name in ("weights", "gradients", "optimiser")] == [6 * trained, 8 * trained, 8 * trained]
    assert memory(deepspeed=None)["gradients"] == 4 * trained  # processes sum copies of them
    assert 3.4e9 < zero2["frozen"] - 152_352_768 * 4 - 32000 * 4096 * 2 < 3.5e9
    assert memory(bits=16)["frozen"] == pytest.approx(6_738_415_616 * 2 + 152_352_768 * 4)
    assert memory(batch_size=8)["activations"] == 2 * zero2["activations"]
    assert memory(gradient_checkpointing=False)["activations"] > 3 * zero2["activations"]
    assert zero_stage(ZERO2) == 2
    (tmp_path / "z.json").write_text("{")
    with pytest.raises(UserError, match=r"z\.json"):
        zero_stage(tmp_path / "z.json")


def test_a_usual_and_the_worst_batch_of_the_published_training(published: Experiment, model: MM2SG) -> None:
    usual, worst = usual_and_worst_load(published, model)
    assert usual == Load(2048.0, 300.0, 4.0, 20_000.0)
    assert worst == Load(2048.0, 300.0, 7.0, 20_000.0)
    totals = [memory_per_gpu(published, model, 1, load).total / 1e9 for load in (usual, worst)]
    assert totals == pytest.approx([38.9, 45.0], abs=0.1)  # by hand from the formula of docs/training.md
    fixed = replace(published, train=replace(published.train, shuffle_views=False))
    assert usual_and_worst_load(fixed, model)[0] == worst


def test_the_text_of_the_samples_counts(published: Experiment, model: MM2SG) -> None:
    def record(text: int, answer: int, mark: str = "<image>") -> dict:
        return {"conversations": [{"value": mark + "x" * (text - len(mark))}, {"value": "y" * answer}]}

    usual, worst = usual_and_worst_load(published, model, [record(270, 27), record(540, 54)])
    assert usual == Load(581 + 445.5 / 2.7, 40.5 / 2.7, 4.0, 20_000.0)
    assert worst == Load(581 + 594 / 2.7, 54 / 2.7, 7.0, 20_000.0)
    assert usual_and_worst_load(published, model, [record(10**6, 27)])[1].tokens == 2048
    assert usual_and_worst_load(published, model, [record(270, 0, "")])[1] == Load(100.0, 0.0, 0.0, 0.0)


def test_a_text_only_training_holds_no_vision(published: Experiment) -> None:
    blind = replace(published, start=replace(published.start, vision=None, vision_layers=0))
    model = meta_model(blind, blind.model)
    assert set(counts(model)) == {"language model", "LoRA adapter"}
    memory = memory_per_gpu(blind, model, 1, usual_and_worst_load(blind, model)[1])
    assert memory.frozen == pytest.approx(6_738_415_616 * 0.515625 + 131_072_000 * (2 - 0.515625), rel=1e-3)


def test_a_point_of_a_small_encoder_is_small() -> None:
    from scene_graph_generation.model.point_transformer import PointEncoder

    points = replace(PointConfig(), depths=(1, 1, 1), channels=(16, 32, 64), heads=(1, 2, 4), mlp_ratio=2, voxel=0.05)
    encoder = PointEncoder(points, 32)
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    cloud = torch.rand(2000, 6, generator=torch.Generator().manual_seed(0)) * 4
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder([cloud])
    per_point = sum(kept.values()) / 2000
    assert (
        per_point <= kept_per_point(points) <= 3 * per_point
    )  # rather too much: half the layers are wide as published


def test_the_formula_is_what_a_vision_layer_keeps(published: Experiment) -> None:
    from scene_graph_generation.config.settings import VisionConfig
    from scene_graph_generation.model.encoders import VisionTower
    from scene_graph_generation.training.training_memory import KEPT_VISION

    tower = VisionTower(VisionConfig(image_size=112, width=256, mlp=1024, heads=4, layers=1, feature_layer=-1))
    own = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}

    def kept(views: int) -> int:
        found: dict[int, int] = {}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            alive.append(tensor)
            if tensor.untyped_storage().data_ptr() not in own:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            tower(torch.randn(views, 3, 112, 112))
        return sum(found.values())

    per_token = (kept(3) - kept(1)) / (2 * 64)
    assert per_token / 256 == pytest.approx(KEPT_VISION, rel=0.2)
