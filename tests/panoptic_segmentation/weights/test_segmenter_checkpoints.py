"""Model files: published names, safe reading, wrong kinds, damaged files."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operating_room.errors import UserError
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.model.video_models import SMALL_VIDEO
from panoptic_segmentation.weights.checkpoints import (
    ModelCard,
    VideoModel,
    build_model,
    load_checkpoint,
    load_model,
    published_state,
    read_card,
    save_model,
    save_published,
)

TOY = SegmenterConfig(
    classes=4,
    queries=6,
    stem_width=8,
    widths=(16, 16, 32, 32),
    depths=(1, 1, 1, 1),
    width=32,
    heads=4,
    encoder_layers=1,
    encoder_hidden=32,
    decoder_layers=2,
    decoder_hidden=32,
)


def _model(kind: str, seed: int = 0, **changes: Any) -> VideoModel:
    torch.manual_seed(seed)
    return build_model(kind, SegmenterConfig(**{**vars(TOY), **changes}), SMALL_VIDEO)


def _equal(a: VideoModel, b: VideoModel) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("kind", ["ctvis", "online", "offline"])
def test_published_file_and_back(tmp_path: Path, kind: str) -> None:
    model, other = _model(kind), _model(kind, seed=1)
    save_published(tmp_path / "model_final.pth", model, iteration=7)
    report = load_checkpoint(tmp_path / "model_final.pth", other)
    assert _equal(model, other)
    assert report.missing == report.unexpected == report.reshaped == []
    stored = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert stored["iteration"] == 7
    assert stored["model"]["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 1, 0.1])
    assert set(stored["model"]) - {"criterion.empty_weight"} == set(published_state(model))


def test_published_names() -> None:
    names = set(published_state(_model("offline")))
    assert {
        "backbone.stem.conv1.norm.running_var",
        "backbone.res2.0.shortcut.weight",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.sampling_offsets.bias",
        "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
        "sem_seg_head.predictor.transformer_cross_attention_layers.1.multihead_attn.in_proj_weight",
        "sem_seg_head.predictor.reid_embed.layers.2.bias",
        "tracker.ref_proj.layers.0.weight",
        "refiner.conv_short_aggregate_layers.1.2.weight",
    } <= names
    assert not any(name.startswith("segmenter") for name in names)


def test_a_training_file_with_optimiser_state(tmp_path: Path) -> None:
    """NumPy numbers and counters beside the model are read, and nothing else is needed of them."""
    model = _model("ctvis")
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = {"optimizer": optimizer.state_dict(), "hooks": {"LRScheduler": {"_last_lr": [np.float64(1e-4)]}}}
    trainer["grad_scaler"] = OrderedDict(scale=np.float32(65536), growth=np.int64(3))
    path = tmp_path / "model_0099999.pth"
    torch.save({"model": model.state_dict() and published_state(model), "trainer": trainer, "iteration": 99999}, path)
    other = _model("ctvis", seed=1)
    load_checkpoint(path, other)
    assert _equal(model, other)


def test_a_stripped_file_with_the_old_query_name(tmp_path: Path) -> None:
    model = _model("ctvis")
    state = published_state(model)
    state["sem_seg_head.predictor.static_query.weight"] = state.pop("sem_seg_head.predictor.query_feat.weight")
    torch.save(state, tmp_path / "old.pth")
    other = _model("ctvis", seed=1)
    load_checkpoint(tmp_path / "old.pth", other)
    assert _equal(model, other)


def test_a_zoo_pickle_of_arrays_starts_another_training(tmp_path: Path) -> None:
    """No re-identification head, other classes: the rest is taken, and the report says what was not."""
    zoo = _model("ctvis", classes=9)
    state = {name: t.numpy() for name, t in published_state(zoo).items() if "reid_embed" not in name}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "MaskFormer"}))
    model = _model("ctvis", seed=1)
    report = load_checkpoint(tmp_path / "zoo.pkl", model, complete=False)
    assert sorted(report.reshaped) == [f"sem_seg_head.predictor.class_embed.{x}" for x in ("bias", "weight")]
    assert all("reid_embed" in name for name in report.missing)
    assert len(report.missing) == 6
    query = "sem_seg_head.predictor.query_feat.weight"
    assert torch.equal(published_state(model)[query], published_state(zoo)[query])
    assert "6 missing" in str(report)
    assert "2 reshaped" in str(report)


def test_numbers_that_torch_does_not_have_are_one_line(tmp_path: Path) -> None:
    state = {name: tensor.numpy() for name, tensor in published_state(_model("ctvis")).items()}
    state["backbone.stem.conv1.weight"] = state["backbone.stem.conv1.weight"].astype(np.longdouble)
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": state}))
    with pytest.raises(UserError, match=r"zoo\.pkl: entry 'backbone\.stem\.conv1\.weight' is no named tensor"):
        load_checkpoint(tmp_path / "zoo.pkl", _model("ctvis"))


def test_torchvision_backbone(tmp_path: Path) -> None:
    source = _model("ctvis")
    state = {}
    for name, tensor in source.segmenter.get_submodule("backbone").state_dict().items():
        name = name.replace("stem.conv1.norm", "bn1").replace("stem.conv1", "conv1")
        for stage in range(1, 5):
            name = name.replace(f"res{stage + 1}.", f"layer{stage}.")
        for conv in range(1, 4):
            name = name.replace(f"conv{conv}.norm", f"bn{conv}")
        state[name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")] = tensor
    assert "layer1.0.downsample.1.running_mean" in state
    torch.save(state | {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}, tmp_path / "resnet.pth")
    model = _model("ctvis", seed=1)
    report = load_checkpoint(tmp_path / "resnet.pth", model, complete=False)
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in model.state_dict().items() if "backbone" in n)
    assert sorted(report.unexpected) == ["backbone.fc.bias", "backbone.fc.weight"]


def test_the_next_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    save_published(tmp_path / "ctvis.pth", _model("ctvis"))
    report = load_checkpoint(tmp_path / "ctvis.pth", _model("online"), complete=False)
    assert report.missing
    assert all(name.startswith("tracker.") for name in report.missing)


@pytest.mark.parametrize(("theirs", "ours", "complete"), [("online", "ctvis", False), ("ctvis", "online", True)])
def test_the_wrong_kind_is_refused(tmp_path: Path, theirs: str, ours: str, complete: bool) -> None:
    save_published(tmp_path / "x.pth", _model(theirs))
    with pytest.raises(UserError, match=f"holds the {theirs} model"):
        load_checkpoint(tmp_path / "x.pth", _model(ours), complete)


@pytest.mark.parametrize("complete", [True, False])
def test_another_architecture_is_refused_and_nothing_is_changed(tmp_path: Path, complete: bool) -> None:
    save_published(tmp_path / "x.pth", _model("ctvis"))
    model, same = (_model("ctvis", seed=1, widths=(16, 16, 32, 64)) for _ in range(2))
    with pytest.raises(UserError, match=r"another architecture .*backbone\.res5"):
        load_checkpoint(tmp_path / "x.pth", model, complete)
    assert _equal(model, same)


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    state = published_state(_model("ctvis"))
    del state["sem_seg_head.predictor.class_embed.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"class_embed\.bias"):
        load_checkpoint(tmp_path / "x.pth", _model("ctvis"))


def test_our_own_file_builds_its_model(tmp_path: Path) -> None:
    model = _model("online")
    card = ModelCard("online", TOY, SMALL_VIDEO, {"shortest_edge": 96})
    save_model(tmp_path / "small.safetensors", model, card)
    loaded, found = load_model(tmp_path / "small.safetensors")
    assert found == card == read_card(tmp_path / "small.safetensors")
    assert _equal(model, loaded)
    assert not loaded.training


def test_half_precision_storage_is_half_as_large(tmp_path: Path) -> None:
    model, card = _model("ctvis"), ModelCard("ctvis", TOY)
    save_model(tmp_path / "full.safetensors", model, card)
    save_model(tmp_path / "half.safetensors", model, card, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    loaded, _ = load_model(tmp_path / "half.safetensors")
    mine, theirs = (published_state(m)["sem_seg_head.predictor.class_embed.weight"] for m in (loaded, model))
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": _Evil()}))
    else:
        torch.save({"model": _Evil()}, path)
    with pytest.raises(UserError, match=r"not safe to read \(it wants to call (posix|nt)\.mkdir"):
        load_checkpoint(path, _model("ctvis"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text", "folder", "missing", "wrong"])
def test_bad_files_are_one_sentence(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"model{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif damage == "wrong":
        content = {"model": {"a": 3}}
        path.write_bytes(pickle.dumps(content)) if suffix == ".pkl" else torch.save(content, path)
    elif damage == "cut":
        model = _model("ctvis")
        if suffix == ".pkl":
            path.write_bytes(pickle.dumps({n: t.numpy() for n, t in published_state(model).items()}))
        elif suffix == ".pth":
            save_published(path, model)
        else:
            save_model(path, model, ModelCard("ctvis", TOY))
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="model") as error:
        load_checkpoint(path, _model("ctvis"))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_a_card_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors"):
        load_model(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"b\.safetensors"):
        load_model(tmp_path / "b.safetensors")
