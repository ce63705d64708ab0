"""Pieces of an mp3: the samples of the recording, whatever its rate, channels and tags; damage is named."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from operating_room.errors import UserError
from operating_room.files.mp3 import read_mp3
from tests.operating_room.tiny_dataset import picture, sound, write


def encode(rate: int, channels: int, mode: str, seconds: float = 4.0) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.02, (int(rate * seconds), channels))
    buffer = io.BytesIO()
    samples = 0.5 * np.sin(3 * np.cumsum(noise, axis=0))
    soundfile.write(buffer, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.2)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (44_100, 2), (22_050, 1), (16_000, 1)])
def test_pieces_decode_to_the_recording(tmp_path: Path, rate: int, channels: int, mode: str) -> None:
    data = encode(rate, channels, mode)
    recording = read_mp3(write(tmp_path / "x.mp3", b"ID3\x04\0\0\0\0\0\x05" + bytes(5) + data + b"TAG" + bytes(125)))
    whole, _ = soundfile.read(io.BytesIO(data), always_2d=True)
    assert recording.samples == len(whole)
    for start, end in ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5)):
        piece, piece_rate = soundfile.read(io.BytesIO(recording.cut(start, end)), always_2d=True)
        assert piece_rate == rate
        assert len(piece) == len(whole[start * rate : end * rate])
        skip = rate // 50  # what needs bits from before the piece
        np.testing.assert_allclose(piece[skip:], whole[start * rate : end * rate][skip:], atol=1e-6)
    assert recording.cut(4, 6) == b""


def test_a_recording_without_summary(tmp_path: Path) -> None:
    data = encode(44_100, 2, "CONSTANT")
    recording = read_mp3(write(tmp_path / "x.mp3", data))
    bare = data[recording.starts[0] :]
    whole, rate = soundfile.read(io.BytesIO(bare), always_2d=True)
    stripped = read_mp3(write(tmp_path / "y.mp3", bare))
    for start, end in ((0, 2), (2, 4)):
        piece, _ = soundfile.read(io.BytesIO(stripped.cut(start, end)), always_2d=True)
        length = (end - start) * rate
        assert abs(len(piece) - length) <= 1152
        np.testing.assert_allclose(piece[:length], whole[start * rate :][:length], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no sound", "is no mp3"),
        (picture(), "is no mp3"),
        (sound(2.0)[:4000], "cut off"),
        (sound(2.0)[:4000] + b"\0" * 500 + sound(2.0)[4500:], "damaged or cut off"),
        (sound(2.0) + b"something else", "damaged after"),
        (sound(2.0, 16_000) + sound(2.0, 24_000), r"goes on with 24000 Hz after 2\.\d+ s of 16000 Hz"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_mp3(write(tmp_path / "x.mp3", content))
    assert "x.mp3" in str(error.value)
    assert "\n" not in str(error.value)


def test_silence_is_sound_and_nothing_is_not(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0), 16_000, format="MP3")
    if buffer.getvalue():
        with pytest.raises(UserError, match=r"holds no sound|is no mp3"):
            read_mp3(write(tmp_path / "x.mp3", buffer.getvalue()))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16_000), 16_000, format="MP3")
    assert read_mp3(write(tmp_path / "y.mp3", buffer.getvalue())).duration_s == 1.0


SOUND = encode(16_000, 1, "VARIABLE", 1.0)


@given(st.one_of(st.binary(max_size=300), st.integers(0, len(SOUND)).map(lambda end: SOUND[:end])), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, zeros: int) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.mp3", data + bytes(zeros))
    with suppress(UserError):
        recording = read_mp3(path)
        assert all(isinstance(recording.cut(start, start + 2), bytes) for start in range(3))


@given(st.integers(400, len(SOUND) - 300), st.integers(0, 300))  # behind the summary; the last frame may be in pieces
def test_a_recording_that_was_cut_off_is_refused(
    tmp_path_factory: pytest.TempPathFactory, end: int, zeros: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.mp3", SOUND[:end] + bytes(zeros))
    with pytest.raises(UserError, match="is damaged"):
        read_mp3(path)
