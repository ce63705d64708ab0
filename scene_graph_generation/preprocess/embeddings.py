"""The sound around each second as one vector (data specification, section 9).

CLAP is the published encoder; its weights come from the model hub. The mel descriptor is ours: fixed, without weights,
for the small model and for machines without a hub. Vectors of the two mean different things, and so do those of CLAP
fed in two ways: a model reads the kind that it was trained with.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from computing.machine import choose_device
from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files.atomic import write_bytes
from operating_room.files.raw_files import brief
from operating_room.files.readers import read_audio, read_json
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import SETTINGS, WINDOW
from scene_graph_generation.preprocess.audio import (
    Samples,
    heard,
    read_clips,
    require_whole,
    sound_length,
    window_name,
)
from scene_graph_generation.preprocess.run import Outcome, each_take, missing, period_of, places, settle

Encoder = Callable[[Sequence[Samples], int], Float[Tensor, "clips 512"]]  # clips of one rate, and that rate in Hz

Scaling = Literal["published", "peak"]

CLAP = "laion/larger_clap_general"
CLAP_RATE = 48_000  # Hz
BATCH = 32  # clips
MELS, TIME_BINS = 64, 8
_WINDOW_S, _HOP_S = 0.064, 0.016
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
_FLOOR, _QUIET = 1e-12, -7.0  # power that counts as silence; log10 of the power that becomes 0


def preprocess_audio_embeddings(
    dataset: Dataset, takes: Sequence[Take], encoder: Encoder, causal: bool = False, workers: int = 1
) -> Outcome:
    """Write the vector of each second of these takes; vectors that exist are kept.

    The sound is that of the recording; of the clips where there is no recording.

    Args:
        dataset: where the takes are.
        takes: which ones.
        encoder: `clap_encoder()` or `mel_encoder`.
        causal: only sound up to the second itself; else the published window, which ends one second later.
        workers: takes at once; each loads the encoder.
    """
    if isinstance(encoder, ClapEncoder) and any(_lacks_vectors(dataset.unkept(take), causal) for take in takes):
        try:  # before the sound of every take is read for nothing
            _load_clap(encoder.name, encoder.device)
        except UserError as error:
            return Outcome(problems=(str(error),))
    step = partial(_write_vectors, encoder=encoder, causal=causal)
    return each_take(dataset, takes, step, "audio embeddings", workers)


def _lacks_vectors(recorded: RecordedTake, causal: bool) -> bool:
    """Whether a take has sound and a second without vector; what is wrong with a take is told when it is read."""
    try:
        sources = [recorded.path("recording"), *places(recorded, "audio").values()]
        files = heard(recorded, places(recorded, "audio_embedding"), causal)
        return any(path is not None and recorded.has(path) for path in sources) and bool(missing(recorded, files))
    except UserError:
        return False


def _write_vectors(recorded: RecordedTake, encoder: Encoder, causal: bool) -> Iterator[Path]:
    recording, clips = recorded.path("recording"), places(recorded, "audio")
    files = places(recorded, "audio_embedding")
    if recording is not None and not recorded.has(recording):
        recording = None
    sources = [recording] if recording is not None else [path for path in clips.values() if recorded.has(path)]
    if not sources or not files:
        return
    folder, names = next(iter(files.values())).parent, [path.name for path in files.values()]
    settings = {"encoder": str(encoder), WINDOW: window_name(causal)}
    if recording is None:
        _require_window(sources[0].parent, causal)
    settle(folder, settings, sources=sources, made=names, also=period_of(recorded))
    if not (paths := dict(missing(recorded, heard(recorded, files, causal)))):
        return
    if recording is not None:
        found = read_clips(recording, {time: recorded.at(time) for time in paths}, causal)
    else:
        found = ((time, *read_audio(clips[time])) for time in paths if time in clips and recorded.has(clips[time]))
    for batch in _batches(found):
        vectors = encoder([samples for _, samples, _ in batch], batch[0][2])
        for (time, _, _), vector in zip(batch, vectors):
            _write_vector(paths[time], vector.clone())  # a view would store the whole batch
            yield paths[time]
    if recording is not None:
        require_whole(recording, sound_length(recording), recorded.at(max(paths)))


def _require_window(clips: Path, causal: bool) -> None:
    """Clips that were cut here say around which second; of others nobody knows.

    Raises:
        UserError: they are of the other window.
    """
    path = clips / f"{SETTINGS}.json"
    stored = read_json(path) if path.exists() else None
    there = stored.get(WINDOW) if isinstance(stored, dict) else None
    if there not in (None, window_name(causal)):
        told = f"{clips}: its clips are of the {there}, not of the {window_name(causal)}, and there is no recording"
        raise UserError(f"{told}; {'leave out' if causal else 'add'} --causal, or copy the recording again")


@dataclass(frozen=True)
class MelEncoder:
    """The mel descriptor of each clip."""

    def __call__(self, clips: Sequence[Samples], rate: int) -> Float[Tensor, "clips 512"]:
        """See `mel_descriptor`."""
        return torch.stack([mel_descriptor(clip, rate) for clip in clips])

    def __str__(self) -> str:
        return "mel descriptor"


mel_encoder = MelEncoder()


def mel_descriptor(samples: Float32[np.ndarray, "samples channels"], rate: int) -> Float[Tensor, "512"]:
    """Loudness of 64 mel bands in each eighth of a clip: log10 of the power, scaled to about -2 (silence) to 2 (loud).

    Order: band after band, the eighths of a band side by side.
    """
    mono = samples.mean(axis=1)
    window, hop = round(_WINDOW_S * rate), max(1, round(_HOP_S * rate))
    mono = np.pad(mono, (0, max(0, window - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(mono, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / window**2
    bands = power @ _mel_filters(window, rate).T
    starts = [i * len(bands) // TIME_BINS for i in range(TIME_BINS)]
    loudness = np.stack([bands[a : max(b, a + 1)].mean(axis=0) for a, b in zip(starts, [*starts[1:], len(bands)])])
    scaled = (np.log10(loudness.T + _FLOOR) - _QUIET) / 2
    return torch.from_numpy(scaled.reshape(-1).astype(np.float32))


@dataclass(frozen=True)
class ClapEncoder:
    """CLAP's audio tower, loaded once in each process that uses it."""

    name: str
    published_feeding: bool
    scaling: Scaling | None = None  # of each clip before
    device: str | None = None  # that is wanted, see `choose_device`

    def __call__(self, clips: Sequence[Samples], rate: int) -> Float[Tensor, "clips 512"]:
        """The projected audio features of each clip."""
        model, extractor = _load_clap(self.name, self.device)
        feed = as_published if self.published_feeding else as_trained
        scaled = [scale_clip(clip, self.scaling) for clip in clips]
        inputs = extractor([feed(clip, rate) for clip in scaled], sampling_rate=CLAP_RATE, return_tensors="pt")
        try:
            with torch.no_grad():
                return model.get_audio_features(**inputs.to(model.device)).pooler_output.float().cpu()
        except RuntimeError as error:  # of the GPU, which others may have filled meanwhile
            raise _on_gpu(self.name, self.device, error) from error

    def __str__(self) -> str:
        scaled = "" if self.scaling is None else f", scaled {self.scaling}"
        return f"{self.name} {'fed as published' if self.published_feeding else 'fed with mono at 48 kHz'}{scaled}"


def scale_clip(samples: Samples, scaling: Scaling | None) -> Samples:
    """A clip as EgoExOR's model gets it (arXiv 2505.24287), before its channels are averaged; silence stays.

    `published`: each sample is divided by the larger one of its channels, which makes the sound nearly a sign; `peak`:
    each channel by its loudest sample, as it was meant.
    """
    if scaling is None:
        return samples
    largest = np.abs(samples).max(axis=1 if scaling == "published" else 0, keepdims=True)
    return np.divide(samples, largest, out=np.zeros_like(samples), where=largest > 0)


def clap_encoder(name: str = CLAP, published_feeding: bool = False, device: str | None = None) -> ClapEncoder:
    """CLAP, on the GPU if there is one and nothing else is wanted.

    Args:
        name: on the model hub, or a local folder.
        published_feeding: clips go in as the published code feeds them, see `as_published`; the published scene-graph
            models were trained on such vectors.
        device: that is wanted, see `choose_device`.

    Raises:
        UserError: the weights are not here and cannot be fetched, or there is no such device.
    """
    _load_clap(name, device)
    return ClapEncoder(name, published_feeding, device=device)


def as_trained(samples: Samples, rate: int) -> Float32[np.ndarray, " resampled"]:
    """A clip as CLAP was trained with: one channel, -1..1, 48 kHz."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, CLAP_RATE)
    return resample_poly(samples.mean(axis=1), CLAP_RATE // common, rate // common).astype(np.float32)


def as_published(samples: Samples, rate: int) -> Float32[np.ndarray, " interleaved"]:
    """A clip as the published code feeds it: 16-bit integers, channels interleaved, at the file's rate.

    CLAP takes it for sound of 48 kHz (quirk 8 of section 11).
    """
    return np.round(samples * 32768).clip(-32768, 32767).reshape(-1)


def _load_clap(name: str, device: str | None) -> tuple[Any, Any]:
    """Model and feature extractor; a hub that cannot be reached is asked once, not once a take."""
    found = _find_clap(name, device)
    if isinstance(found, UserError):
        raise found
    return found


@cache
def _find_clap(name: str, device: str | None) -> tuple[Any, Any] | UserError:
    from transformers import ClapFeatureExtractor, ClapModel

    try:
        model = ClapModel.from_pretrained(name).eval()
        extractor = ClapFeatureExtractor.from_pretrained(name)
        return model.to(choose_device(device)), extractor
    except RuntimeError as error:  # of the GPU
        return _on_gpu(name, device, error)
    except (OSError, ValueError, ImportError) as error:  # the last of a proxy that the client cannot use
        reason = str(error).splitlines()[0]
        return UserError(
            f"{name}: CLAP cannot be loaded ({reason}), audio embeddings are left out; connect to the model hub, or "
            "choose the audio encoder mel (--audio-encoder mel), which the bundled models were trained with"
        )


def _on_gpu(name: str, device: str | None, error: RuntimeError) -> UserError:
    told = f"CLAP cannot run on {choose_device(device)} ({brief(error)}), audio embeddings are left out"
    return UserError(f"{name}: {told}; free it, or hide it: CUDA_VISIBLE_DEVICES= mmor ...")


def _batches(clips: Iterable[tuple[str, Samples, int]]) -> Iterator[list[tuple[str, Samples, int]]]:
    """Clips of one rate in groups."""
    batch: list[tuple[str, Samples, int]] = []
    for clip in clips:
        if batch and (len(batch) == BATCH or clip[2] != batch[0][2]):
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def _mel_filters(window: int, rate: int) -> Float[np.ndarray, "64 bins"]:
    """Triangular filters, evenly spaced in mel."""
    mel = np.linspace(_to_mel(_LOWEST_HZ), _to_mel(min(_HIGHEST_HZ, rate / 2)), MELS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / rate)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _to_mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def _write_vector(path: Path, vector: Float[Tensor, "512"]) -> None:
    buffer = io.BytesIO()
    torch.save(vector, buffer)
    write_bytes(path, buffer.getvalue())
