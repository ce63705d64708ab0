"""Weights of EoMT, VidEoMT and DINOv2: every entry is known, patches and grids are resampled, the rest is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from mmor.inspection import inspect
from operating_room.errors import UserError
from panoptic_segmentation.weights.checkpoints import load_checkpoint, load_model, published_state, save_model
from panoptic_segmentation.weights.encoder_files import is_on_hub, resampled_patches, weights_file
from panoptic_segmentation.weights.model_card import ModelCard
from tests.panoptic_segmentation.strange_weights import FITTING, ours, write_dinov2, write_eomt, write_videomt

FILE = "model.safetensors"


def as_the_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """VidEoMT of transformers' form as the authors write it: timm's names, query, key and value in one."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"layers\.(\d+)\.attention\.q_proj\.(\w+)", name):
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"backbone.encoder.backbone.blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
            continue
        for pattern, replacement in (
            (r"embeddings\.cls_token", "encoder.backbone.cls_token"),
            (r"embeddings\.register_tokens", "encoder.backbone.reg_token"),
            (r"embeddings\.position_embeddings\.weight", "encoder.backbone.pos_embed"),
            (r"embeddings\.patch_embeddings\.projection", "encoder.backbone.patch_embed.proj"),
            (r"layers\.(\d+)\.layer_scale(\d)\.lambda1", r"encoder.backbone.blocks.\1.ls\2.gamma"),
            (r"layers\.(\d+)\.attention\.out_proj", r"encoder.backbone.blocks.\1.attn.proj"),
            (r"layers\.(\d+)", r"encoder.backbone.blocks.\1"),
            (r"layernorm\.", "encoder.backbone.norm."),
            (r"query\.weight", "q.weight"),
            (r"class_predictor", "class_head"),
            (r"upscale_block\.block", "upscale"),
            (r"mask_head\.fc(\d)", lambda found: f"mask_head.{2 * int(found[1]) - 2}"),
        ):
            name = re.sub(pattern, replacement, name, count=1) if not name.startswith("encoder.") else name
        name = name.replace("layernorm2d", "norm")
        if not re.search(r"mask_token|criterion|[kv]_proj", name):
            found[f"backbone.{name}"] = tensor[None] if name.endswith("pos_embed") else tensor
    return found


def test_the_authors_files_are_those_of_transformers(tmp_path: Path) -> None:
    write_videomt(tmp_path)
    models = [ours(), ours()]
    load_checkpoint(tmp_path / FILE, models[0])
    torch.save({"model": as_the_authors(load_file(tmp_path / FILE))}, tmp_path / "vipseg_vit_large_55.2.pth")
    report = load_checkpoint(tmp_path / "vipseg_vit_large_55.2.pth", models[1])
    assert report.missing == report.unexpected == report.reshaped == []
    first, second = (published_state(model) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dinov2_is_the_start_with_patches_of_another_size(tmp_path: Path) -> None:
    """With patches as they are and no queries asked, the tokens are those of transformers."""
    theirs = write_dinov2(tmp_path)
    model = ours(replace(FITTING, grid=(6, 6)))
    report = load_checkpoint(tmp_path / FILE, model, complete=False)
    assert report.unexpected == report.reshaped == []
    assert all(name.startswith("heads.") for name in report.missing)
    small = torch.rand(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(small.unfold(2, 14, 14).unfold(3, 14, 14).reshape(-1, 1, 14, 14), (16, 16), mode="bicubic")
    large = large.view(2, 3, 6, 6, 16, 16).transpose(3, 4).reshape(2, 3, 96, 96)  # each patch enlarged by itself
    with torch.no_grad():
        tokens, grid = model.segmenter.encoder(large)
        for layer in model.segmenter.encoder.layers[model.segmenter.encoder.depth :]:
            tokens = layer(tokens)
        expected = theirs(small).last_hidden_state
    assert grid == (6, 6)
    torch.testing.assert_close(model.segmenter.encoder.norm(tokens), expected, atol=1e-4, rtol=1e-4)


def test_enlarged_patches_are_answered_as_the_patches_were() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, patch = torch.rand(5, 3, 14, 14, generator=draw), torch.rand(1, 3, 14, 14, generator=draw)
    larger = F.interpolate(patch, (16, 16), mode="bicubic")
    found = F.conv2d(larger, resampled_patches(weight, 16))
    torch.testing.assert_close(found, F.conv2d(patch, weight), atol=1e-3, rtol=1e-4)


def test_an_image_segmenter_starts_another_grid_and_other_classes(tmp_path: Path) -> None:
    write_eomt(tmp_path)
    model = ours(replace(FITTING, classes=9, grid=(3, 5)))
    report = load_checkpoint(tmp_path / FILE, model, complete=False)
    assert report.reshaped == ["heads.class_predictor.weight", "heads.class_predictor.bias"]
    there = load_file(tmp_path / FILE)["embeddings.position_embeddings.weight"]
    found = model.segmenter.encoder.positions
    assert found.shape == (3, 5, 32)
    assert found.mean().item() == pytest.approx(there.mean().item(), abs=0.05)


def test_our_own_file_keeps_it_whole_and_inspect_names_it(tmp_path: Path) -> None:
    model = ours(memory=True)
    save_model(tmp_path / "ours.safetensors", model, ModelCard("encoder_only", FITTING))
    loaded, card = load_model(tmp_path / "ours.safetensors")
    assert (card.kind, card.segmenter) == ("encoder_only", FITTING)
    first, second = published_state(model), published_state(loaded)
    assert all(torch.equal(first[name], second[name]) for name in first)
    told = inspect(tmp_path / "ours.safetensors")
    assert "kind: encoder-only segmenter" in told
    assert "classes: 3" in told
    assert "needs: nothing" in told
    write_dinov2(tmp_path)
    assert "vision transformer alone" in inspect(tmp_path / FILE)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("position", "it has no position embeddings"),
        ("layers.1.attention.v_proj.bias", r"1\.attention\.v\.bias is missing"),
        ("layers.2.norm1", r"layers\.2\.norm1\.weight is absent there"),
        ("", r"1 of its names are, first layers\.0\.mlp\.gate_proj"),  # all there, and one more
    ],
)
def test_what_is_unknown_or_missing_is_refused_by_name(tmp_path: Path, without: str, told: str) -> None:
    write_eomt(tmp_path)
    state = load_file(tmp_path / FILE)
    left = {name: tensor for name, tensor in state.items() if not without or without not in name}
    more = {} if without else {"layers.0.mlp.gate_proj.weight": torch.ones(2)}
    save_file(left | more, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=told):
        load_checkpoint(tmp_path / "other.safetensors", ours(), complete=False)


@pytest.mark.parametrize(
    ("name", "entry", "told"),
    [
        ("embeddings.register_tokens", None, "it has no registers"),
        ("embeddings.cls_token", None, "it has no class token"),
        ("embeddings.position_embeddings.weight", torch.zeros(16), "shapes that no such model has"),
        ("embeddings.position_embeddings.weight", torch.zeros(0, 32), "0 position embeddings"),
        ("embeddings.position_embeddings.weight", torch.zeros(17, 9), "shapes that no such model has"),
        ("layers.0.attention.q_proj.weight", torch.zeros(5, 7), "shapes that no such model has"),
        ("embeddings.patch_embeddings.projection.weight", torch.zeros(32, 3, 0, 0), r"patches\.weight is \(32, 3, 0"),
        ("embeddings.patch_embeddings.projection.weight", torch.zeros(32, 3, 16, 14), r"patches\.weight is \(32, 3"),
        ("embeddings.patch_embeddings.projection.weight", torch.zeros(1, 1, 400, 400), r"patches\.weight is \(1, 1"),
    ],
)
def test_entries_that_do_not_go_together_are_one_line(
    tmp_path: Path, name: str, entry: Tensor | None, told: str
) -> None:
    """Resampled as they are, the last patches would ask for 200 GB."""
    write_eomt(tmp_path)
    state = load_file(tmp_path / FILE)
    assert name in state
    left = {key: tensor for key, tensor in state.items() if key != name}
    save_file(left if entry is None else left | {name: entry}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=told) as caught:
        load_checkpoint(tmp_path / "other.safetensors", ours(), complete=False)
    assert "\n" not in str(caught.value)


def test_weights_are_a_file_a_folder_or_a_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_eomt(tmp_path / "eomt")
    assert weights_file(str(tmp_path / "eomt")) == tmp_path / "eomt" / FILE
    assert weights_file("output/model.safetensors") == Path("output/model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for name in ("tue-mps/coco_panoptic_eomt_small_640_2x", "tue-mps/VidEoMT/vipseg_vit_large_55.2.pth"):
        assert is_on_hub(name)
        with pytest.raises(UserError, match=r"cannot be fetched from the model hub .*give a local copy"):
            weights_file(name)
    assert asked == [
        ("tue-mps/coco_panoptic_eomt_small_640_2x", FILE),
        ("tue-mps/VidEoMT", "vipseg_vit_large_55.2.pth"),
    ]
