from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from operating_room.domain.domain import mmor
from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.sensors.signals import subtitles
from operating_room_simulator.sensors.sound import RATE, waveform
from operating_room_simulator.story.story import Surgery, assemble, script_surgery


def _working(predicate: str, seed: int, seconds: int = 6) -> Surgery:
    """A surgery of one action."""
    take = mmor().find_take("001_PKA")
    graph = (Triplet("head_surgeon", "patient", predicate),)
    people = ("head_surgeon", "patient")
    moments = assemble(take, ["sawing"] * seconds, [graph] * seconds, [people] * seconds, ["Turn on"] * seconds)
    return Surgery(take, seed, moments)


def _loudness(surgery: Surgery) -> np.ndarray:
    """Energy per 16 ms and 500 Hz band."""
    frames = waveform(surgery, [])[RATE // 2 :].reshape(-1, RATE // 4)
    frames = frames.reshape(-1, RATE // 40)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return power[:, : power.shape[1] // 10 * 10].reshape(len(frames), 10, -1).mean(axis=2)


def _features(surgery: Surgery) -> tuple[float, float]:
    """How tonal the sound above 1 kHz is, and how unsteady."""
    spectrum = np.abs(np.fft.rfft(waveform(surgery, [])[RATE:])) ** 2
    high = spectrum[len(spectrum) // 8 :]
    bands = high[: len(high) // 200 * 200].reshape(200, -1).sum(axis=1)
    tonal = float(bands.max() / bands.sum())
    energy = _loudness(surgery)[:, 2:].sum(axis=1)
    return tonal, float(np.percentile(energy, 99) / np.median(energy))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_drill_saw_and_hammer_sound_different(seed: int) -> None:
    drill_tonal, drill_peaks = _features(_working("drilling", seed))
    saw_tonal, saw_peaks = _features(_working("sawing", seed))
    _, hammer_peaks = _features(_working("hammering", seed))
    assert drill_tonal > 2 * saw_tonal
    assert hammer_peaks > 5 * saw_peaks > 5 * drill_peaks / 2


def test_sound_is_where_the_action_is() -> None:
    surgery = script_surgery(mmor().find_take("001_PKA"), 1, 60)
    wave = waveform(surgery, [], start=2)
    assert len(wave) == 62 * RATE
    drilling = [any(t.predicate == "drilling" for t in m.triplets) for m in surgery.moments]
    energy = (wave.reshape(62, RATE) ** 2).mean(axis=1)[2:]
    quiet = [m.step in ("arrival", "draping") for m in surgery.moments]
    assert energy[drilling].min() > 4 * energy[quiet].max()


def _peak(wave: np.ndarray) -> int:
    return int(np.abs(np.fft.rfft(wave))[2000:].argmax())


def test_takes_sound_different_and_seeds_repeat() -> None:
    one = waveform(_working("drilling", 1), [])
    assert np.array_equal(one, waveform(_working("drilling", 1), []))
    assert _peak(one) != _peak(waveform(_working("drilling", 2), []))


def test_voices_are_where_the_transcript_has_words() -> None:
    surgery = script_surgery(mmor().collection("MMOR").published[3], 0, 60)
    said = subtitles(surgery)
    difference = np.abs(waveform(surgery, said) - waveform(surgery, []))
    middle = [round((s.start_s + s.end_s) / 2 * RATE) for s in said]
    assert difference[middle].mean() > 0
    assert np.abs(difference[: round(said[0].start_s * RATE)]).max() == 0


def test_two_minutes_take_less_than_two_cpu_seconds() -> None:
    surgery = script_surgery(mmor().find_take("001_PKA"), 1, 120)
    said: Sequence = subtitles(surgery)
    start = time.process_time()
    waveform(surgery, said)
    assert time.process_time() - start < 2


def test_an_hour_takes_no_gigabytes() -> None:
    """What is held at once, counted by NumPy's own allocations: 2 times 4 bytes a sample and little more."""
    surgery = script_surgery(mmor().find_take("001_PKA"), 1, 600)
    said = subtitles(surgery, 0)
    tracemalloc.start()
    waveform(surgery, said)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * 600 * RATE
