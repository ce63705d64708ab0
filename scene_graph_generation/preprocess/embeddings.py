"""The sound around each second as one vector (data specification, section 9).

`clap` is the published encoder; its weights come from the model hub. `mel` is ours: a fixed descriptor without weights,
for the small model and for machines without a hub. Vectors of the two mean different things: a model reads the kind
that it was trained with.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from operating_room import layout
from operating_room.dataset import Dataset
from operating_room.errors import UserError
from operating_room.files import write_bytes
from operating_room.progress import track
from operating_room.readers import read_audio
from operating_room.takes import Take
from scene_graph_generation.preprocess.audio import clips, take_times

Encoder = Callable[[Float32[np.ndarray, "samples channels"], int], Float[Tensor, "512"]]

CLAP = "laion/larger_clap_general"
CLAP_RATE = 48_000  # Hz; what the published code declares, whatever the rate of the recording is
MELS, TIME_BINS = 64, 8
_WINDOW_S, _HOP_S = 0.064, 0.016
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7600.0
_FLOOR, _QUIET = 1e-12, -7.0  # power that counts as silence; log10 of the power that becomes 0


def preprocess_audio_embeddings(dataset: Dataset, takes: Sequence[Take], encoder: Encoder) -> int:
    """Write the vector of each second of these takes; vectors that exist are kept. Returns how many were written.

    The published clip is used where there is one, else the same seconds are cut out of the recording.

    Raises:
        UserError: a recording, clip or list of seconds is damaged.
    """
    written = 0
    for take in track(takes, "audio embeddings"):
        root = dataset.take(take).root
        times = [time for time in take_times(root, take) if not layout.audio_embedding(root, take, time).is_file()]
        stored = [time for time in times if layout.audio_clip(root, take, time).is_file()]
        found = [(time, *read_audio(layout.audio_clip(root, take, time))) for time in stored]
        for time, samples, rate in [*found, *clips(root, take, sorted(set(times) - set(stored)))]:
            _write_vector(layout.audio_embedding(root, take, time), encoder(samples, rate))
            written += 1
    return written


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


def clap_encoder(name: str = CLAP) -> Encoder:
    """CLAP's audio tower; `name` is on the model hub or a local folder.

    The samples go in as the published code feeds them: 16-bit integers, channels interleaved, declared as 48 kHz
    (quirk 8 of section 11), since the published model was trained on such vectors.

    Raises:
        UserError: the weights are not here and cannot be fetched.
    """
    from transformers import ClapFeatureExtractor, ClapModel

    try:
        model = ClapModel.from_pretrained(name).eval()
        extractor = ClapFeatureExtractor.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{name}: CLAP cannot be loaded ({reason}); connect to the model hub, or choose the audio encoder mel"
        ) from error

    def encode(samples: Float32[np.ndarray, "samples channels"], rate: int) -> Float[Tensor, "512"]:
        interleaved = np.round(samples * 32768).clip(-32768, 32767).reshape(-1)
        inputs = extractor(interleaved, sampling_rate=CLAP_RATE, return_tensors="pt")
        with torch.no_grad():
            return model.get_audio_features(**inputs).pooler_output[0]

    return encode


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
