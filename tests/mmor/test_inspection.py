"""What models are told to be: by `mmor checkpoints inspect`, from their content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmor import cli
from mmor.inspection import inspect
from operating_room.errors import UserError
from panoptic_segmentation.model.video_models import SMALL_VIDEO
from panoptic_segmentation.weights.checkpoints import build_model, save_model
from panoptic_segmentation.weights.checkpoints import save_published as save_segmenter
from panoptic_segmentation.weights.model_card import ModelCard
from scene_graph_generation.weights.fine_tuned import save_published
from tests.panoptic_segmentation.weights.test_segmenter_checkpoints import TOY
from tests.scene_graph_generation.tiny_bases import fine_tuned, write_bases


def test_a_model_whose_tokenizer_is_missing_needs_it(tmp_path: Path) -> None:
    shipped = Path(cli.__file__).parents[1] / "checkpoints" / "scene_graph_small"
    copy = shutil.copytree(shipped, tmp_path / "copy")
    assert "needs: nothing" in inspect(copy)
    (copy / "tokenizer.json").unlink()
    assert "needs: tokenizer.json" in inspect(copy)


def test_models_are_told_by_their_content(tmp_path: Path) -> None:
    language, vision = write_bases(tmp_path)
    save_published(tmp_path / "x", fine_tuned(), str(language), "openai/clip-vit-large-patch14-336")
    told = inspect(tmp_path / "x")
    assert "fine-tuned beside a base (published form)" in told
    assert "rank 4, alpha 8" in told
    assert f"needs: {language}, openai/clip-vit-large-patch14-336 (from the hub)" in told
    assert "language model" in inspect(language)
    assert "vision tower" in inspect(vision)
    shipped = Path(cli.__file__).parents[1] / "checkpoints"
    assert "kind: scene-graph model, whole" in inspect(shipped / "scene_graph_small")
    assert "kind: segmenter of single frames" in inspect(shipped / "panoptic_small")
    state = {"sem_seg_head.a": torch.zeros(3, 4), "backbone.b": torch.zeros(5), "tracker.c": torch.zeros(6)}
    torch.save({"model": state, "iteration": 5}, tmp_path / "model.pth")
    assert "DVIS++ online" in inspect(tmp_path / "model.pth")
    assert "parameters: 23" in inspect(tmp_path / "model.pth")


def test_a_trained_segmenter_is_told_like_the_file_that_predict_takes(tmp_path: Path) -> None:
    """A training leaves the model twice, its configuration and checkpoints beside it."""
    torch.manual_seed(0)
    model, run = build_model("online", TOY, SMALL_VIDEO), tmp_path / "run"
    save_model(run / "model.safetensors", model, ModelCard("online", TOY, SMALL_VIDEO))
    save_segmenter(run / "model_final.pth", model)
    (run / "config.yaml").write_text("")
    (run / "checkpoint-2").mkdir()
    told = inspect(run)
    assert "model.safetensors\n" in told
    assert "DVIS++ online" in told
    assert "needs: nothing: how it is built is inside" in told
    assert "config.yaml beside it" in inspect(run / "model_final.pth")
    (run / "config.yaml").unlink()
    assert "DVIS_Plus_Online_R50.yaml" in inspect(run / "model_final.pth")
    trained = sum(parameter.numel() for parameter in model.parameters())
    statistics = {name for name, _ in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    assert statistics
    frozen = sum(buffer.numel() for name, buffer in model.named_buffers() if name.endswith((".weight", ".bias")))
    assert f"parameters: {trained + frozen:,}" in told
    save_model(tmp_path / "two" / "a.safetensors", model, ModelCard("online", TOY, SMALL_VIDEO))
    save_model(tmp_path / "two" / "b.safetensors", model, ModelCard("online", TOY, SMALL_VIDEO))
    with pytest.raises(UserError, match=r"it holds a\.safetensors, b\.safetensors: give one of them"):
        inspect(tmp_path / "two")


def test_what_a_base_needs_and_what_of_it_counts(tmp_path: Path) -> None:
    language, vision = write_bases(tmp_path)
    count = inspect(language).split("parameters: ")[1].split("\n")[0]
    shard = torch.load(language / "part-0.bin", weights_only=True)
    for layer in range(2):
        shard[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(64)
    torch.save(shard, language / "part-0.bin")
    told = inspect(language)
    assert f"parameters: {count}\n" in told
    assert "needs: what is trained beside it (a scene-graph folder), and openai/clip-vit-large-patch14-336" in told
    assert "needs: a language model" in inspect(vision)
    tower = torch.load(vision / "pytorch_model.bin", weights_only=True)
    shard |= {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in tower.items()}
    torch.save(shard, language / "part-0.bin")
    assert "its vision tower is inside" in inspect(language)


def test_an_adapter_of_a_current_library_is_read(tmp_path: Path) -> None:
    """PEFT writes adapter_model.safetensors today; everything else of the folder is as published."""
    language, vision = write_bases(tmp_path)
    save_published(tmp_path / "x", fine_tuned(), str(language), str(vision))
    told = inspect(tmp_path / "x")
    for name in ("adapter_model", "non_lora_trainables"):
        state = torch.load(tmp_path / "x" / f"{name}.bin", weights_only=True)
        save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "x" / f"{name}.safetensors")
        (tmp_path / "x" / f"{name}.bin").unlink()
        assert inspect(tmp_path / "x") == told
    (tmp_path / "x" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.bin \(or adapter_model\.safetensors\) is missing"):
        inspect(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"peft_type": "IA3"}, r"is an adapter of another kind \(IA3\)"),
        ({"use_rslora": True}, r"is an adapter of another kind \(use_rslora\)"),
        ({"use_dora": True}, r"another kind \(use_dora\)"),
        ({"rank_pattern": {"q_proj": 2}}, r"another kind \(rank_pattern\)"),
        ({"lora_alpha": float("inf")}, "Infinity is no number"),
        ({"lora_alpha": float("nan")}, "NaN is no number"),
        ({"lora_alpha": 8.5}, "alpha: expected int, got '8.5'"),
        ({"lora_alpha": None}, "lora_alpha is 'None', no number"),
        ({"r": True}, "r is 'True', no number"),
        ({"r": "4"}, "r is '4', no number"),
        ({"r": -4}, "rank is -4"),
        ({"r": 10**30}, "no number for a LoRA adapter"),
        ({"r": 8}, "not of rank 8 as the settings beside it say"),
        ({"lora_dropout": 1.5}, "dropout is 1.5"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": ["x"]}, "names no base"),
        ({"base_model_name_or_path": ""}, "names no base"),
    ],
)
def test_another_adapter_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    save_published(tmp_path / "x", fine_tuned(), "base", "vision")
    path = tmp_path / "x" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=problem) as error:
        inspect(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize(
    ("name", "problem"), [("none", "not found"), ("a.txt", "no model file"), ("", "no model folder")]
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=problem):
        inspect(tmp_path / name)


def test_a_checkpoint_of_our_own_training_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    state = {f"model.segmenter.{part}.weight": torch.zeros(1) for part in ("backbone.stem", "sem_seg_head.predictor")}
    save_file(state, tmp_path / "checkpoint-4" / "model.safetensors")
    told = inspect(tmp_path / "checkpoint-4")
    assert "checkpoint of a segmenter training" in told
    assert "--resume" in told
