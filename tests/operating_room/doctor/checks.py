"""What tests of `mmor data check` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from operating_room.doctor import checkup as doctor
from operating_room.doctor.checkup import Checkup, Finding, Severity
from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import MMOR_NAME

DOMAIN = mmor()
FOURDOR_FOLDER = "4D-OR_data/export_holistic_take1_processed"
TAKE = f"MM-OR_data/{MMOR_NAME}"


def check(root: Path, names: Sequence[str] | None = None) -> Checkup:
    return doctor.check(Dataset(root, DOMAIN), names)


def broken(report: Checkup) -> list[Finding]:
    return [finding for finding in report.findings if finding.severity == Severity.BROKEN]
