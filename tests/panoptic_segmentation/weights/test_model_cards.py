"""Segmenter files of strangers: cards, types and values that ended in a traceback, in gigabytes or in wrong masks."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.inference.predict import load
from panoptic_segmentation.model.video_models import SMALL_VIDEO
from panoptic_segmentation.weights.checkpoints import (
    ModelCard,
    VideoModel,
    load_checkpoint,
    load_model,
    published_state,
    save_model,
    save_published,
)
from tests.allocations import peak_bytes
from tests.panoptic_segmentation.weights.test_segmenter_checkpoints import TOY, _model

SHIPPED = Path(__file__).parents[3] / "mmor" / "checkpoints"


def rewrite(path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Change header and card of a safetensors file; what `edit` returns, if anything, is the card's text."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    card = json.loads(header["__metadata__"]["card"])
    text = edit(header, card)
    header["__metadata__"]["card"] = json.dumps(card) if text is None else text
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, _model("online"), ModelCard("online", TOY, SMALL_VIDEO, {"shortest": 96, "canvas": [64, 48]}))
    return path


def test_the_card_is_read_whole(file: Path) -> None:
    _, settings = load(file, mmor())
    assert (settings.shortest, settings.canvas) == (96, (64, 48))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("preprocessing", None, "does not describe a segmenter"),
        ("preprocessing", [], "does not describe a segmenter"),
        ("preprocessing.shortest", {}, "shortest is '{}', expected int"),
        ("preprocessing.shortest", True, "shortest is 'True', expected int"),
        ("preprocessing.canvas", [[], 48], "canvas is"),
        ("preprocessing.canvas", [48], "canvas is"),
        ("preprocessing.score_threshold", float("nan"), "score_threshold is 'nan', expected float"),
        ("preprocessing.at_canvas", 1, "at_canvas is '1', expected bool"),
        ("preprocessing.task", "vis", "TASK"),
        ("preprocessing.longest", -5, "MAX_SIZE_TEST is '-5'; expected a whole number of 1"),
        ("preprocessing.window", 0, "WINDOW_SIZE is '0'; expected a whole number of 1"),
        ("preprocessing.overlap_threshold", 3.0, "OVERLAP_THRESHOLD is '3.0'; expected a number of 0 to 1"),
        ("preprocessing.colour", 3, "has the setting 'colour', unknown to this version"),
        ("segmenter", [], "expected settings"),
        ("segmenter.widths", [None, 48, 96, 128], "widths is"),
        ("segmenter.widths", [48, 96, 128], "widths is"),
        ("segmenter.depths", [1, 1, 1, "x"], "depths is"),
        ("segmenter.block", "round", "block is 'round'"),
        ("segmenter.block", ["basic"], "block is"),
        ("segmenter.heads", 0, "sizes that no model has|describes no model|heads"),
        ("segmenter.heads", -4, "sizes that no model has|heads"),
        ("segmenter.decoder_layers", 1e300, "decoder_layers is '1e\\+300', expected int"),
        ("segmenter.decoder_layers", 10**9, "sizes that no model has"),
        ("segmenter.decoder_hidden", 10**11, "sizes that no model has"),
        ("segmenter.classes", 10**6, "another architecture"),
        ("segmenter.queries", 10**6, "another architecture"),
        ("segmenter.later", 1, "has the setting 'later', unknown to this version"),
        ("video", None, "expected settings"),
        ("video.depth", 7, "entries are missing"),
        ("video.depth", 10**6, "sizes that no model has"),
        ("kind", "stereo", "its card says 'stereo'"),
        ("kind", ["online"], "its card says"),
        ("kind", "ctvis", "holds the online model"),
    ],
)
def test_odd_cards_are_one_sentence(file: Path, key: str, value: Any, problem: str) -> None:
    def edit(_: dict[str, Any], card: dict[str, Any]) -> None:
        *groups, name = key.split(".")
        (card[groups[0]] if groups else card)[name] = value

    rewrite(file, edit)
    with pytest.raises(UserError, match=problem) as error:
        load(file, mmor())
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "3", "[]", "null", '{"kind": "online"}'])
def test_cards_that_are_no_cards(file: Path, text: str) -> None:
    rewrite(file, lambda _header, _card: text)
    with pytest.raises(UserError, match="card"):
        load(file, mmor())


def test_a_card_of_great_sizes_costs_no_memory(file: Path) -> None:
    def edit(_: dict[str, Any], card: dict[str, Any]) -> None:
        card["segmenter"]["classes"] = 1_000_000

    rewrite(file, edit)

    def attempt() -> None:
        with pytest.raises(UserError, match="another architecture"):
            load_model(file)

    assert peak_bytes(attempt) < 2 * file.stat().st_size


@pytest.mark.parametrize("form", [".safetensors", ".pth"])
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.bool])
def test_weights_of_another_type_are_named(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match=f"res3.0.conv2.weight is stored as {dtype}"):
        _load_changed(tmp_path, form, lambda tensor: tensor.to(dtype))


@pytest.mark.parametrize("form", [".safetensors", ".pth"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, form: str, value: float) -> None:
    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    with pytest.raises(UserError, match=r"res3\.0\.conv2\.weight holds values that are no numbers"):
        _load_changed(tmp_path, form, edit)


def _load_changed(folder: Path, form: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> VideoModel:
    from safetensors.torch import save_file

    model, path = _model("ctvis"), folder / f"model{form}"
    state = {name: tensor.clone() for name, tensor in published_state(model).items()}
    name = "backbone.res3.0.conv2.weight"
    state[name] = edit(state[name])
    if form == ".pth":
        torch.save({"model": state}, path)
    else:
        save_file(state, path)
    load_checkpoint(path, model)
    return model


def test_the_wrong_kind_of_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a scene-graph model \(mmor scene-graph infer\); choose another file"):
        load(SHIPPED / "scene_graph_small", mmor())
    torch.save({"model.layers.0.mlp.up_proj.weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no segmenter, but a language model"):
        load_checkpoint(tmp_path / "pytorch_model.bin", _model("ctvis"))
    with pytest.raises(UserError, match="holds neither"):
        load(tmp_path, mmor())


@pytest.mark.parametrize("form", ["published", "ours"])
def test_loading_holds_the_weights_once(tmp_path: Path, form: str) -> None:
    """A training's file has its optimiser inside, three times the model; it is mapped, not read."""
    model, path = _model("online"), tmp_path / ("m.pth" if form == "published" else "m.safetensors")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if form == "published":
        save_published(path, model)
        stored = torch.load(path, weights_only=True)
        torch.save(stored | {"trainer": {"optimizer": {"state": {0: torch.zeros(size)}}}}, path)
        assert peak_bytes(lambda: load_checkpoint(path, model)) < 0.1 * size
    else:
        save_model(path, model, ModelCard("online", TOY, SMALL_VIDEO))
        # Initial values of the largest parameter are drawn in a second tensor.
        largest = max(parameter.numel() * 4 for parameter in model.parameters())
        assert peak_bytes(lambda: load_model(path)) < size + 3 * largest
