"""What a microphone hears of a simulated take: a tone for each act, voices that say what is done, and noise."""

from __future__ import annotations

import random
import re
import zlib
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from operating_room.files.readers import Subtitle
from operating_room_simulator.any_room.story import Activity, Story

_LOWEST = 300.0  # Hz, of the first act; each next one is a sixth of an octave above
_TONE, _VOICE, _NOISE = 0.12, 0.06, 0.006
_LONGEST = 20.0  # s, of a sentence; those of usual names take 2
_SAID = 0.8  # share of what is begun that somebody speaks of


def second(story: Story, number: int, rate: int) -> Float32[np.ndarray, "samples 2"]:
    """A second of a take in stereo, in -1..1: whoever stands farther right in the list of people is heard more there.

    Args:
        story: the take.
        number: which second, from 0.
        rate: samples per second.
    """
    time = number + np.arange(rate) / rate
    noise = np.random.default_rng([story.seed, zlib.crc32(story.take.sample_name.encode()), number])
    wave = np.repeat(_NOISE * noise.standard_normal((rate, 1)), 2, axis=1)
    staff, kinds = story.cast.staff, list(story.cast.kinds)
    for activity in story.between(float(number), number + 1.0):
        if story.cast.kinds[activity.predicate] != "act":
            continue
        rank = kinds.index(activity.predicate)
        on = (time >= activity.start_s) & (time < activity.end_s) & ((time * (1 + rank % 4)) % 1 < 0.6)
        tone = _TONE * on * np.sin(2 * np.pi * _LOWEST * 2 ** (rank % 24 / 6) * time)
        wave += tone[:, None] * _panned(staff.index(activity.person), len(staff))
    speech = _speech(story)
    first = bisect_left(speech, number - _LONGEST, key=lambda each: each[0].start_s)
    last = bisect_left(speech, number + 1, key=lambda each: each[0].start_s)
    for said, speaker in speech[first:last]:
        wave += _voice(said, speaker, time)[:, None] * _panned(speaker, len(staff))
    return np.clip(wave, -0.98, 0.98).astype(np.float32)


def subtitles(story: Story) -> list[Subtitle]:
    """What is said in a take, in the order of time."""
    return [said for said, _ in _speech(story)]


def _panned(number: int, people: int) -> np.ndarray:
    right = (number + 0.5) / people
    return np.array([1 - 0.6 * right, 0.4 + 0.6 * right])


def _voice(said: Subtitle, speaker: int, time: np.ndarray) -> np.ndarray:
    """Syllables of some harmonics: sounds like speech, says nothing."""
    on = (time >= said.start_s) & (time < said.end_s) & ((time * 4.3) % 1 < 0.7)
    pitch = 110.0 * 1.19**speaker
    return _VOICE * on * sum(np.sin(2 * np.pi * n * pitch * time) / n for n in range(1, 7))


@lru_cache(maxsize=4)
def _speech(story: Story) -> list[tuple[Subtitle, int]]:
    """What is said, and the number of who says it."""
    draw = random.Random(f"speech {story.take.sample_name} {story.seed}")
    said: list[tuple[Subtitle, int]] = []
    quiet_from = 0.0
    for activity in story.activities:
        kind = story.cast.kinds[activity.predicate]
        if kind == "near" or activity.start_s < quiet_from or draw.random() > _SAID:
            continue
        text = _sentence(activity)
        end = min(activity.start_s + min(0.4 + 0.05 * len(text), _LONGEST), story.seconds)
        said.append(
            (Subtitle(round(activity.start_s, 3), round(end, 3), text), story.cast.staff.index(activity.person))
        )
        quiet_from = end + 0.2
    return said


def _sentence(activity: Activity) -> str:
    with_tool = f" with the {_words(activity.tool)}" if activity.tool else ""
    return f"{_words(activity.predicate).capitalize()} the {_words(activity.object)}{with_tool} now."


def _words(name: str) -> str:
    """`nextTo` and `next_to` as people say it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()
