"""What a number was computed with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from operating_room.scores import fingerprints
from tests.operating_room.tiny_dataset import write


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
