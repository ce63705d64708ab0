"""What a number was computed with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.scores import fingerprints
from operating_room.work import progress
from tests.operating_room.tiny_dataset import write, write_dataset


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    before = fingerprints.code_version()
    monkeypatch.setattr(fingerprints, "version", version)
    assert fingerprints.installed_version() == "not installed"
    assert fingerprints.code_version() == {"mmor": "not installed", "source": before["source"]}


def test_a_hidden_file_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """._NAME beside each NAME, of a checkout that came from a Mac: predictions and scores ended in a traceback."""
    write(tmp_path / "a" / "b" / "c.py", "x = 1\n")
    monkeypatch.setattr(fingerprints, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    before = fingerprints.source_fingerprint("a/b/*.py")
    write(tmp_path / "a" / "b" / "._c.py", b"\x00\x05\x16\x07\xb0")
    assert fingerprints.source_fingerprint("a/b/*.py") == before


def test_looking_at_what_was_shown_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 10,000 timepoints on a network disk it takes minutes, after an evaluation has said that it is through."""
    write_dataset(tmp_path)
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    for look in (fingerprints.inputs_fingerprint, fingerprints.shown_fingerprint):
        look(Dataset(tmp_path), [Sample("001_PKA_MMOR", "000000", ())])
        assert "of what is shown 1/1" in capsys.readouterr().err
