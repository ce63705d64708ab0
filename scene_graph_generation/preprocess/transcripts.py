"""What was said up to each second of a take (data specification, section 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

from computing.machine import choose_device
from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files.atomic import write_json, write_text
from operating_room.files.readers import check_subtitles, read_json, read_subtitles
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import spoken_texts
from operating_room.scores.fingerprints import content_fingerprint
from scene_graph_generation.preprocess.audio import sound_length
from scene_graph_generation.preprocess.run import SETTINGS, Outcome, each_take, missing, period_of, places, settle

WHISPER = "large-v3"


def preprocess_transcripts(dataset: Dataset, takes: Sequence[Take], workers: int = 1) -> Outcome:
    """Write the words of each second of these takes; files that exist are kept.

    Takes without a transcript are passed over.
    """
    return each_take(dataset, takes, _write_texts, "transcripts", workers)


def transcribe(dataset: Dataset, takes: Sequence[Take], model: str = WHISPER, workers: int = 1) -> Outcome:
    """Write the .srt of takes that have a recording and none yet, by speech recognition with faster-whisper.

    Args:
        dataset: where the takes are.
        takes: which ones.
        model: a Whisper model's name, or a local folder in faster-whisper's format.
        workers: takes at once; each loads the model.

    Raises:
        UserError: a take needs it, and faster-whisper is not installed, or the model is not here and cannot be fetched.
    """
    if any(_may_lack_subtitles(dataset.unkept(take)) for take in takes):
        _load_whisper(model)
    return each_take(dataset, takes, partial(_write_subtitles, model=model), "speech recognition", workers)


def _write_texts(recorded: RecordedTake) -> Iterator[Path]:
    path, files = recorded.path("subtitles"), places(recorded, "transcript")
    if path is None or not recorded.has(path) or not files:
        return
    folder = next(iter(files.values())).parent
    note = path.with_name(f".{path.stem}{SETTINGS}.json")
    names = [text.name for text in files.values()]
    settle(folder, {}, sources=[path], made=names, note=note, also=period_of(recorded))
    if texts := missing(recorded, files):
        spoken = spoken_texts(read_subtitles(path), [recorded.at(time) for time, _ in texts])
        for time, text in texts:
            write_json(text, {"text": spoken[recorded.at(time)]})
            yield text
    # What was written follows the order of the file, as published; that may be the wrong words, or none.
    check_subtitles(path, max(recorded.at(time) for time in files))


def _may_lack_subtitles(recorded: RecordedTake) -> bool:
    """As `_lacks_subtitles`; what is wrong with a take is told when it is read."""
    try:
        return _lacks_subtitles(recorded)
    except UserError:
        return True


def _lacks_subtitles(recorded: RecordedTake) -> bool:
    """Whether there is a recording, and no subtitles or our own of another recording."""
    recording, path = recorded.path("recording"), recorded.path("subtitles")
    if recording is None or path is None or not recorded.has(recording):
        return False
    return not recorded.has(path) or _is_outdated(path, _origin(path), recording)


def _write_subtitles(recorded: RecordedTake, model: str) -> Iterator[Path]:
    recording, path = recorded.path("recording"), recorded.path("subtitles")
    if recording is None or path is None or not _lacks_subtitles(recorded):
        return
    sound_length(recording)  # finds damage that decoders pass over
    heard = content_fingerprint([recording])
    import srt

    whisper = _load_whisper(model)
    try:
        segments, _ = whisper.transcribe(str(recording))
        cues = [  # what is heard, it hears while these are asked for, and its libraries of the GPU are loaded then
            srt.Subtitle(number, timedelta(seconds=segment.start), timedelta(seconds=segment.end), segment.text.strip())
            for number, segment in enumerate(segments, 1)
        ]
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        advice = "if that is of the GPU, hide it: CUDA_VISIBLE_DEVICES= mmor ..."
        raise UserError(f"{recording}: its speech cannot be recognised ({reason}); {advice}") from error
    if not cues:
        raise UserError(f"{recording}: no speech was recognised; the take stays without transcript")
    write_text(path, srt.compose(cues))
    write_json(_origin(path), {"recording": heard, "subtitles": content_fingerprint([path])})
    yield path


def _origin(subtitles: Path) -> Path:
    """The file with fingerprints of the recording that our own subtitles are of, and of themselves."""
    return subtitles.with_name(f".{subtitles.stem}.recognised.json")


def _is_outdated(path: Path, origin: Path, recording: Path) -> bool:
    """Whether subtitles are our own, of a recording that has changed since; those that a person has edited stay."""
    if not origin.exists():
        return False
    stored = read_json(origin)
    if not isinstance(stored, dict):
        raise UserError(f"{origin}: does not tell what the subtitles were heard in; remove it to keep them as they are")
    own = stored.get("subtitles") == content_fingerprint([path])
    return own and stored.get("recording") != content_fingerprint([recording])


@cache
def _load_whisper(model: str) -> Any:
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise UserError("speech recognition needs faster-whisper; install it: pip install 'mmor[asr]'") from error
    own = choose_device().index  # else the processes of all GPUs would load it onto the first one
    try:
        return WhisperModel(model, **({"device_index": own} if own else {}))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Whisper model {model} cannot be loaded ({reason}); connect to the hub, or give a folder"
        ) from error
