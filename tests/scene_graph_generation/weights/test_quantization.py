"""The language model in 4 bits on a CPU: memory, and training after an evaluation pass."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from operating_room.errors import UserError
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.loss import weighted_loss
from scene_graph_generation.weights.adapters import add_lora, freeze, is_adapter, merge_lora
from scene_graph_generation.weights.quantization import is_quantized, quantize
from tests.scene_graph_generation.model.test_model import TINY, make_examples, make_model

pytest.importorskip("bitsandbytes", reason="the extra quant (bitsandbytes) is not installed")

SMALL = replace(TINY, language=replace(TINY.language, width=64, mlp=128))


def make_batch() -> list[Example]:
    return [replace(example, labels=example.ids.clamp(min=-100)) for example in make_examples()]


def dequantized(model: MM2SG) -> MM2SG:
    """The same model with the values of its 4-bit weights in plain float32 layers."""
    functional = import_module("bitsandbytes.functional")
    plain = make_model(SMALL)
    for name, layer in model.language.named_modules():
        if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
            weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.language.get_submodule(name).weight.data = weight.float()
    return plain


def gradients(model: MM2SG, batch: list[Example]) -> dict[str, Tensor]:
    output = model.score_all(batch)
    loss = weighted_loss(output.logits, output.labels)
    named = {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()))))


def test_training_in_4_bits_after_an_evaluation_pass() -> None:
    """Twenty steps; at each, the gradients are those of the same model in full precision."""
    torch.manual_seed(0)
    model = make_model(SMALL)
    quantize(model)
    reference = dequantized(model)
    for each in (model, reference):
        add_lora(each, rank=8, alpha=16, dropout=0.0)
        freeze(each, 1)
    batch = make_batch()
    generate(model.eval(), batch, end_ids=[-1], max_new_tokens=3)
    model.train(mode=False)  # dropout of the pooler would make the two differ
    adapter = {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}
    optimizer = torch.optim.AdamW(adapter.values(), lr=3e-3)
    losses = []
    for _ in range(20):
        reference.load_state_dict(adapter, strict=False)
        ours, theirs = gradients(model, batch), gradients(reference, batch)
        flat = [torch.cat([gradient.flatten() for gradient in each.values()]) for each in (ours, theirs)]
        assert torch.cosine_similarity(flat[0], flat[1], dim=0) >= 0.99
        for name, parameter in adapter.items():
            parameter.grad = ours[name]
        optimizer.step()
        with torch.no_grad():
            output = model.score_all(batch)
            losses.append(float(weighted_loss(output.logits, output.labels)))
    assert losses[-1] < 0.9 * losses[0]


def test_only_the_language_model_is_quantised() -> None:
    model = make_model(SMALL)
    before = model.state_dict()
    quantize(model)
    assert is_quantized(model)
    layers = dict(model.language.named_parameters())
    weight = layers["model.layers.0.mlp.up_proj.weight"]
    assert weight.dtype == torch.uint8
    assert weight.numel() == 64 * 128 // 2
    assert layers["lm_head.weight"].dtype == torch.uint8  # as published
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in model.language.modules())
    kept = {name: tensor for name, tensor in before.items() if "_proj" not in name and "lm_head" not in name}
    kept |= {name: tensor for name, tensor in before.items() if not name.startswith("language.")}
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())


def test_an_adapter_is_not_merged_into_4_bits() -> None:
    model = make_model(SMALL)
    quantize(model)
    add_lora(model, rank=4, alpha=8)
    with pytest.raises(UserError, match="load the base with 16 bits"):
        merge_lora(model)
    with pytest.raises(UserError, match="quantise the base first"):
        quantize(model)


def test_without_bitsandbytes_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.nn", None)
    with pytest.raises(UserError, match="pip install"):
        quantize(make_model())


def test_a_whole_model_is_loaded_as_deepspeed_does() -> None:
    model = make_model(SMALL)
    quantize(model)
    add_lora(model, rank=8, alpha=16, dropout=0.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(".quant_state." in name for name in state)
    adapter = next(name for name in state if ".lora_" in name)
    state[adapter] += 1
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.state_dict()[adapter], state[adapter])
