"""The list of exact versions: complete, and allowed by pyproject.toml."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("dev", "quant", "deepspeed", "wandb", "asr")  # as scripts/lock.sh installs them
LINES = [line for line in (ROOT / "scripts/requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCKED = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for, extras of the list included."""
    extras = [text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *extras)]


def test_every_line_is_one_version() -> None:
    assert len(LOCKED) == len(LINES) > 50
    assert all(version and "+" not in version for version in LOCKED.values())


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_the_list_has_what_the_project_asks_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_the_list_has_what_its_packages_ask_for() -> None:
    """Of those that are installed here in the listed version; others cannot be asked."""
    asked = 0
    for name, version in LOCKED.items():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if found.version.partition("+")[0] != version:
            continue
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            asked += 1
            needed = canonicalize_name(requirement.name)
            if needed.startswith(("nvidia-", "cuda-", "triton")):  # torch itself names their versions
                continue
            assert needed in LOCKED, f"{name} needs {requirement}"
            assert requirement.specifier.contains(LOCKED[needed]), f"{name} needs {requirement}"
    if not asked:
        pytest.skip("no listed version is installed here")


def test_floors_are_versions() -> None:
    """An open range without a floor is a promise that nobody has tried (types of a package are only read)."""
    for requirement in wanted():
        if not requirement.name.startswith("types-"):
            assert any(one.operator in (">=", "==") for one in requirement.specifier), str(requirement)
