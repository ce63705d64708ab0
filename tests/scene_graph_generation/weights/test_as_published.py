"""What a published folder may say, and how a training around a base begins and decays."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig, TrainConfig, VisionConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.bad_samples import BadSamples
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.trainer import ModelFolder, SceneGraphTrainer
from scene_graph_generation.weights.adapters import add_lora, freeze
from scene_graph_generation.weights.fine_tuned import load_fine_tuned, read_fine_tuned
from scene_graph_generation.weights.precision import build_empty
from tests.published_form import write_language, write_scene_graph_zip
from tests.scene_graph_generation.tiny_bases import SETTINGS

SMALL = LanguageConfig(vocabulary=320, width=64, layers=1, heads=4, mlp=64)


@pytest.mark.parametrize("few_bits", [True, False])
def test_a_text_only_folder_that_is_written_as_llama_is_a_llava(tmp_path: Path, few_bits: bool) -> None:
    """Trained without --vision_tower: the library writes its plain class's kind beside LLaVA's keys."""
    write_language(tmp_path / "base")
    write_scene_graph_zip(tmp_path / "downstream.zip", text_only=True, seed=4)
    with zipfile.ZipFile(tmp_path / "downstream.zip") as archive:
        archive.extractall(tmp_path)
    config = tmp_path / "downstream" / "config.json"
    values = json.loads(config.read_text()) | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    if not few_bits:
        del values["quantization_config"]
    config.write_text(json.dumps(values))
    model, _ = load_fine_tuned(read_fine_tuned(config.parent), tmp_path / "base")
    assert model.vision is None
    assert isinstance(model.settings.language, LanguageConfig)


def test_new_modules_around_a_base_begin_as_published() -> None:
    torch.manual_seed(0)
    pooler = build_empty(MM2SGConfig(vision=VisionConfig(layers=2), language=SMALL)).pooler
    positions = pooler.views.bert.embeddings.position_embeddings.weight.detach()
    assert float(positions.std()) == pytest.approx(0.02, rel=0.02)
    assert pooler.mask_encoder is not None
    for convolution in pooler.mask_encoder.convolutions:  # PyTorch's default: uniform up to 1 / sqrt(inputs)
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        bound = convolution.weight[0].numel() ** -0.5
        assert 0.9 * bound < float(convolution.weight.abs().max()) <= bound
        assert 0 < float(convolution.bias.abs().max()) <= bound


def test_without_a_rate_of_the_projector_decay_is_that_of_the_published_groups(tmp_path: Path) -> None:
    model = MM2SG(SETTINGS)
    add_lora(model, 4, 8)
    freeze(model, 2)
    config = TrainConfig(batch_size=1, accumulation=1, weight_decay=0.1, token_weights=False)
    folder = ModelFolder(lambda path: None, lambda path: None)
    samples = object.__new__(TrainingSamples)  # none is looked at
    samples.records = [{}]
    trainer = SceneGraphTrainer(model, samples, [1], config, None, tmp_path, folder, BadSamples(False))
    decays = {id(p): g["weight_decay"] for g in trainer.create_optimizer().param_groups for p in g["params"]}
    kept = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    wrong = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and decays[id(p)] != (0.0 if "bias" in name or id(p) in kept else 0.1)
    ]
    assert not wrong
