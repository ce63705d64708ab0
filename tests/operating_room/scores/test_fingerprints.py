"""What a number was computed with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from operating_room.scores import fingerprints


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    before = fingerprints.code_version()
    monkeypatch.setattr(fingerprints, "version", version)
    assert fingerprints.installed_version() == "not installed"
    assert fingerprints.code_version() == {"mmor": "not installed", "source": before["source"]}
