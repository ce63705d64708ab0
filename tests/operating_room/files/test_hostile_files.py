"""Readers on files that no camera and no program of ours has written, but somebody may hand on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from operating_room.errors import UserError
from operating_room.files import sound_files
from operating_room.files.picture_files import check_picture
from operating_room.files.readers import (
    check_audio,
    check_subtitles,
    read_audio,
    read_bytes,
    read_ids,
    read_json,
    read_label_mask,
    read_picture,
    read_point_cloud,
    sound_peaks,
)


@pytest.mark.parametrize("read", [read_bytes, read_json, read_picture])
def test_a_file_beyond_all_memory_is_one_line(read: Callable[[Path], Any], tmp_path: Path) -> None:
    """A sparse file takes no room on the disk; reading it was a MemoryError."""
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(UserError, match=r"x\.json: is 8796 GB large, and .* GB of memory are free"):
        read(path)


def _cloud(path: Path, fields: str, sizes: str, kinds: str, dtype: list[tuple[str, str]]) -> Path:
    points = np.zeros(20, dtype)
    for axis in "xyz":
        points[axis] = np.linspace(0, 3000, 20)
    header = f"VERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {kinds}\nCOUNT{' 1' * len(dtype)}\nWIDTH 20\nHEIGHT 1\n"
    path.write_bytes(f"{header}VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\nDATA binary\n".encode() + points.tobytes())
    return path


def test_the_packed_colours_of_a_cloud_are_those_of_four_bytes(tmp_path: Path) -> None:
    """Of two packed fields the first was taken, whatever its size: a ValueError of numpy."""
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f8"), ("rgba", "<u4")]
    path = _cloud(tmp_path / "x.pcd", "x y z rgb rgba", "4 4 4 8 4", "F F F F U", dtype)
    assert read_point_cloud(path).shape == (20, 6)


@pytest.mark.parametrize("line", ["", "# 5 6000 7 8"])
def test_a_line_of_a_cloud_without_a_point_is_no_point(line: str, tmp_path: Path) -> None:
    """It counted as one of the stated points: a cloud that was cut off was read as whole."""
    path = tmp_path / "x.pcd"
    header = "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\n"
    header += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA ascii\n"
    path.write_text(f"{header}1 2 3 4\n{line}\n5 6000 7 8\n")
    with pytest.raises(UserError, match="truncated: 2 of 3 points"):
        read_point_cloud(path)
    path.write_text(f"{header}1 2 3 4\n{line}\n5 6000 7 8\n6 600 7 8\n{line}\n")
    assert len(read_point_cloud(path)) == 3


@pytest.mark.parametrize("form", ["RF64", "W64", "AIFF", "AU", "OGG", "OGG OPUS"])
def test_sound_that_is_cut_off_is_told_in_every_form(form: str, tmp_path: Path) -> None:
    """libsndfile takes the bytes that are there for all: half of a recording was read as a whole one."""
    path = tmp_path / "x.flac"  # whatever it is called
    noise, (name, *kind) = np.random.default_rng(0).normal(0, 0.1, (144_000, 2)), form.split()
    soundfile.write(path, noise, 48_000, *kind, format=name)
    whole = path.read_bytes()
    assert check_audio(path) > 2.5
    for rest in (int(len(whole) * 0.5), int(len(whole) * 0.9), len(whole) - 3):  # the last page of Ogg is half a second
        path.write_bytes(whole[:rest])
        with pytest.raises(UserError, match="is cut off"):
            check_audio(path)


@pytest.mark.parametrize(("form", "places"), [("W64", (16, 96)), ("AU", (8,)), ("WAV", (4, 40))])
def test_sound_that_did_not_know_its_length_is_read(form: str, places: tuple[int, ...], tmp_path: Path) -> None:
    """As it is written into a pipe: all bits of the sizes are set."""
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(16_000), 16_000, "PCM_16", format=form)
    data = bytearray(path.read_bytes())
    for place in places:
        length = 8 if form == "W64" else 4
        data[place : place + length] = b"\xff" * length
    path.write_bytes(data)
    assert check_audio(path) == 1


def test_sound_far_beyond_one_is_of_another_unit(tmp_path: Path) -> None:
    """Floats that hold 16-bit numbers: every vector of this sound was that of another sound."""
    path, noise = tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.2, (8000, 2))
    soundfile.write(path, noise * 2, 8000, "FLOAT")
    assert check_audio(path) == 1
    soundfile.write(path, noise * 32767, 8000, "FLOAT")
    for read in (check_audio, read_audio, lambda path: sound_peaks(path, 10)):
        with pytest.raises(UserError, match=r"has samples up to .*, expected -1 to 1"):
            read(path)


def test_a_picture_of_places_in_a_palette_that_is_not_there(tmp_path: Path) -> None:
    """It was read as black: ids of nothing."""
    path, picture = tmp_path / "x.png", Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    picture.convert("P").save(path)
    whole = path.read_bytes()
    place = whole.index(b"PLTE") - 4
    assert read_ids(path).any()
    path.write_bytes(whole[:place] + whole[place + 12 + int.from_bytes(whole[place : place + 4], "big") :])
    for read in (read_ids, read_picture, read_label_mask):
        with pytest.raises(UserError, match="its palette is missing"):
            read(path)


def test_silence_that_unpacks_to_more_than_all_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLAC packs it a thousand times as small: megabytes of a file were gigabytes in memory."""
    soundfile.write(tmp_path / "x.flac", np.zeros(1 << 21, np.float32), 48_000)
    assert len(read_audio(tmp_path / "x.flac")[0]) == 1 << 21
    monkeypatch.setattr(sound_files, "_LARGE", 1 << 22)
    monkeypatch.setattr(sound_files, "free_memory", lambda: 1 << 23)
    with pytest.raises(UserError, match=r"x\.flac: unpacks to more than the memory that is free"):
        read_audio(tmp_path / "x.flac")
    assert check_audio(tmp_path / "x.flac") == pytest.approx((1 << 21) / 48_000)  # which never holds it


def test_a_palette_of_greys_is_not_read_by_place(tmp_path: Path) -> None:
    """Programs that pack PNG tightly make it of a grey picture: the same to every viewer, other labels by place."""
    labels = np.repeat([0, 5, 10, 12], 30).astype(np.uint8).reshape(8, 15)
    Image.fromarray(labels).quantize(16).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="its palette is of greys, and whether those or their places are labels"):
        read_label_mask(tmp_path / "x.png")
    assert (
        read_label_mask(_in_palette(tmp_path, labels, [value for grey in range(256) for value in [grey] * 3])) == labels
    ).all()
    assert (read_label_mask(_in_palette(tmp_path, labels, [value % 251 for value in range(768)])) == labels).all()


def _in_palette(folder: Path, places: np.ndarray, colors: list[int]) -> Path:
    picture = Image.fromarray(places, "P")
    picture.putpalette(colors)
    picture.save(folder / "y.png")
    return folder / "y.png"


def test_zeros_in_place_of_the_end_of_a_jpeg(tmp_path: Path) -> None:
    """What a copy that broke off leaves on some disks; where zeros are a code of the picture they were read as grey."""
    y, x = np.mgrid[:480, :640]
    room = (128 + 60 * np.sin(x / 40) + 50 * np.sin(y / 25 + x / 90))[..., None] * np.array([1, 0.8, 0.6])
    Image.fromarray(room.astype(np.uint8)).save(tmp_path / "x.jpg", quality=75, optimize=True)
    whole = (tmp_path / "x.jpg").read_bytes()
    half = len(whole) // 2
    (tmp_path / "x.jpg").write_bytes(whole[:half] + bytes(len(whole) - half))
    for read in (read_picture, check_picture):
        with pytest.raises(UserError, match="cut off"):
            read(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes(whole + bytes(512))  # a whole one that fills blocks of a disk
    assert read_picture(tmp_path / "x.jpg").shape == (480, 640, 3)


def test_zeros_in_place_of_the_end_of_subtitles(tmp_path: Path) -> None:
    """What was said then had two hundred NULs in it, to the end of the take."""
    cues = "".join(f"{k}\n00:00:{k:02d},000 --> 00:00:{k:02d},900\nthe words of {k}\n\n" for k in range(1, 40)).encode()
    cut = cues.index(b"words of 20")
    (tmp_path / "x.srt").write_bytes(cues[:cut] + bytes(len(cues) - cut))
    with pytest.raises(UserError, match=rf"is cut off after {cut} characters \(zeros follow\)"):
        check_subtitles(tmp_path / "x.srt", 60.0)
