"""Which words and which sound belong to a second of a take (data specification, section 9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from operating_room.files.readers import Subtitle

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


def audio_window(second: int | float, causal: bool = False) -> tuple[int | float, int | float]:
    """Start and duration in s of the sound that belongs to a second.

    The published window reaches one second into the future: [t - 1, t + 1], cut at the start of the take (quirk 8 of
    section 11). The causal one is [t - 2, t]; at second 0 it is empty.
    """
    end = second if causal else second + 1
    start = max(0, end - CLIP_S)
    return start, end - start
