"""The frame segmenter against transformers' Mask2Former, and its own promises."""

from __future__ import annotations

import re
import warnings
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

from operating_room.errors import UserError
from panoptic_segmentation.model import pixel_decoder
from panoptic_segmentation.model.backbone import FrozenBatchNorm
from panoptic_segmentation.model.pixel_decoder import deformable_attention, sine_position
from panoptic_segmentation.model.segmenter import PIXEL_MEAN, Segmenter, SegmenterConfig, small_segmenter
from panoptic_segmentation.model.transformer_decoder import Prediction

TINY = SegmenterConfig(
    classes=5,
    queries=7,
    stem_width=8,
    widths=(16, 32, 64, 128),
    depths=(1, 2, 1, 1),
    width=64,
    heads=4,
    encoder_layers=2,
    encoder_hidden=96,
    decoder_layers=4,
    decoder_hidden=80,
)

# Ours -> transformers, tried in order; the decoder's self-attention is split there (see `_theirs`).
NAMES = (
    (r"^backbone\.stem\.conv1\.norm", "model.pixel_level_module.encoder.embedder.embedder.normalization"),
    (r"^backbone\.stem\.conv1", "model.pixel_level_module.encoder.embedder.embedder.convolution"),
    (
        r"^backbone\.res(\d)\.(\d)\.",
        lambda m: f"model.pixel_level_module.encoder.encoder.stages.{int(m[1]) - 2}.layers.{m[2]}.",
    ),
    (r"\.conv(\d)\.norm", lambda m: f".layer.{int(m[1]) - 1}.normalization"),
    (r"\.conv(\d)\.weight", lambda m: f".layer.{int(m[1]) - 1}.convolution.weight"),
    (r"\.shortcut\.norm", ".shortcut.normalization"),
    (r"\.shortcut\.weight", ".shortcut.convolution.weight"),
    (r"^pixel_decoder\.(transformer\.)?", "model.pixel_level_module.decoder."),
    (r"\.input_proj\.", ".input_projections."),
    (r"\.decoder\.mask_features", ".decoder.mask_projection"),
    (r"\.(adapter_1|layer_1)\.norm", r".\1.1"),
    (r"\.(adapter_1|layer_1)\.weight", r".\1.0.weight"),
    (r"\.norm1", ".self_attn_layer_norm"),
    (r"\.norm2", ".final_layer_norm"),
    (r"^decoder\.query_feat", "model.transformer_module.queries_features"),
    (r"^decoder\.query_embed", "model.transformer_module.queries_embedder"),
    (r"^decoder\.level_embed", "model.transformer_module.level_embed"),
    (r"^decoder\.class_embed", "class_predictor"),
    (r"^decoder\.decoder_norm", "model.transformer_module.decoder.layernorm"),
    (r"^decoder\.mask_embed\.layers\.(\d)", r"model.transformer_module.decoder.mask_predictor.mask_embedder.\1.0"),
    (r"^decoder\.transformer_\w+_layers\.(\d+)\.", r"model.transformer_module.decoder.layers.\1."),
    (r"\.multihead_attn\.", ".cross_attn."),
    (r"\.linear(\d)\.", r".fc\1."),
)


def _theirs(name: str) -> str:
    kind = re.search(r"transformer_(self|cross|ffn)", name)
    if kind:
        norm = {"self": "self_attn_layer_norm", "cross": "cross_attn_layer_norm", "ffn": "final_layer_norm"}[kind[1]]
        name = re.sub(r"\.norm\.", f".{norm}.", name)
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def oracle() -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone: dict[str, Any] = {
        "embedding_size": 8,
        "hidden_sizes": [16, 32, 64, 128],
        "depths": [1, 2, 1, 1],
        "layer_type": "bottleneck",
        "out_features": stages,
    }
    labels: dict[str, Any] = {"num_labels": 5}
    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(**backbone),
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=96,
        dim_feedforward=80,
        encoder_layers=2,
        decoder_layers=5,  # four and the prediction from the learnable queries
        num_attention_heads=4,
        num_queries=7,
        **labels,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Mask2FormerForUniversalSegmentation(config)
    for parameter in model.parameters():  # away from the symmetric start: offsets and attention weights count
        parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.data += torch.rand_like(buffer)
    return model.eval()


@torch.no_grad()
def test_equals_mask2former_of_transformers(oracle: Mask2FormerForUniversalSegmentation) -> None:
    theirs = dict(oracle.state_dict())
    for name in list(theirs):  # stack the split projections
        if name.endswith(("self_attn.q_proj.weight", "self_attn.q_proj.bias")):
            parts = [theirs.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
            theirs[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    model = Segmenter(TINY).eval()
    for name, tensor in model.state_dict().items():
        if "reid_embed" not in name:
            tensor.copy_(theirs.pop(_theirs(name)))
    assert all(name.endswith("num_batches_tracked") or name == "criterion.empty_weight" for name in theirs)

    frames = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    ours = model(frames, auxiliary=True)
    expected = oracle(model.normalise(frames), output_auxiliary_logits=True)
    module = oracle.model(model.normalise(frames))
    torch.testing.assert_close(ours.mask_features, module.pixel_decoder_last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.logits, expected.class_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.masks, expected.masks_queries_logits, rtol=1e-4, atol=1e-3)
    assert len(ours.auxiliary) == len(expected.auxiliary_logits) == 4
    for mine, other in zip(ours.auxiliary, expected.auxiliary_logits):
        torch.testing.assert_close(mine.logits, other["class_queries_logits"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.masks, other["masks_queries_logits"], rtol=1e-4, atol=1e-3)


def test_any_size_is_padded_and_masks_have_the_stride() -> None:
    config = small_segmenter(classes=24)
    model = Segmenter(config).eval()
    with torch.no_grad():
        output = model(torch.zeros(2, 3, 50, 70))
    assert output.image_size == (50, 70)
    assert output.padded_size == (64, 96)
    assert output.masks.shape == (2, 30, 32, 48)
    assert output.logits.shape == (2, 30, 25)
    assert output.embeddings.shape == output.embeddings_raw.shape == (2, 30, 128)
    assert output.auxiliary == []
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 0.85e6
    coarse = Segmenter(replace(config, mask_stride=4)).eval()
    with torch.no_grad():
        assert coarse(torch.zeros(1, 3, 50, 70)).masks.shape == (1, 30, 16, 24)


def test_padding_has_the_mean_colour() -> None:
    model = Segmenter(small_segmenter(3))
    mean = torch.tensor(PIXEL_MEAN)[:, None, None].expand(3, 20, 20)
    images = model.normalise(mean[None])
    assert images.shape == (1, 3, 32, 32)
    assert images.abs().max() == 0


def test_frames_do_not_know_of_each_other() -> None:
    model = Segmenter(small_segmenter(3)).eval()
    frames = 255 * torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        together, alone = model(frames), model(frames[1:])
    torch.testing.assert_close(together.masks[1:], alone.masks, rtol=1e-4, atol=1e-4)


def test_frozen_normalisation_stays_frozen_in_training() -> None:
    model = Segmenter(TINY).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(255 * torch.rand(1, 3, 32, 32)).masks.sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_buffers())
    frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm)]
    assert frozen
    assert not any(list(module.parameters()) for module in frozen)


def test_every_parameter_learns() -> None:
    """Gradients reach everything but the heads and attention layers that symmetric starts switch off."""
    model = Segmenter(small_segmenter(3))
    output = model(255 * torch.rand(2, 3, 32, 32), auxiliary=True)
    loss = output.masks.square().mean() + output.logits.square().mean() + output.reid.square().mean()
    loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert untouched == []


@pytest.mark.parametrize("config", [TINY, small_segmenter(3)])
def test_pixel_decoder_stays_in_float32_under_autocast(config: SegmenterConfig) -> None:
    model = Segmenter(config).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(255 * torch.rand(1, 3, 32, 32))
    assert output.mask_features.dtype == torch.float32
    assert output.logits.dtype == torch.bfloat16


def test_deformable_attention_reads_single_cells() -> None:
    """All weight on one point at the centre of a cell returns that cell; a point far outside returns zero."""
    sizes = [(2, 3), (1, 2), (1, 1)]
    values = torch.arange(9.0)[None, :, None, None].expand(1, 9, 2, 4)
    locations = torch.full((1, 2, 2, 3, 4, 2), 5.0)
    weights = torch.zeros(1, 2, 2, 3, 4)
    locations[0, 0, :, 0, 1] = torch.tensor([2.5 / 3, 1.5 / 2])  # first query: last cell of the first level
    locations[0, 1, :, 1, 0] = torch.tensor([0.5 / 2, 0.5])  # second query: first cell of the second level, half
    weights[0, 0, :, 0, 1] = 1
    weights[0, 1, :, 1, 0] = 0.5
    weights[0, 1, :, 2, 3] = 0.5  # the other half looks outside
    found = deformable_attention(values, sizes, locations, weights)
    torch.testing.assert_close(found[0, 0], torch.full((8,), 5.0))
    torch.testing.assert_close(found[0, 1], torch.full((8,), 3.0))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_fast_deformable_attention_equals_the_one_with_gradients(precision: torch.dtype) -> None:
    sizes, heads = [(2, 3), (4, 6), (8, 11)], 4
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 6 + 24 + 88, heads, 8, generator=random, dtype=precision)
    locations = 1.6 * torch.rand(2, 7, heads, 3, 4, 2, generator=random, dtype=precision) - 0.3  # some outside
    locations[:, :3] = locations[:, :3].round()  # on borders
    weights = torch.rand(2, 7, heads, 3, 4, generator=random, dtype=precision)
    fast = deformable_attention(values, sizes, locations, weights)
    slow = deformable_attention(values.requires_grad_(), sizes, locations, weights)
    assert slow.requires_grad
    torch.testing.assert_close(fast, slow.detach(), rtol=0, atol=1e-5)
    assert not torch.equal(fast, slow.detach())  # two ways, indeed


def test_sine_position_distinguishes_rows_and_columns() -> None:
    position = sine_position(3, 4, 8, like=torch.zeros(1))
    assert position.shape == (8, 3, 4)
    assert torch.equal(position[:4, 1, 0], position[:4, 1, 3])  # y half: the same along a row
    assert torch.equal(position[4:, 0, 2], position[4:, 2, 2])  # x half: the same along a column
    assert position[0, -1, 0].abs() < 1e-4  # the last row is a full turn: sin 2 pi


@pytest.mark.parametrize(("field", "value"), [("mask_stride", 3), ("width", 48), ("width", 64 + 32)])
def test_impossible_configurations_are_refused(field: str, value: int) -> None:
    with pytest.raises(UserError, match=field):
        replace(SegmenterConfig(heads=16), **{field: value})


def test_the_encoder_is_computed_again_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the memory of a training step; the same outputs and gradients bit for bit."""
    frames = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def step() -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        model = Segmenter(small_segmenter(4)).train()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(frames)
        (output.masks.square().mean() + output.logits.square().mean()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [output.masks.detach(), output.logits.detach(), *gradients], sum(kept.values())

    found, bytes_kept = step()
    monkeypatch.setattr(pixel_decoder, "checkpoint", lambda layer, *inputs, use_reentrant: layer(*inputs))
    expected, all_bytes = step()
    assert len(found) == len(expected)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected))
    assert bytes_kept < 0.75 * all_bytes  # a small encoder of 2 layers; 0.46 at the published size


def test_inference_keeps_no_masks_of_earlier_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept those of all layers, which only training looks at."""
    segmenter = Segmenter(replace(small_segmenter(24), decoder_layers=6)).eval()
    made, most = list[weakref.ref[Tensor]](), list[int]()
    predict = segmenter.decoder._predict

    def counted(*given: Tensor) -> Prediction:
        prediction = predict(*given)
        made.append(weakref.ref(prediction.masks))
        most.append(sum(masks() is not None for masks in made))
        return prediction

    monkeypatch.setattr(segmenter.decoder, "_predict", counted)
    with torch.no_grad():
        segmenter(torch.zeros(1, 3, 64, 96))
    assert len(made) == 7
    assert max(most) <= 2
