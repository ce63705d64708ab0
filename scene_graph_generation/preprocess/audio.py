"""The sound around each second of a take, as clips in the published layout (data specification, section 9)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files.atomic import write_bytes
from operating_room.files.mp3 import read_mp3
from operating_room.files.raw_files import utf8_path
from operating_room.files.readers import check_audio
from operating_room.files.sound_files import require_numbers, silent_decoder
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import CAUSAL, CLIP_S, WINDOW, audio_window
from scene_graph_generation.preprocess.run import Outcome, each_take, missing, period_of, places, settle

_BLOCK = 1 << 20  # samples that are decoded at once

Samples = Float32[np.ndarray, "_samples _channels"]


def preprocess_audio(dataset: Dataset, takes: Sequence[Take], causal: bool = False, workers: int = 1) -> Outcome:
    """Write the clip of each second of these takes as mp3; clips that exist are kept.

    Takes without a recording have no sound and are passed over. The recording is read once and not decoded.

    Args:
        dataset: where the takes are.
        takes: which ones.
        causal: clips end at their second; else the published window, which ends one second later.
        workers: takes at once.
    """
    return each_take(dataset, takes, partial(_write_clips, causal=causal), "audio clips", workers)


def _write_clips(recorded: RecordedTake, causal: bool) -> Iterator[Path]:
    recording, files = recorded.path("recording"), places(recorded, "audio")
    if recording is None or not recorded.has(recording) or not files:
        return
    folder = next(iter(files.values())).parent
    settings, names = {WINDOW: window_name(causal)}, [path.name for path in files.values()]
    settle(folder, settings, sources=[recording], made=names, also=period_of(recorded))
    if not (clips := missing(recorded, heard(recorded, files, causal))):
        return
    if recording.suffix == ".mp3":
        sound = read_mp3(recording)
        for time, path in clips:
            start, duration = audio_window(recorded.at(time), causal)
            if clip := sound.cut(round(start), round(start + duration)):
                write_bytes(path, clip)
                yield path
    else:
        import soundfile

        paths = dict(clips)
        for time, samples, rate in read_clips(recording, {time: recorded.at(time) for time in paths}, causal):
            kind = paths[time].suffix[1:]
            packed = io.BytesIO()  # libsndfile writes its last block without a word where the disk is full
            try:
                soundfile.write(packed, samples, rate, format=kind.upper())
            except (soundfile.SoundFileError, ValueError) as error:
                channels = samples.shape[1]
                told = f"its sound does not fit into clips of {kind}: {channels} channels, {rate} Hz ({error})"
                raise UserError(f"{recording}: {told}; convert it to fewer channels or another rate") from error
            write_bytes(paths[time], packed.getvalue())
            yield paths[time]
    require_whole(recording, sound_length(recording), recorded.at(clips[-1][0]))


def heard(recorded: RecordedTake, files: Mapping[str, Path], causal: bool) -> dict[str, Path]:
    """Those of `places` that there is sound for: before the first second is none, and a causal window ends there."""
    return {time: path for time, path in files.items() if audio_window(recorded.at(time), causal)[1] > 0}


def sound_length(recording: Path) -> float:
    """How long a recording is, in s.

    Raises:
        UserError: it is damaged.
    """
    return read_mp3(recording).duration_s if recording.suffix == ".mp3" else check_audio(recording)


def read_clips(recording: Path, times: Mapping[str, float], causal: bool = False) -> Iterator[tuple[str, Samples, int]]:
    """Time stamp, samples and rate in Hz of the sound around each of these times, which must be in order.

    The recording is decoded once from its beginning and never held as a whole. Nothing comes for a time after its end.

    Raises:
        UserError: the recording is damaged or empty, or no mp3 though it is called so.
    """
    import soundfile

    if recording.suffix == ".mp3":
        read_mp3(recording)  # finds damage that decoders pass over
    try:
        with utf8_path(recording) as opened, silent_decoder():
            file = soundfile.SoundFile(opened)
        with file:
            rate = file.samplerate
            held, end = np.zeros((0, file.channels), np.float32), 0  # the last samples, and where they end
            for time, second in times.items():
                start, duration = (round(seconds * rate) for seconds in audio_window(second, causal))
                while end < start + duration:
                    with silent_decoder():
                        block = file.read(_BLOCK, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    require_numbers(recording, block)  # or they would be in clips that the next run takes for good
                    held, end = np.concatenate([held[max(0, start - end + len(held)) :], block]), end + len(block)
                if len(clip := held[max(0, start - end + len(held)) :][:duration]) and start < end:
                    yield time, clip, rate
    except soundfile.SoundFileError as error:
        raise UserError(f"{recording}: cannot be decoded; copy it again from the dataset archive") from error


def require_whole(recording: Path, duration_s: float, last: float) -> None:
    """Compare the length of a recording with the last second of its take.

    Raises:
        UserError: more is missing than a clip.
    """
    if duration_s < last - CLIP_S:
        raise UserError(
            f"{recording}: ends after {duration_s:.0f} s, the take after {last:.0f} s; what is there has been used, "
            "copy the recording again from the dataset archive"
        )


def window_name(causal: bool) -> str:
    """How settings call the window of sound."""
    return CAUSAL if causal else "published window"
