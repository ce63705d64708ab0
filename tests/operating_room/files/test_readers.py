"""Readers: right values from good files, one sentence from anything else, whatever the bytes are."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pypcd4 import Encoding, PointCloud

from operating_room.errors import UserError
from operating_room.files.readers import (
    Subtitle,
    again,
    check_audio,
    check_picture,
    check_subtitles,
    read_audio,
    read_json,
    read_label_mask,
    read_picture,
    read_point_cloud,
    read_subtitles,
)
from tests.operating_room.tiny_dataset import SRT, cloud, label_picture, picture, sound, write

READERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "x.json": (read_json, b'{"text": "the saw", "n": [1, 2.5, null]}'),
    "x.json.gz": (read_json, gzip.compress(b'{"text": "the saw"}')),
    "x.jpg": (read_picture, picture()),
    "x.png": (read_label_mask, label_picture(0, 5, 29)),
    "check.png": (check_picture, label_picture(0, 5, 29)),
    "check.jpg": (check_picture, picture()),
    "x.pcd": (read_point_cloud, cloud()),
    "binary.pcd": (read_point_cloud, cloud(Encoding.BINARY)),
    "ascii.pcd": (read_point_cloud, cloud(Encoding.ASCII)),
    "x.srt": (read_subtitles, SRT.encode()),
    "x.mp3": (read_audio, sound(0.3)),
    "check.mp3": (check_audio, sound(0.3)),
}
any_reader = pytest.mark.parametrize("name", READERS)


def refuse(name: str, path: Path) -> str:
    with pytest.raises(UserError) as refusal:
        READERS[name][0](path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@any_reader
def test_missing_empty_and_folder(name: str, tmp_path: Path) -> None:
    assert "no such file" in refuse(name, tmp_path / name)
    assert "is empty" in refuse(name, write(tmp_path / name, b""))
    (tmp_path / "folder" / name).mkdir(parents=True)
    told = refuse(name, tmp_path / "folder" / name)
    assert "is a folder" in told
    assert "remove it" not in told  # the folder may be a whole dataset


@any_reader
def test_another_type(name: str, tmp_path: Path) -> None:
    for other, (_, content) in READERS.items():
        if Path(other).suffix not in (".png", ".jpg", Path(name).suffix):
            refuse(name, write(tmp_path / name, content))
    refuse(name, write(tmp_path / name, b"\x80\x00\xff" * 50))


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith((".srt", ".mp3"))])
def test_every_truncation_is_found(name: str, tmp_path: Path) -> None:
    content = READERS[name][1]
    READERS[name][0](write(tmp_path / name, content))
    tail = 1 if "ascii" in name else 0  # the last line break of a text file
    for size in {
        1,
        *range(1, len(content) - tail, 1 + len(content) // 60),
        *range(len(content) - 30, len(content) - tail),
    }:
        if "ascii" not in name or content[:size].count(b"\n") < 11:  # a digit less in the last line cannot be seen
            refuse(name, write(tmp_path / name, content[:size]))


@pytest.mark.parametrize("name", ["x.mp3", "check.mp3"])
def test_recording_cut_off(name: str, tmp_path: Path) -> None:
    content = sound(4)
    assert "cut off after" in refuse(name, write(tmp_path / name, content[: len(content) // 2]))
    READERS[name][0](write(tmp_path / name, content))


@any_reader
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=1, max_size=300), place=st.floats(0, 1), keep=st.booleans())
def test_damage_gives_a_value_or_a_user_error(
    name: str, noise: bytes, place: float, keep: bool, tmp_path: Path
) -> None:
    reader, content = READERS[name]
    start = int(place * len(content)) if keep else 0
    damaged = content[:start] + noise + (content[start + len(noise) :] if keep else b"")
    path = write(tmp_path / name, damaged)
    with contextlib.suppress(UserError):
        reader(path)


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(write(path, '\ufeff{"text": "größer"}')) == {"text": "größer"}
    assert "'a' stands twice" in refuse("x.json", write(path, '{"a": 1, "b": 2, "a": 3}'))
    assert "not UTF-8" in refuse("x.json", write(path, '{"text": "größer"}'.encode("latin-1")))
    assert "nested" in refuse("x.json", write(path, "[" * 100_000))
    for number in ("NaN", "-Infinity", "1e400", "-1e400"):
        assert f"{number} is " in refuse("x.json", write(path, f'{{"loss": [1.5, {number}]}}'))
    for digits in (400, 5000):
        assert "is too large for a number" in refuse("x.json", write(path, "[-" + "9" * digits + "]"))
    assert read_json(write(path, f"[-3, {10**300}]")) == [-3, 10**300]


def test_packed_json_of_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(bytes(1 << 27) + b"[]", 1))
    with pytest.raises(UserError, match=r"x\.json\.gz: .* bytes inside"):
        read_json(tmp_path / "x.json.gz")


def test_pictures_become_rgb(tmp_path: Path) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for pixels in (gray, np.dstack([gray] * 3), np.dstack([gray] * 4)):
        found = read_picture(write(tmp_path / "x.png", picture("PNG", pixels)))
        assert (found == gray[..., None]).all()


def test_label_masks(tmp_path: Path) -> None:
    path, labels = tmp_path / "x.png", np.arange(24, dtype=np.uint8).reshape(4, 6)
    for pixels in (labels, np.dstack([labels] * 3), np.dstack([labels] * 4)):
        assert (read_label_mask(write(path, picture("PNG", pixels))) == labels).all()
    palette = Image.fromarray(labels).convert("P")
    palette.save(path)
    assert (read_label_mask(path) == labels).all()
    colors = np.dstack([labels, labels, labels + 1])
    assert "is a RGB picture" in refuse("x.png", write(path, picture("PNG", colors)))
    wide = labels.astype(np.uint16) * 100
    assert "one 8-bit channel" in refuse("x.png", write(path, picture("PNG", wide)))


@pytest.mark.parametrize("encoding", [Encoding.BINARY, Encoding.BINARY_COMPRESSED])
def test_point_cloud_in_metres_and_colours(encoding: Encoding, tmp_path: Path) -> None:
    points = read_point_cloud(write(tmp_path / "x.pcd", cloud(encoding)))
    np.testing.assert_allclose(points, [[1, 2, 3, 1, 0, 0], [0, 0, -1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("fields", "types", "values"),
    [
        ("x y z rgb", "F F F F", "{x} 2.341805152e-38"),  # the bits of 0x00ff0000
        ("x y z rgb", "F F F U", "{x} 16711680"),
        ("rgba x y z", "U F F F", "4294901760 {x}"),
        ("x y z r g b", "F F F U U U", "{x} 255 0 0"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_ascii_point_cloud(fields: str, types: str, values: str, count: int, tmp_path: Path) -> None:
    width = fields.count(" ") + 1
    header = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {'4 ' * width}\nTYPE {types}\nCOUNT {'1 ' * width}\n"
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA ascii\n"
    )
    line = values.format(x="1000 2000 -500") + "\n"
    points = read_point_cloud(write(tmp_path / "x.pcd", header + line * count))
    assert points.shape == (count, 6)
    np.testing.assert_allclose(points, np.tile([1, 2, -0.5, 1, 0, 0], (count, 1)))


def test_point_cloud_without_colours_or_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "x.pcd"
    PointCloud.from_xyz_points(np.zeros((2, 3), np.float32)).save(path)
    assert "without colours" in refuse("x.pcd", path)
    PointCloud.from_points(np.zeros((2, 1), np.float32), ("x",), (np.float32,)).save(path)
    assert "without field y, z" in refuse("x.pcd", path)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_point_cloud_that_states_another_size(encoding: Encoding, tmp_path: Path) -> None:
    whole, path = cloud(encoding), tmp_path / "x.pcd"
    for stated, other in ((b"POINTS 2", b"POINTS 1"), (b"WIDTH 2", b"WIDTH 1"), (b"HEIGHT 1", b"HEIGHT 2")):
        assert "stated" in refuse("x.pcd", write(path, whole.replace(stated, other)))
    refuse("x.pcd", write(path, whole.replace(b"POINTS 2", b"POINTS 1").replace(b"WIDTH 2", b"WIDTH 1")))
    assert len(read_point_cloud(write(path, whole + b"\n"))) == 2


def test_point_cloud_that_states_a_huge_size(tmp_path: Path) -> None:
    huge = cloud().replace(b"POINTS 2", b"POINTS 999999999999").replace(b"WIDTH 2", b"WIDTH 999999999999")
    refuse("x.pcd", write(tmp_path / "x.pcd", huge))


def test_subtitles(tmp_path: Path) -> None:
    path = tmp_path / "x.srt"
    text = (
        "\ufeff1\r\n00:00:05,380 --> 00:00:06,000\r\nsecond  \r\n<i>line</i>\t\r\n\r\n"
        "00:00:01.500 --> 00:00:02,250\r\n first in time\r\n"
    )
    assert read_subtitles(write(path, text)) == [
        Subtitle(5.38, 6.0, "second\n<i>line</i>"),
        Subtitle(1.5, 2.25, " first in time"),
    ]
    with pytest.raises(UserError, match=r"the subtitle at 1\.5 s stands behind the one at 5\.38 s; sort them"):
        check_subtitles(path, 10.0)
    check_subtitles(write(path, SRT), 10.0)
    assert "is damaged" in refuse("x.srt", write(path, "9" * 5000 + "\n00:00:01,000 --> 00:00:02,000\nwords\n"))
    assert "line 2 has a broken time" in refuse("x.srt", write(path, "1\n00:00:0x,1 --> 00:00:02,0\nwords\n"))
    for times in ("00:00:01.5 --> 00:00:02.25", "00:00:61,000 --> 00:01:02,000", "00:00:02,000 --> 00:00:01,000"):
        assert "line 2 has a broken time" in refuse("x.srt", write(path, f"1\n{times}\nwords\n"))
    # None is lost without a word: neither by another arrow, nor by an odd blank, a heading, or a missing empty line.
    later = "\n\n2\n00:00:05,000 --> 00:00:07,000\nthank you\n"
    assert "line 2 has a broken time" in refuse("x.srt", write(path, f"1\n00:00:01,000 -> 00:00:04,000\nsaw{later}"))
    for start in (
        "1\n00:00:01,000\u00a0--> 00:00:04,000",
        "WEBVTT\n\n1\n0:00:01.000-->0:00:04.000",
        "1\n0:0:1,000 --> 0:0:4,000",
    ):
        found = read_subtitles(write(path, f"{start}\nsaw{later}"))
        assert found == [Subtitle(1.0, 4.0, "saw"), Subtitle(5.0, 7.0, "thank you")]
    crowded = "1\n00:00:01,000 --> 00:00:04,000\nsaw\n00:00:05,000 --> 00:00:07,000\nthank you\n"
    assert "has 2 times and 1 subtitles" in refuse("x.srt", write(path, crowded))
    assert "no subtitle" in refuse("x.srt", write(path, "just words\n"))
    assert "not UTF-8" in refuse("x.srt", write(path, SRT.replace("saw", "Säge").encode("latin-1")))


def test_empty_lines_between_subtitles_are_part_of_none(tmp_path: Path) -> None:
    first, second = Subtitle(1.0, 2.0, " one\ntwo"), Subtitle(3.0, 4.0, "")
    text = "1\n00:00:01,000 --> 00:00:02,000\n one \ntwo\n{}2\n00:00:03,000 --> 00:00:04,000\n{}"
    for empty in ("\n", "\n\n", " \n\n\n", "\r\n\t\r\n"):
        assert read_subtitles(write(tmp_path / "x.srt", text.format(empty, empty))) == [first, second]
    # Words behind one are kept: published code loses them.
    inside = "1\n00:00:01,000 --> 00:00:02,000\nsaw\n\nplease\n"
    assert read_subtitles(write(tmp_path / "x.srt", inside)) == [Subtitle(1.0, 2.0, "saw\n\nplease")]


def test_subtitles_that_are_cut_off_or_damaged_lose_none_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "x.srt"
    words = ("the saw", "take it away", "thank you")
    cues = [f"{n}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\n{said}\n\n" for n, said in enumerate(words, start=9)]
    text = "".join(cues)
    ends = [sum(map(len, cues[: n + 1])) for n in range(len(cues))]
    for size in range(1, len(text)):
        try:
            found = read_subtitles(write(path, text[:size]))
        except UserError:
            continue
        begun = 1 + sum(end < size for end in ends)
        assert [one.text for one in found[:-1]] == list(words[: begun - 1]), text[:size]
        assert words[begun - 1].startswith(found[-1].text), text[:size]
    for damaged in ("00:00:10,000 - ", "00:00:10,000 -> 00:00:10", "00:00:10", "0"):
        with pytest.raises(UserError, match=r"line (5 has the number|6 has a broken time)"):
            read_subtitles(write(path, text.replace("00:00:10,000 --> 00:00:10,900", damaged)))


def test_audio(tmp_path: Path) -> None:
    samples, rate = read_audio(write(tmp_path / "x.mp3", sound(1.0)))
    assert samples.shape == (16_000, 1)
    assert rate == 16_000
    assert 0.05 < samples.std() < 0.15


def test_what_a_training_has_prepared_is_in_no_archive() -> None:
    """Its folders are called as those of the archives, below that of the training."""
    told = again(Path("out/ground_truth/MM-OR_data/001_PKA/panoptic_seg_1_for_val/000001.png"))
    assert told == "delete it and run again, which prepares it anew"
    assert again(Path("data/MM-OR_data/001_PKA/colorimage/000001.jpg")) == "copy it again from the dataset archive"
