"""What came out of loading a checkpoint, and what a file is that was taken for one, for both stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoadReport:
    """What a file or folder gave to a model, under published names."""

    path: Path
    matched: list[str]
    missing: list[str]  # in the model, not in the file
    unexpected: list[str]  # in the file, not in the model
    reshaped: list[str]  # in both with different shapes

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.matched)} entries loaded"]
        for what in ("missing", "unexpected", "reshaped"):
            if names := getattr(self, what):
                rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:3])}{rest}")
        return "\n".join(lines)


_KINDS = (  # an entry's name begins with -> what has such entries, and what is done with it
    (
        ("model.segmenter.",),
        "a checkpoint of a segmenter training",
        "mmor panoptic train --resume; the models of its steps are the model_*.pth beside its folder",
    ),
    (("backbone.", "sem_seg_head."), "a segmenter", "mmor panoptic predict"),
    (("base_model.model.", "pooler.", "language."), "a scene-graph model", "mmor scene-graph infer"),
    (("model.layers.", "model.embed_tokens."), "a language model", "a base of scene-graph models"),
    (("vision_model.", "text_model."), "a CLIP", "a base of scene-graph models"),
)


def told_by_names(names: Iterable[str]) -> str:
    """What a file with entries of these names is, for the message to somebody who gave the wrong one."""
    names = list(names)
    for beginnings, kind, use in _KINDS:
        if any(name.startswith(beginnings) for name in names):
            return f"{kind} ({use})"
    return "no model of this program"
