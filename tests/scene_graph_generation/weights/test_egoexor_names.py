"""EgoExOR's checkpoint in its published form: names and shapes of egoexor.md, section 9, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from operating_room.errors import UserError
from scene_graph_generation.weights.checkpoints import load_model
from scene_graph_generation.weights.fine_tuned import load_fine_tuned, read_fine_tuned, save_published
from tests.scene_graph_generation.model.test_two_branches import ALL, EGOEXOR
from tests.scene_graph_generation.tiny_bases import SETTINGS, fine_tuned, write_bases

TUNED = replace(EGOEXOR, language=SETTINGS.language, max_length=SETTINGS.max_length)
WEIGHTS = "non_lora_trainables.bin"
POOLER = "base_model.model.model.image_pooler."


def published_shapes() -> dict[str, tuple[int, ...]]:
    """What the section lists of the image pooler, at the width, layers and positions of the tiny model."""
    pooler, width = TUNED.pooler, TUNED.vision.width
    inner, views = pooler.body_width, pooler.max_views * TUNED.vision.tokens
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (1, width),
        "bert.embeddings.position_embeddings.weight": (views, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "bert.embeddings.position_ids": (1, views),
        "bert.embeddings.token_type_ids": (1, views),
        "bert.embeddings.LayerNorm.weight": (width,),
        "bert.embeddings.LayerNorm.bias": (width,),
        "bert.pooler.dense.weight": (width, width),
        "bert.pooler.dense.bias": (width,),
        "gaze_encoder.mlp.0.weight": (inner, 3),
        "gaze_encoder.mlp.2.weight": (width, inner),
        "hand_encoder.mlp.0.weight": (inner, 16),
        "hand_encoder.mlp.2.weight": (width, inner),
        "audio_projector.weight": (width, pooler.audio_width),
        "audio_projector.bias": (width,),
        "point_transformer.project_pc.weight": (width, TUNED.points.channels[-1]),
    }
    for name in ("gaze_encoder.mlp.0", "hand_encoder.mlp.0"):
        shapes[f"{name}.bias"] = (inner,)
    for name in ("gaze_encoder.mlp.2", "hand_encoder.mlp.2"):
        shapes[f"{name}.bias"] = (width,)
    for layer in range(3):
        start = f"bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            shapes[f"{start}attention.self.{name}.weight"] = (width, width)
        shapes[f"{start}intermediate.dense.weight"] = (pooler.mlp, width)
        shapes[f"{start}output.dense.weight"] = (width, pooler.mlp)
    return {POOLER + name: shape for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published folder: its config.json says nothing of the pooler."""
    root = tmp_path_factory.mktemp("egoexor")
    language, vision = write_bases(root / "bases", settings=TUNED)
    save_published(root / "tuned", fine_tuned(TUNED), str(language), str(vision))
    path = root / "tuned" / "config.json"
    config = json.loads(path.read_text())
    own = [name for name, value in config.items() if isinstance(value, dict) and "pooler" in value]
    assert len(own) == 1
    config[own[0]]["pooler"] = {"mask_channels": list(TUNED.pooler.mask_channels)}
    del config[own[0]]["modalities"], config[own[0]]["masks"]
    path.write_text(json.dumps(config))
    return root / "tuned"


def test_files_have_the_published_names_and_shapes(folder: Path) -> None:
    """Section 9: names in the checkpoint."""
    state = torch.load(folder / WEIGHTS, weights_only=True)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert found.items() >= published_shapes().items()
    assert not [name for name in found if "segmasks_encoder" in name or "project_audio" in name]
    assert any(name.startswith(f"{POOLER}point_transformer.embedding.") for name in found)


def test_the_folder_loads_and_answers_like_the_model_it_was_written_from(folder: Path) -> None:
    model, report = load_fine_tuned(read_fine_tuned(folder), bits=32)
    assert model.settings == TUNED
    assert not report.unexpected
    assert not report.missing
    with torch.no_grad():
        expected = fine_tuned(TUNED).score_all([ALL]).logits
        assert torch.equal(model.score_all([ALL]).logits, expected)
    save_published(
        folder.parent / "again", model, str(folder.parent / "bases/language"), str(folder.parent / "bases/vision")
    )
    assert (folder.parent / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state.pop(f"{POOLER}hand_encoder.mlp.2.bias"), "hand_encoder.mlp.2.bias is missing"),
        (lambda state: state.pop(f"{POOLER}audio_projector.bias"), "audio_projector.bias is missing"),
        (lambda state: state.pop(f"{POOLER}audio_projector.weight"), "lacks a part of EgoExOR's image pooler"),
        (
            lambda state: state.update({f"{POOLER}foot_encoder.mlp.0.weight": torch.zeros(2, 2)}),
            "foot_encoder.mlp.0.weight is unknown",
        ),
        (
            lambda state: state.update({f"{POOLER}segmasks_encoder.conv1.weight": torch.zeros(2, 2)}),
            "segmasks_encoder.conv1.weight is unknown",
        ),
        (
            lambda state: state.update({f"{POOLER}gaze_encoder.mlp.2.weight": torch.zeros(2, 2)}),
            "gaze_encoder.mlp.2.weight has another shape",
        ),
    ],
)
def test_names_that_are_missing_or_unknown_are_told(
    folder: Path, tmp_path: Path, damage: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    for name in ("config.json", "adapter_config.json", "adapter_model.bin"):
        (tmp_path / name).symlink_to(folder / name)
    state = torch.load(folder / WEIGHTS, weights_only=True)
    damage(state)
    torch.save(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=said) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)
