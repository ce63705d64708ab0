"""`mmor live` with models that are shown no masks or hear nothing: in a room without categories, for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.domain.domain import mmor
from operating_room.domain.labels import Labels
from operating_room.domain.stored import store_domain
from operating_room.files.atomic import write_json
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import MM2SGConfig, to_mapping
from tests.operating_room.tiny_dataset import write_dataset


def test_a_room_without_categories_is_followed_without_a_segmenter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled one was taken for it, and refused as one of another domain."""
    write_dataset(tmp_path)
    store_domain(tmp_path, replace(mmor(), labels=Labels()))
    settings = MM2SGConfig(masks=0)
    assert "masks" in settings.modalities  # as of the small experiment file
    write_json(tmp_path / "model" / "config.json", to_mapping(settings))
    model = SimpleNamespace(settings=settings)
    asked = list[object]()
    monkeypatch.setattr("mmor.cli.live.load_generator", lambda *_, **__: SimpleNamespace(model=model))
    monkeypatch.setattr("scene_graph_generation.inference.generator.check_sees", lambda *_: None)
    monkeypatch.setattr("mmor.cli.live._segmenter", lambda *_: pytest.fail("of another domain"))
    monkeypatch.setattr("mmor.live.live.live", lambda *given: (asked.append(given[1]), (_ for _ in ()))[1])
    words = ["live", "--replay", "001_PKA", "--data", str(tmp_path), "--model", str(tmp_path / "model")]
    words += ["--audio-encoder", "mel"]
    assert Dataset(tmp_path).domain.labels == Labels()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.exception
    assert asked == [None]
    assert "note: taking" not in result.output
    refused = CliRunner().invoke(app, [*words, "--segmenter", "somewhere"])
    assert "--segmenter somewhere" in str(refused.exception)
    assert "reads no masks of these takes; leave it out" in str(refused.exception)


def test_an_encoder_of_sound_for_a_model_that_hears_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path)
    write_json(tmp_path / "model" / "config.json", to_mapping(MM2SGConfig(modalities=("views",))))
    monkeypatch.setattr("mmor.cli.live.load_generator", lambda *_, **__: pytest.fail("minutes of loading"))
    words = ["live", "--replay", "001_PKA", "--data", str(tmp_path), "--model", str(tmp_path / "model")]
    refused = CliRunner().invoke(app, [*words, "--audio-encoder", "mel"])
    assert f"--audio-encoder mel: {tmp_path / 'model'} hears nothing; leave it out" in str(refused.exception)
