"""Files that can be read and are of something else than their take: words of later, sound of hours, larger pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from operating_room.doctor.checkup import check
from operating_room.doctor.findings import Checkup, Severity
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from tests.operating_room.tiny_dataset import SRT, write
from tests.operating_room.tiny_house import FRAMES, array, write_house

SOUP = Path("takes/soup")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_house(tmp_path / "Kitchen_data")


def told(report: Checkup, severity: Severity) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == severity]


def test_subtitles_whose_clock_begins_at_an_hour(root: Path) -> None:
    """Every timepoint had empty words, and nobody said so."""
    write(root / SOUP / "transcript.srt", SRT.replace("00:00:0", "01:00:0"))
    dataset = Dataset(root)
    (message,) = told(check(dataset), Severity.BROKEN)
    expected = "transcript.srt: the first of its subtitles begins at 3600.1 s, and the take ends at 1.5 s"
    assert expected in message
    (problem,) = preprocess_transcripts(dataset, dataset.choose(None)).problems
    assert expected in problem
    assert (root / "takes" / "stew" / "transcripts" / "000000.json").exists()  # the other take has its words


def test_a_recording_far_longer_than_its_take_is_a_note(root: Path) -> None:
    """A period of 0.1 s in place of 1 s gave each timepoint the words and the sound of another."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8000 * 70), 8000, format="FLAC")
    write(root / SOUP / "sound.flac", buffer.getvalue())
    report = check(Dataset(root))
    (note,) = told(report, Severity.NOTE)
    assert "sound.flac: lasts 70 s and the take 2 s" in note
    assert report.exit_code == 0


@pytest.mark.parametrize("name", ["gaze", "hands"])
def test_places_that_are_told_for_larger_pictures_are_a_note(root: Path, name: str) -> None:
    """Pictures of 64x48 px, made of larger ones: a model took every place for the edge of the picture."""
    for frame in range(FRAMES):
        inside = frame == 0
        row = [1, 30, 20, 1] if name == "gaze" else [1, *[30, 20] * 4, *[np.nan] * 8]
        row = row if inside else [row[0], *(10 * number for number in row[1:])]
        write(root / SOUP / name / f"{frame:06d}.npy", array(np.array([row], np.float32)))
    report = check(Dataset(root))
    (note,) = told(report, Severity.NOTE)
    places = FRAMES if name == "gaze" else 4 * FRAMES
    assert f"{SOUP / name}: {places * 3 // 4} of {places} places of {name} that were looked at lie outside" in note
    assert report.exit_code == 0
