"""The sound around each second of a take, as clips in the published layout (data specification, section 9)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from operating_room import layout
from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.files import write_bytes
from operating_room.progress import track
from operating_room.readers import read_audio, read_json
from operating_room.takes import MMOR, Take
from operating_room.transcripts import audio_window

Samples = Float32[np.ndarray, "samples channels"]


def preprocess_audio(dataset: Dataset, takes: Sequence[Take]) -> int:
    """Write the clip of each second of these takes as mp3; clips that exist are kept. Returns how many were written.

    Takes without a recording have no sound and are passed over.

    Raises:
        UserError: a recording or its list of seconds is damaged.
    """
    written = 0
    for take in track(takes, "audio clips"):
        root = dataset.take(take).root
        times = [time for time in take_times(root, take) if not layout.audio_clip(root, take, time).is_file()]
        for time, samples, rate in clips(root, take, times):
            write_bytes(layout.audio_clip(root, take, time), encode_mp3(samples, rate))
            written += 1
    return written


def clips(root: Path, take: Take, times: Iterable[str]) -> Iterator[tuple[str, Samples, int]]:
    """Time stamp, samples and rate of the clip around each of these times; the recording is decoded once.

    Nothing comes out for a take without recording, or for a time after the end of the recording.
    """
    times = list(times)
    path = layout.recording(root, take)
    if not times or not path.exists():
        return
    samples, rate = read_audio(path)
    for time in times:
        start, duration = audio_window(int(time))
        clip = samples[start * rate : (start + duration) * rate]
        if len(clip):
            yield time, clip, rate


def take_times(root: Path, take: Take) -> list[str]:
    """The six-digit time stamps of a take in order; none for a take without this list, like those of 4D-OR.

    Raises:
        UserError: the file is damaged or has another form.
    """
    path = layout.take_json(root, take)
    if take.dataset != MMOR or not path.exists():
        return []
    try:
        seconds = sorted(int(key) for key in read_json(path)["timestamps"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: expected {{"timestamps": {{"0": ...}}}}; copy it again') from error
    return [f"{second:06d}" for second in seconds]


def encode_mp3(samples: Samples, rate: int) -> bytes:
    """The samples as mp3."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3")
    return buffer.getvalue()
