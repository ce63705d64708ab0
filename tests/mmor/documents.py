"""What the documents tell a user to type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ENVIRONMENT = re.compile(r"^(?:[A-Z_]+=\S* )*")


@dataclass(frozen=True)
class Command:
    """A command of this project in a document."""

    document: Path
    text: str  # `mmor data check DIR`
    is_whole: bool  # stands in a block, to be typed as it is; else it is mentioned, and may lack options


def commands(document: Path) -> list[Command]:
    """Every command `mmor ...`, in the order of the document: of blocks without comments, and those in running text."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(f"({_BLOCK.pattern})|`([^`]+)`", text, _BLOCK.flags):
        language, block, mentioned = match[2], match[3], match[4]
        if language == "text":  # what a command says
            continue
        if block is None:
            words = " ".join(mentioned.split())
            found += [Command(document, words, False)] if words.startswith("mmor ") else []
            continue
        for line in block.replace("\\\n", " ").splitlines():
            line = _ENVIRONMENT.sub("", re.sub(r"(^|\s)#.*", "", line)).strip().removesuffix(" || true")
            found += [Command(document, line, True)] if line.startswith("mmor ") else []
    return found
