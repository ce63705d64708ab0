"""Learning rates and weight decays per parameter."""

from __future__ import annotations

import torch

from panoptic_segmentation.config.settings import Rates
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter
from panoptic_segmentation.model.video_models import CTVIS, SMALL_VIDEO, OnlineDVIS
from panoptic_segmentation.training.optimizer import parameter_groups, parameter_rates


def test_published_rules() -> None:
    rates = {name: (rate, decay) for name, _, rate, decay in parameter_rates(CTVIS(small_segmenter(4)), Rates())}
    assert rates["segmenter.backbone.stem.conv1.weight"] == (1e-5, 0.05)
    assert rates["segmenter.backbone.stem.conv1.norm.weight"] == (1e-5, 0.0)
    assert rates["segmenter.decoder.query_feat.weight"] == (1e-4, 0.0)
    assert rates["segmenter.decoder.decoder_norm.bias"] == (1e-4, 0.0)
    assert rates["segmenter.decoder.class_embed.bias"] == (1e-4, 0.05)
    assert rates["segmenter.pixel_decoder.transformer.level_embed"] == (1e-4, 0.05)


def test_the_rate_falls_from_block_to_block_of_a_transformer() -> None:
    config = SegmenterConfig(classes=3, width=32, heads=2, encoder_layers=2, decoder_layers=2, decoder_hidden=32)
    given = Rates(base=1.0, layer_decay=0.5)
    rates = {name: rate for name, _, rate, _ in parameter_rates(EncoderOnly(config), given)}
    assert rates["segmenter.encoder.layers.3.fc1.weight"] == 1.0
    assert rates["segmenter.encoder.layers.0.scale1"] == 0.5**3
    assert rates["segmenter.encoder.patches.weight"] == rates["segmenter.encoder.positions"] == 0.5**4
    assert rates["segmenter.encoder.norm.weight"] == rates["segmenter.heads.query.weight"] == 1.0


def test_groups_tell_what_is_of_the_transformer() -> None:
    config = SegmenterConfig(classes=3, width=32, heads=2, encoder_layers=2, decoder_layers=2, decoder_hidden=32)
    model = EncoderOnly(config)
    of_encoder = {id(p) for group in parameter_groups(model, Rates()) if group["of_encoder"] for p in group["params"]}
    assert of_encoder == {id(p) for p in model.segmenter.encoder.parameters()}


def test_groups_hold_every_trainable_parameter_once() -> None:
    model = OnlineDVIS(small_segmenter(4), SMALL_VIDEO)
    groups = parameter_groups(model, Rates())
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    torch.optim.AdamW(groups)
