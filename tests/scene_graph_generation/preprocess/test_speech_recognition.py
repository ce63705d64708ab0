"""Transcripts of recordings without subtitles: what faster-whisper hears, and what it lacks."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_json, read_subtitles
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts, transcribe
from tests.operating_room.published import place
from tests.operating_room.tiny_dataset import sound

TAKE, OTHER = mmor().find_take("001_PKA"), mmor().find_take("002_PKA")


class FakeWhisper:
    """Speech recognition that hears two sentences, or nothing."""

    heard = ((0.1, 0.9, " the saw"), (1.25, 2.0, " thank you"))

    def __init__(self, name: str) -> None:
        if name == "absent":
            raise OSError("no such model")

    def transcribe(self, path: str) -> tuple[list[types.SimpleNamespace], None]:
        """Segments and information, as faster-whisper gives them."""
        return [types.SimpleNamespace(start=start, end=end, text=text) for start, end, text in self.heard], None


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("faster_whisper")
    module.WhisperModel = FakeWhisper  # ty: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)


@pytest.mark.usefixtures("whisper")
def test_speech_recognition_writes_missing_transcripts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = place(root / "MM-OR_data", "subtitles", TAKE)
    missing.unlink()
    assert transcribe(Dataset(root), [TAKE, OTHER], "small").require() == 1
    assert [(cue.start_s, cue.end_s, cue.text) for cue in read_subtitles(missing)] == [
        (0.1, 0.9, "the saw"),
        (1.25, 2.0, "thank you"),
    ]
    assert preprocess_transcripts(Dataset(root), [TAKE, OTHER]).require() == 6
    assert read_json(place(root / "MM-OR_data", "transcript", TAKE, time="000002")) == {"text": "the saw thank you"}
    missing.unlink()
    monkeypatch.setattr(FakeWhisper, "heard", ())
    (problem,) = transcribe(Dataset(root), [TAKE], "small").problems
    assert "no speech was recognised" in problem


@pytest.mark.usefixtures("whisper")
def test_a_whisper_model_that_is_not_there_is_named(root: Path) -> None:
    place(root / "MM-OR_data", "subtitles", TAKE).unlink()
    with pytest.raises(UserError, match="Whisper model absent cannot be loaded"):
        transcribe(Dataset(root), [TAKE], "absent")


def test_without_faster_whisper_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    place(root / "MM-OR_data", "subtitles", TAKE).unlink()
    with pytest.raises(UserError, match=r"mmor\[asr\]"):
        transcribe(Dataset(root), [TAKE], "not yet loaded")


@pytest.mark.usefixtures("whisper")
def test_no_model_is_loaded_where_all_takes_have_subtitles(root: Path) -> None:
    """It was, and `preprocess transcripts --transcribe` ended with an error without a network."""
    assert transcribe(Dataset(root), [TAKE, OTHER], "absent").require() == 0
    place(root / "MM-OR_data", "subtitles", OTHER).unlink()
    place(root / "MM-OR_data", "recording", OTHER).unlink()  # nothing to hear
    assert transcribe(Dataset(root), [TAKE, OTHER], "absent").require() == 0


@pytest.mark.usefixtures("whisper")
def test_speech_is_recognised_again_in_another_recording(root: Path) -> None:
    path, recording = (place(root / "MM-OR_data", name, TAKE) for name in ("subtitles", "recording"))
    assert transcribe(Dataset(root), [TAKE], "small").require() == 0  # subtitles of the dataset
    path.unlink()
    assert transcribe(Dataset(root), [TAKE], "small").require() == 1
    assert transcribe(Dataset(root), [TAKE], "small").require() == 0
    recording.write_bytes(sound(2.5))
    assert transcribe(Dataset(root), [TAKE], "small").require() == 1
    path.write_text(path.read_text().replace("saw", "drill"))  # by a person
    recording.write_bytes(sound(3.5))
    assert transcribe(Dataset(root), [TAKE], "small").require() == 0


@pytest.mark.usefixtures("whisper")
def test_speech_recognition_whose_gpu_libraries_are_missing_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segments(*_: Any) -> tuple[Iterator[Any], None]:
        def each() -> Iterator[Any]:
            raise RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")
            yield

        return each(), None

    monkeypatch.setattr(FakeWhisper, "transcribe", segments)
    for take in (TAKE, OTHER):
        place(root / "MM-OR_data", "subtitles", take).unlink()
    problems = transcribe(Dataset(root), [TAKE, OTHER], "small").problems
    assert ["libcublas.so.12" in problem and "CUDA_VISIBLE_DEVICES=" in problem for problem in problems] == [True, True]
