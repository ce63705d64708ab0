"""Pieces of an mp3 without decoding it: the stream copy for which the published code runs ffmpeg once per second.

An mp3 is a row of frames of a fixed number of samples, each with a header that tells its length (ISO 11172-3, layer
III; ISO 13818-3 for the lower sampling rates). A piece gets the frames that overlap it and a few before, since a frame
may use bits of earlier ones, and a summary frame as LAME writes it, which tells a decoder what to leave out: a piece
decodes to just the samples that the recording has there. Only at low bit rates, where frames reach further back than a
summary can hide, its first hundredths of a second may be silent, as in every stream copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from operating_room.errors import UserError
from operating_room.files.readers import again, read_bytes

_MPEG1, _LAYER_3, _MONO = 3, 1, 3  # codes in a header
_RATES = {_MPEG1: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by whether it is MPEG 1
_SIDE_BYTES = {True: (32, 17), False: (17, 9)}  # between header and data, stereo and mono
_SUMMARY_KBITS = 64  # a frame of this rate has room for a summary
_DECODER_DELAY = 529  # samples by which every decoder is late
_LONGEST_SKIP = 4095  # samples; the summary has 12 bits for it
_TAGS_AT_END = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")


@dataclass(frozen=True)
class Mp3:
    """An mp3 in memory and where its frames begin."""

    data: bytes
    starts: Int64[np.ndarray, " boundaries"]  # byte at which each frame begins; last, the end of the sound
    rate: int  # Hz
    frame_samples: int
    skipped: int  # samples at the beginning that decoders leave out
    samples: int  # that decoders give

    @property
    def duration_s(self) -> float:
        """Length of the sound."""
        return self.samples / self.rate

    def cut(self, start_s: int, end_s: int) -> bytes:
        """The sound between two moments as an mp3 of its own; empty outside the recording."""
        start, end = start_s * self.rate, min(end_s * self.rate, self.samples)
        if start >= end:
            return b""
        size = self.frame_samples
        earlier = _LONGEST_SKIP // size - 1
        first = max(0, (start + self.skipped - _DECODER_DELAY) // size - earlier)
        skip = start + self.skipped - _DECODER_DELAY - first * size
        if skip < 0:  # the start of a recording without summary, from which decoders leave nothing out
            return self.data[self.starts[0] : self.starts[-(-end // size)]]
        last = min(len(self.starts) - 1, first - -(skip + _DECODER_DELAY + end - start) // size)
        padding = min(_LONGEST_SKIP, (last - first) * size - skip - (end - start))
        summary = _summary(self.data[self.starts[first] :][:4], last - first, skip, max(0, padding))
        return summary + self.data[self.starts[first] : self.starts[last]]


class _Header(NamedTuple):
    mpeg: int
    rate: int  # Hz
    length: int  # of the frame, bytes
    side: int  # bytes from the start of the frame to its data


def read_mp3(path: Path) -> Mp3:
    """The frames of an mp3; tags before and after the sound are left out.

    Raises:
        UserError: the file is missing, empty, no mp3, or damaged: bytes that belong to no frame, fewer frames than its
            summary states, or two sampling rates.
    """
    data = read_bytes(path)
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        a, b, c, d = data[place + 6 : place + 10]
        place += 10 + (a << 21 | b << 14 | c << 7 | d)
    first = _header(data, place)
    if first is None:
        raise UserError(f"{path}: is no mp3; convert it, or {again(path)}")
    stated, delay, padding = None, -_DECODER_DELAY, 0
    if (summary := _read_summary(data, place + first.side)) is not None:
        stated, delay, padding = summary
        place += first.length
    starts = []
    while (header := _header(data, place)) and header[:2] == first[:2] and place + header.length <= len(data):
        starts.append(place)
        place += header.length
    frame_samples = 1152 if first.mpeg == _MPEG1 else 576
    found = len(starts) * frame_samples
    if stated is not None and len(starts) < stated:
        found_s, stated_s = found / first.rate, stated * frame_samples / first.rate
        raise UserError(f"{path}: is damaged or cut off after {found_s:.2f} of {stated_s:.2f} s; {again(path)}")
    if header is not None and header[:2] != first[:2]:
        raise UserError(
            f"{path}: goes on with {header.rate} Hz after {found / first.rate:.2f} s of {first.rate} Hz; convert it to "
            "one rate (ffmpeg does), or join its parts again"
        )
    rest = data[place:].lstrip(b"\0")
    if rest and not rest.startswith(_TAGS_AT_END) and header is None:
        raise UserError(f"{path}: is damaged after {found / first.rate:.2f} s; {again(path)}")
    samples = found - max(0, delay) - padding
    if samples <= 0:
        raise UserError(f"{path}: holds no sound; {again(path)}")
    return Mp3(data, np.array([*starts, place], np.int64), first.rate, frame_samples, delay + _DECODER_DELAY, samples)


def _header(data: bytes, place: int) -> _Header | None:
    """The frame header at a byte of the file, None if there is none."""
    if len(data) < place + 4 or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    second, third, fourth = data[place + 1 : place + 4]
    mpeg, layer, no_checksum = second >> 3 & 3, second >> 1 & 3, second & 1
    kbits, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if mpeg not in _RATES or layer != _LAYER_3 or not 0 < kbits < 15 or rate == 3:
        return None
    hertz = _RATES[mpeg][rate]
    bytes_per_kbit = 144_000 if mpeg == _MPEG1 else 72_000
    length = bytes_per_kbit * _KBITS[mpeg == _MPEG1][kbits] // hertz + padding
    side = 4 + (0 if no_checksum else 2) + _SIDE_BYTES[mpeg == _MPEG1][fourth >> 6 == _MONO]
    return _Header(mpeg, hertz, length, side)


def _read_summary(data: bytes, place: int) -> tuple[int | None, int, int] | None:
    """Number of frames, samples to skip at the beginning and at the end, as a summary frame states them."""
    if data[place : place + 4] not in (b"Xing", b"Info"):
        return (None, -_DECODER_DELAY, 0) if data[place : place + 4] == b"VBRI" else None
    flags = int.from_bytes(data[place + 4 : place + 8], "big")
    frames = int.from_bytes(data[place + 8 : place + 12], "big") if flags & 1 else None
    encoder = place + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if not data[encoder : encoder + 4].isalnum():
        return frames, -_DECODER_DELAY, 0
    skips = int.from_bytes(data[encoder + 21 : encoder + 24], "big")
    return frames, skips >> 12, skips & 0xFFF


def _summary(header: bytes, frames: int, skip: int, padding: int) -> bytes:
    """A frame without sound that states the number of frames after it and the samples to leave out at both ends."""
    mpeg1 = header[1] >> 3 & 3 == _MPEG1
    kbits = _KBITS[mpeg1].index(_SUMMARY_KBITS)
    start = bytes([header[0], header[1] | 1, kbits << 4 | header[2] & 0b1100, header[3]])
    own = _header(start, 0)
    assert own is not None  # made of a header that was read
    skips = (skip << 12 | padding).to_bytes(3, "big")
    content = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big") + b"LAME3.100".ljust(21, b"\0") + skips
    return (start.ljust(own.side, b"\0") + content).ljust(own.length, b"\0")
