"""The result of `mmor data check`: what is there of each take, and what is wrong; as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN
from operating_room.domain.people import Person, people_table
from operating_room.recordings.modalities import BY_NAME, TABLE


class Severity(IntEnum):
    """How bad a finding is; the worst one is the exit code."""

    NOTE = 0  # worth knowing, and nothing is wrong
    GAP = 1  # something is not there
    BROKEN = 2  # something is there and cannot be used


@dataclass(frozen=True)
class Finding:
    """One problem; the message is one line and names the file."""

    severity: Severity
    path: Path
    message: str


@dataclass
class TakeFiles:
    """What is there of one take: number of files by modality, and by name for those that a take has once."""

    take: Take
    splits: tuple[str, ...]
    timepoints: int = 0
    found: Counter[str] = field(default_factory=Counter)
    expected: dict[str, int] = field(default_factory=dict)  # without those whose number cannot be told

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values, with the splits of the take."""
        names = [*self.expected, *(self.found.keys() - self.expected.keys())]
        files = {name: {"found": self.found[name], "expected": self.expected.get(name)} for name in names}
        description = {"take": self.take.name, "dataset": self.take.dataset, "splits": list(self.splits)}
        return {**description, "timepoints": self.timepoints, "files": files}


@dataclass(frozen=True)
class Checkup:
    """The result of `check`: print it, or store `to_json()`."""

    root: Path
    takes: tuple[TakeFiles, ...]
    findings: tuple[Finding, ...]  # the broken before the gaps
    opened: int  # files that were looked into
    people: tuple[Person, ...] = ()  # if a file of them was given

    @property
    def exit_code(self) -> int:
        """0 complete, 1 gaps, 2 broken files."""
        return max((int(finding.severity) for finding in self.findings), default=0)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "root": str(self.root),
            "exit_code": self.exit_code,
            "opened": self.opened,
            "takes": [take.to_json() for take in self.takes],
            **({"people": [asdict(person) for person in self.people]} if self.people else {}),
            "findings": [
                {"severity": finding.severity.name.lower(), "path": str(finding.path), "message": finding.message}
                for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        count = Counter(finding.severity for finding in self.findings)
        return "\n".join(
            [
                *_table(self.takes),
                "",
                *([*people_table(self.people), ""] if self.people else []),
                *(f"{finding.severity.name.lower():<6}  {finding.message}" for finding in self.findings),
                f"{len(self.takes)} takes, {self.opened} files opened: "
                f"{count[Severity.BROKEN]} broken, {count[Severity.GAP]} gaps",
            ]
        )


def _table(reports: Sequence[TakeFiles]) -> list[str]:
    """One line per take: found/expected files, or one number where nothing is missing."""
    shown = [row for row in TABLE if any(row.name in report.expected or report.found[row.name] for report in reports)]
    rows = [["take", "splits", "timepoints", *(row.column for row in shown), "take files"]]
    for report in reports:
        found, expected = report.found, report.expected
        once = [name for name in expected if name not in BY_NAME]
        cells = [_cell(found[row.name], expected.get(row.name, found[row.name])) for row in shown]
        total = _cell(sum(found[name] for name in once), len(once))
        splits = ", ".join(report.splits)
        rows.append([report.take.name, splits or OWN, str(report.timepoints), *cells, total])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _cell(found: int, expected: int) -> str:
    if found == expected:
        return str(found) if found else "-"
    return f"{found}/{expected}"
