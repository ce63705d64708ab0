"""What is asked of a recording, counted: of large ones nobody waits for all of it."""

from __future__ import annotations

import pytest

from operating_room.recordings.index import Element
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint


def timepoints_looked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the frame id of each timepoint whose files are looked for from now on."""
    looked_for: list[str] = []
    expected_of = RecordedTake.expected_of

    def counted(self: RecordedTake, element: Element) -> Timepoint:
        looked_for.append(element.frame_id)
        return expected_of(self, element)

    monkeypatch.setattr(RecordedTake, "expected_of", counted)
    return looked_for
