"""Which words and which sound belong to a second of a take (data specification, section 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from operating_room.files.readers import Subtitle, read_subtitles
from operating_room.recordings.questions import read_speech
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint

SUBTITLES = 4  # how many are remembered
CHARACTERS = 200  # how much of their text
CLIP_S = 2  # length of a clip of sound
SETTINGS = ".settings"  # how the files of a folder were made; begins the name of a JSON file in it
WINDOW, CAUSAL = "window", "causal window"  # in the settings beside clips and vectors of sound


def spoken_text(subtitles: Sequence[Subtitle], second: int | float) -> str:
    """What was said up to a second: the last four subtitles that have ended by then, their last 200 characters.

    "Last" is meant in file order, as published, even where the file is not sorted by time.
    """
    ended = [subtitle.text for subtitle in subtitles if subtitle.end_s <= second]
    return " ".join(ended[-SUBTITLES:])[-CHARACTERS:]


def spoken_texts(subtitles: Sequence[Subtitle], seconds: Iterable[int | float]) -> dict[int | float, str]:
    """`spoken_text` of each second."""
    return {second: spoken_text(subtitles, second) for second in seconds}


def words_of(recorded: RecordedTake) -> Callable[[Timepoint], str | None]:
    """Tells what was said up to a timepoint: as it was prepared, or else by the take's subtitles, read once; or None.

    What it returns raises a UserError where these are damaged.
    """

    @cache
    def subtitles() -> Sequence[Subtitle]:
        path = recorded.path("subtitles")
        return () if path is None or not recorded.has(path) else read_subtitles(path)

    def words(timepoint: Timepoint) -> str | None:
        if (path := timepoint.one("transcript")) is not None:
            return read_speech(path)
        return spoken_text(subtitles(), recorded.at(timepoint.time)) if subtitles() else None

    return words


def audio_window(second: int | float, causal: bool = False) -> tuple[int | float, int | float]:
    """Start and duration in s of the sound that belongs to a second.

    The published window reaches one second into the future: [t - 1, t + 1], cut at the start of the take (quirk 8 of
    section 11). The causal one is [t - 2, t]; at second 0 it is empty.
    """
    end = second if causal else second + 1
    start = max(0, end - CLIP_S)
    return start, end - start
