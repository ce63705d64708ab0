"""The recording of a simulated surgery: tools, suction, monitor, voices and the room itself.

What can be heard is made from the graphs second by second; how it sounds (pitch of drill, saw and voices, loudness,
noise, echo) differs from take to take by seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from operating_room.files.readers import Subtitle
from operating_room_simulator.story.story import Surgery

RATE = 16_000  # samples per second
_TILE_S = 7.0  # noise is made for this long and repeated; not a whole number of any rhythm below

Wave = Float32[np.ndarray, " samples"]


@dataclass(frozen=True)
class _Voices:
    """How one take sounds."""

    drill_hz: float
    saw_hz: float  # body of the rasp
    rasp_hz: float  # strokes per second
    hammer_hz: float  # ring of a blow
    blow_s: float  # between two blows
    beep_hz: float
    pulse_s: float  # between two beeps
    speakers: tuple[float, ...]  # pitch in Hz
    hum_hz: float
    noise: float
    echoes: tuple[float, ...]  # delays in s


def waveform(surgery: Surgery, said: Sequence[Subtitle], start: int = 0) -> Wave:
    """Mono sound in -1..1 at `RATE`; the first moment begins `start` seconds into the recording.

    Drills whine steadily, saws rasp in strokes, hammers click, suction hisses while the patient is cleaned, a monitor
    beeps while there is a patient, and something babbles wherever the transcript has words.
    """
    rng = np.random.default_rng(zlib.crc32(f"sound {surgery.take.sample_name} {surgery.seed}".encode()))
    voices = _draw_voices(rng)
    samples = (start + len(surgery.moments)) * RATE
    wave = voices.noise * _noise(rng, samples, 20.0, 1200.0)
    for part in _minutes(samples):
        wave[part] += _hum(voices, part)
    sources = {"drilling": _drill, "sawing": _saw, "hammering": _hammer, "cleaning": _suction}
    for predicate, source in sources.items():
        for part in _runs([any(t.predicate == predicate for t in m.triplets) for m in surgery.moments], start):
            length = part.stop - part.start
            wave[part] += source(rng, voices, length) * _fade(length)
    for part in _runs(["patient" in moment.people for moment in surgery.moments], start):
        for minute in _minutes(part.stop - part.start):
            wave[part][minute] += _monitor(voices, minute)
    for subtitle in said:
        part = slice(round(subtitle.start_s * RATE), min(samples, round(subtitle.end_s * RATE)))
        if part.stop > part.start:
            wave[part] += _babble(rng, voices, subtitle.text, part.stop - part.start)
    wave = _echo(wave, voices.echoes)
    return np.clip(wave, -0.98, 0.98, out=wave)


def _draw_voices(rng: np.random.Generator) -> _Voices:
    return _Voices(
        drill_hz=rng.uniform(1500, 2200),
        saw_hz=rng.uniform(500, 900),
        rasp_hz=rng.uniform(8, 13),
        hammer_hz=rng.uniform(2300, 3600),
        blow_s=rng.uniform(0.42, 0.7),
        beep_hz=rng.choice((660.0, 880.0, 988.0, 1175.0)),
        pulse_s=60 / rng.uniform(55, 95),
        speakers=tuple(rng.uniform(90, 230, size=4)),
        hum_hz=rng.choice((50.0, 60.0, 100.0)),
        noise=rng.uniform(0.006, 0.02),
        echoes=tuple(rng.uniform(0.2, 1.0, size=4) * rng.uniform(0.05, 0.15)),
    )


def _noise(rng: np.random.Generator, samples: int, low: float, high: float) -> Wave:
    """Noise of unit strength between two frequencies (Hz), repeating after some seconds."""
    tile = int(_TILE_S * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(tile))
    frequencies = np.fft.rfftfreq(tile, 1 / RATE)
    spectrum *= 1 / (1 + (low / np.maximum(frequencies, 1)) ** 4) / (1 + (frequencies / high) ** 4)
    noise = np.fft.irfft(spectrum, tile)
    return np.resize((noise / noise.std()).astype(np.float32), samples)


def _time(samples: int) -> Wave:
    return np.arange(samples, dtype=np.float32) / RATE


def _minutes(samples: int) -> Iterator[slice]:
    """Parts to make one after the other: what is made of a whole recording at once takes gigabytes an hour."""
    for first in range(0, samples, 60 * RATE):
        yield slice(first, min(first + 60 * RATE, samples))


def _hum(voices: _Voices, part: slice) -> Float[np.ndarray, " samples"]:
    time = np.arange(part.start, part.stop).astype(np.float32) / RATE
    return 0.004 * np.sin(2 * np.pi * voices.hum_hz * time)


def _drill(rng: np.random.Generator, voices: _Voices, samples: int) -> Wave:
    """A motor: a high tone with two overtones that sags a little under load."""
    time = _time(samples)
    sag = 1 + 0.015 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6))
    phase = 2 * np.pi * voices.drill_hz * np.cumsum(sag, dtype=np.float64) / RATE
    tone = np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase)
    return (0.11 * tone + 0.02 * _noise(rng, samples, 1500.0, 4000.0)).astype(np.float32)


def _saw(rng: np.random.Generator, voices: _Voices, samples: int) -> Wave:
    """Strokes of broad-band rasp over a growl."""
    time = _time(samples)
    stroke = np.maximum(np.sin(2 * np.pi * voices.rasp_hz * time), 0) ** 2
    growl = np.sign(np.sin(2 * np.pi * voices.saw_hz / 4 * time))
    return (stroke * (0.22 * _noise(rng, samples, voices.saw_hz, 2500.0) + 0.05 * growl)).astype(np.float32)


def _hammer(rng: np.random.Generator, voices: _Voices, samples: int) -> Wave:
    """Blows: short clicks that ring."""
    ring = int(0.12 * RATE)
    time = _time(ring)
    blow = np.exp(-time * 45) * np.sin(2 * np.pi * voices.hammer_hz * time)
    blow += np.exp(-time * 300) * rng.standard_normal(ring)
    wave = np.zeros(samples + ring, np.float32)
    at = rng.uniform(0, voices.blow_s)
    while at * RATE < samples:
        place = int(at * RATE)
        wave[place : place + ring] += (rng.uniform(0.45, 0.7) * blow).astype(np.float32)
        at += voices.blow_s * rng.uniform(0.9, 1.1)
    return wave[:samples]


def _suction(rng: np.random.Generator, _: _Voices, samples: int) -> Wave:
    """A steady hiss with gurgles."""
    gurgle = 1 + 0.5 * np.maximum(np.sin(2 * np.pi * 1.7 * _time(samples)), 0)
    return (0.05 * gurgle * _noise(rng, samples, 3500.0, 7000.0)).astype(np.float32)


def _monitor(voices: _Voices, part: slice) -> Wave:
    time = np.arange(part.start, part.stop).astype(np.float32) / RATE
    beeping = (time % np.float32(voices.pulse_s)) < 0.07
    return (0.02 * beeping * np.sin(2 * np.pi * voices.beep_hz * time)).astype(np.float32)


def _babble(rng: np.random.Generator, voices: _Voices, text: str, samples: int) -> Wave:
    """Syllables of a pulse train through a moving resonance: sounds like speech, says nothing."""
    time = _time(samples)
    pitch = voices.speakers[zlib.crc32(text.encode()) % len(voices.speakers)]
    syllables = rng.uniform(0.2, 1.0, size=int(samples / RATE * 5) + 2)
    loudness = np.interp(time * 5, np.arange(len(syllables)), syllables * (np.arange(len(syllables)) % 2))
    glide = pitch * (1 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * time))
    phase = 2 * np.pi * np.cumsum(glide, dtype=np.float64) / RATE
    resonance = rng.uniform(3, 8)  # in harmonics of the pitch
    harmonics = np.arange(1, 13)
    strengths = np.exp(-((harmonics - resonance) ** 2) / 8) + 0.6 / harmonics
    tone = sum(strength * np.sin(n * phase) for n, strength in zip(harmonics, strengths, strict=True))
    return (0.03 * loudness * tone).astype(np.float32)


def _fade(samples: int) -> Wave:
    """A tool starts and stops within a tenth of a second."""
    ramp = np.arange(samples, dtype=np.float32) / (0.1 * RATE)
    return np.minimum(np.minimum(ramp, ramp[::-1]), 1)


def _echo(wave: Wave, delays: Sequence[float]) -> Wave:
    """The room's answer: a few late, weaker copies."""
    result = wave.copy()
    for delay in delays:
        shift = int(delay * RATE)
        result[shift:] += np.float32(0.25) * wave[:-shift]
    return result


def _runs(active: Sequence[bool] | Bool[np.ndarray, " seconds"], start: int) -> Iterator[slice]:
    """Sample ranges of the runs of active seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(active, int), [0]])))
    for begin, end in edges.reshape(-1, 2).tolist():
        yield slice((start + begin) * RATE, (start + end) * RATE)
