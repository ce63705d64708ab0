"""The recording of a whole take, which may be hours long."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from operating_room.doctor.take_checks import check_recording
from operating_room.errors import UserError


def test_a_long_recording_is_never_held(tmp_path: Path) -> None:
    import soundfile

    seconds, rate = 1200, 8000
    path = tmp_path / "sound.flac"
    soundfile.write(path, np.zeros(seconds * rate, np.int16), rate)
    tracemalloc.start()
    try:
        check_recording(path, float(seconds))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < seconds * rate * 4 / 2  # bytes: half of its samples
    with pytest.raises(UserError, match="ends after 1200 s, the take after 1300 s"):
        check_recording(path, 1300.0)
