"""What the documents say is there: commands with these options, files, sections. Nothing is run here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import operating_room.scores.downstream
import operating_room.scores.scoring
import operating_room.scores.triplets.details
import panoptic_segmentation.scores.evaluate
from mmor.cli import app
from scene_graph_generation.config.published_options import KNOWN
from tests.mmor.documents import DOCUMENTS, ROOT, Command, commands

COMMANDS = [command for document in DOCUMENTS for command in commands(document)]
_FILES = re.compile(r"`((?:\.\./)?(?:tests|scripts|configs|docs|operating_room|mmor|panoptic_segmentation"
                    r"|scene_graph_generation)/[\w./-]+\.(?:py|sh|yaml|json|md|txt))[:`]")  # fmt: skip


def told(command: Command) -> str:
    return f"{command.document.name}: {command.text[:60]}"


@pytest.mark.parametrize("command", COMMANDS, ids=told)
def test_commands_are_understood(command: Command) -> None:
    """Up to where they would begin to work: names, options and the form of values; of published trainings the names."""
    words = shlex.split(re.sub(r"[\[\]]", " ", command.text))[1:]
    words = [word for word in words if word not in ("...", "OPTIONS")]
    if "|" in words:  # `preprocess audio | masks | all`
        words = words[: words.index("|")]
    parser = typer.main.get_command(app)
    context = parser.make_context("mmor", [], resilient_parsing=True)
    while (known := getattr(parser, "commands", {})) and words and not words[0].startswith("-"):
        assert words[0] in known, f"{command.document}: there is no {command.text}"
        parser = known[words.pop(0)]
    try:
        context = parser.make_context(parser.name, words, parent=context)
    except Exception as error:
        kind = type(error).__name__  # of click, or of the copy that typer brings
        if kind == "Exit" or (kind in ("MissingParameter", "BadOptionUsage") and not command.is_whole):
            return
        raise AssertionError(f"{command.document}: {command.text}: {error}") from error
    for word in context.params.get("options") or ():
        name = word.lstrip("-").split("=")[0].replace("-", "_")
        assert not word.startswith("--") or name in KNOWN, f"{command.document}: {command.text}: no option {word}"
    for word in words:
        assert not word.startswith("configs/") or (ROOT / word).exists(), f"{command.document}: no {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (document.parent / link).exists()]
    missing += [file for file in _FILES.findall(text) if not (ROOT / file.removeprefix("../")).exists()]
    assert not missing


def test_the_readme_leads_to_every_document() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in DOCUMENTS if path.parts[-2] == "docs" and f"](docs/{path.name})" not in text]


def test_tests_named_in_documents_are_there() -> None:
    """`folder/test_file.py::test_name`, the folder and the file where they were named before."""
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    everything = "\n".join(written.values())
    named = 0
    for document in DOCUMENTS:
        for mentioned in re.findall(
            r"`((?:[\w/]+/)?test_\w+(?:\.py)?(?:::test_\w+)?)`", document.read_text(encoding="utf-8")
        ):
            file, _, function = mentioned.partition("::")
            if not file.endswith(".py"):
                file, function = "", file
            named += 1
            where = written.get(Path(file).name) if file else everything
            assert where is not None, f"{document.name}: there is no {file}"
            assert not function or f"def {function}(" in where, f"{document.name}: {file} has no {function}"
            assert "/" not in file or (ROOT / file).exists() or (ROOT / "tests" / file).exists(), f"no {file}"
    assert named > 80


@pytest.mark.parametrize(
    ("document", "definitions"),
    [
        ("evaluation.md", operating_room.scores.scoring.DEFINITIONS),
        ("evaluation.md", operating_room.scores.triplets.details.DEFINITIONS),
        ("downstream.md", operating_room.scores.downstream.DEFINITIONS),
        ("panoptic.md", panoptic_segmentation.scores.evaluate.DEFINITIONS),
    ],
)
def test_every_number_is_explained(document: str, definitions: dict[str, str]) -> None:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    assert not [name for name in definitions if f"`{name}`" not in text]
