"""What came out of loading a checkpoint, for both stages."""

from __future__ import annotations

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
