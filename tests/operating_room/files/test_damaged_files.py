"""Every reader on damaged files of every kind: a right reading or one line, no other exception, no gigabytes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypcd4 import Encoding, PointCloud

from operating_room.errors import UserError
from operating_room.files.readers import (
    check_audio,
    check_picture,
    parse_yaml,
    read_audio,
    read_bytes,
    read_ids,
    read_json,
    read_label_mask,
    read_picture,
    read_point_cloud,
    read_subtitles,
)
from operating_room.files.sound_files import silent_decoder
from tests.operating_room.tiny_dataset import SRT, cloud, label_picture, picture, sound


def _read_yaml(path: Path) -> Any:
    return parse_yaml(read_bytes(path), str(path))


WHOLE: dict[str, tuple[bytes, tuple[Callable[[Path], Any], ...]]] = {
    "x.json": (json.dumps({"a": [1, 2.5, None, "text"], "b": {"c": True}}).encode(), (read_json,)),
    "x.yaml": (b"a: [1, 2.5]\nb: &x {c: true}\nd: *x\n", (_read_yaml,)),
    "x.jpg": (picture(), (read_picture, check_picture)),
    "x.png": (label_picture(1, 2, 5), (read_picture, read_label_mask, read_ids, check_picture)),
    "x.pcd": (cloud(), (read_point_cloud,)),
    "x.srt": (SRT.encode(), (read_subtitles,)),
    "x.mp3": (sound(0.3), (read_audio, check_audio)),
}


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_one_line(name: str, tmp_path: Path, data: st.DataObject) -> None:
    whole, readers = WHOLE[name]
    place = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(place, len(whole)))
    inserted = data.draw(
        st.binary(max_size=12) | st.sampled_from([b"9" * 5000, b"[" * 5000, b"\xff" * 8, b"nan", b"-1"])
    )
    path = tmp_path / name
    path.write_bytes(whole[:place] + inserted + whole[end:])
    for read in readers:
        complaint = ""
        try:
            read(path)
        except UserError as error:
            complaint = str(error)
        assert complaint == "" or complaint.startswith(f"{path}: ")
        assert "\n" not in complaint


@pytest.mark.parametrize("read", [read for _, readers in WHOLE.values() for read in readers])
def test_what_is_no_file_at_all(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("pipe", "loop", "dangling", "empty", "missing", ".", "a\0b", "n" * 300):
        with pytest.raises(UserError):
            read(tmp_path / name)


BOMBS = {
    "COUNT": b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1000000000\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n",
    "COUNTS": b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 900000000 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n",
    "POINTS": b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 999999999999\n",
    "negative": b"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 -1\nWIDTH 1\nHEIGHT 1\nPOINTS -5\n",
    "SIZE": b"FIELDS x y z rgb\nSIZE 4 4 4 999999999\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n",
}
CHILD = """
import resource, sys
from pathlib import Path
from operating_room.errors import UserError
from operating_room.files import readers
read, path = getattr(readers, sys.argv[1]), Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(path)
    print("accepted")
except UserError:
    print("refused", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _little_memory() -> None:
    limit = 3 << 30  # address space, of which numpy and its threads take a part
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_headers_that_ask_for_gigabytes(encoding: str, tmp_path: Path) -> None:
    for name, header in BOMBS.items():
        path = tmp_path / f"{name}.pcd"
        path.write_bytes(b"# .PCD v0.7\nVERSION 0.7\n" + header + f"DATA {encoding}\n".encode() + bytes(64))
        done = subprocess.run(
            [sys.executable, "-c", CHILD, "read_point_cloud", str(path)],
            capture_output=True,
            text=True,
            preexec_fn=_little_memory,
        )
        assert done.stdout.startswith("refused"), (name, done.stdout, done.stderr[-300:])
        assert int(done.stdout.split()[1]) < 300_000, f"{name}: kB for a file of 200 bytes"


def put_cloud(path: Path, rows: np.ndarray, fields: str = "x y z r g b") -> Path:
    count = fields.count(" ") + 1
    header = f"VERSION 0.7\nFIELDS {fields}\nSIZE{' 4' * count}\nTYPE{' F' * count}\nCOUNT{' 1' * count}\n"
    header += f"WIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA ascii\n"
    path.write_text(header + "\n".join(" ".join(f"{value:.5f}" for value in row) for row in rows) + "\n")
    return path


def test_colours_of_a_cloud_are_read_right_or_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    xyz, colors = draw.uniform(-2000, 2000, (20, 3)), draw.uniform(0, 255, (20, 3))
    path = tmp_path / "x.pcd"
    for scale in (1, 255):
        found = read_point_cloud(put_cloud(path, np.hstack([xyz, colors / scale])))
        np.testing.assert_allclose(found[:, 3:], colors / 255, atol=1e-4)
    assert not read_point_cloud(put_cloud(path, np.hstack([xyz, 0 * colors])))[:, 3:].any()
    for wrong in (colors * 2, -colors, (colors > 100).astype(float)):
        with pytest.raises(UserError, match="colours"):
            read_point_cloud(put_cloud(path, np.hstack([xyz, wrong])))


def test_packed_colours_are_bits_and_never_the_values_of_floats(tmp_path: Path) -> None:
    path = tmp_path / "x.pcd"
    header = "VERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F {}\nCOUNT 1 1 1 1\n"
    header += "WIDTH 2\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA ascii\n"
    rows = "937 337 0 {0}\n907 356 0 {0}\n"
    for kind, grey in (("U", 0x404040), ("F", np.uint32(0x404040).view(np.float32))):
        path.write_text(header.format(kind) + rows.format(grey))
        np.testing.assert_allclose(read_point_cloud(path)[:, 3:], 64 / 255, atol=1e-6)
    opaque = 0xFF404040
    path.write_text(header.format("U") + rows.format(opaque))
    np.testing.assert_allclose(read_point_cloud(path)[:, 3:], 64 / 255, atol=1e-6)
    for value in ("4.2108e+06", opaque, opaque - (1 << 32)):  # 0x404040 as a value, opaque, and that with a sign
        path.write_text(header.format("F") + rows.format(value))
        with pytest.raises(UserError, match="packed colours can be read in two ways"):
            read_point_cloud(path)


def test_opaque_colours_that_a_text_has_lost_as_nan_are_refused(tmp_path: Path) -> None:
    """The bits of many are those of a NaN: in a text of floats all of them were read as one dark red."""
    points = np.zeros((3, 4), np.float32)
    points[:, 0], points[2, 0] = (1, 900, 0), np.nan  # the last one has no depth
    points[:, 3] = np.array([0xFFC8C8C8, 0xFFC8C8C8, 0], np.uint32).view(np.float32)
    cloud = PointCloud.from_points(points, ("x", "y", "z", "rgb"), (np.float32,) * 4)
    cloud.save(str(tmp_path / "bits.pcd"), Encoding.BINARY)
    np.testing.assert_allclose(read_point_cloud(tmp_path / "bits.pcd")[:, 3:], 200 / 255, atol=1e-6)
    cloud.save(str(tmp_path / "text.pcd"), Encoding.ASCII)
    with pytest.raises(UserError, match="the packed colours of 2 points are nan in its text; save integers"):
        read_point_cloud(tmp_path / "text.pcd")


def test_one_point_far_beyond_all_others_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.pcd"
    header = "VERSION 0.7\nFIELDS x y z rgb\nSIZE 8 8 8 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
    header += "WIDTH 2\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA ascii\n"
    path.write_text(header + "1e300 337 0 255\n907 356 0 255\n")
    with pytest.raises(UserError, match="m wide"):
        read_point_cloud(path)


def test_points_without_depth_are_left_out_and_metres_are_refused(tmp_path: Path) -> None:
    draw, path = np.random.default_rng(0), tmp_path / "x.pcd"
    rows = np.hstack([draw.uniform(-2000, 2000, (20, 3)), draw.uniform(0, 255, (20, 3))])
    holes = rows.copy()
    holes[3, 0], holes[7, 2], holes[9, 1] = np.nan, np.inf, -np.inf
    np.testing.assert_allclose(
        read_point_cloud(put_cloud(path, holes))[:, :3], np.delete(rows, (3, 7, 9), axis=0)[:, :3] / 1000, atol=1e-4
    )
    with pytest.raises(UserError, match=r"m wide, expected 0\.1 to 600; files hold millimetres"):
        read_point_cloud(put_cloud(path, np.hstack([rows[:, :3] / 1000, rows[:, 3:]])))
    with pytest.raises(UserError, match="has 0 points, 20 more without depth"):
        read_point_cloud(put_cloud(path, rows * [[np.nan, 1, 1, 1, 1, 1]]))


def test_yaml_that_means_something_else_than_it_says(tmp_path: Path) -> None:
    texts = {
        "dates": "a: 2001-99-99\n",
        "bits": "a: 0b_\n",
        "digits": f"a: {'1' * 5000}\n",
        "nesting": f"a: {'[' * 3000}{']' * 3000}\n",
        "twice": "a: 1\nb: 2\na: 3\n",
        "twice below": "a: {b: 1, b: 2}\n",
        "objects": "a: !!python/object/apply:os.getcwd []\n",
        "keys": "{[1, 2]: 3}\n",
        "tabs": "a:\n\t- 1\n",
        "itself": "a: &x [*x]\n",
        "ten to the ninth": "x: &0 [laughing]\n" + "".join(f"x{i}: &{i} [{f'*{i - 1},' * 10}]\n" for i in range(1, 10)),
        "a long word": f"x: &x {'x' * 10_000}\ny: [{'*x,' * 1000}]\n",
    }
    for name, text in texts.items():
        with pytest.raises(UserError, match=r"^here: "):
            print(name, parse_yaml(text, "here"))
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", "here") == {
        "a": {"b": 1, "c": 2},
        "d": {"b": 1, "c": 3},
    }


@pytest.mark.parametrize("key", ["0", "false", "''", "~", "1"])
def test_a_yaml_key_that_stands_twice_is_told_whatever_it_is(key: str) -> None:
    with pytest.raises(UserError, match="stands twice"):
        parse_yaml(f"{key}: 1\n{key}: 2\n", "x.yaml")


@pytest.mark.parametrize("text", ["0040000", "012_1", "1:30", "+010"])
def test_numbers_that_yaml_reads_in_another_base_stay_text(text: str) -> None:
    """`SOLVER.MAX_ITER 0040000`, as in the names of published files, trained for 16384 steps."""
    assert parse_yaml(f"a: {text}", "x.yaml") == {"a": text}
    assert parse_yaml("[0, -1, 10, 0x1f, 1_000]", "x.yaml") == [0, -1, 10, 31, 1000]


def test_sound_of_many_channels_and_no_numbers(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros((100, 500), np.float32), 16000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav")[0].shape == (100, 500)
    soundfile.write(tmp_path / "b.wav", np.full((100, 1), np.nan, np.float32), 16000, subtype="FLOAT")
    for read in (read_audio, check_audio):
        with pytest.raises(UserError, match="no numbers"):
            read(tmp_path / "b.wav")


def test_a_wave_that_was_cut_off(tmp_path: Path) -> None:
    import soundfile

    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros((1000, 2), np.int16), 8000)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(UserError, match="is cut off after 1956 of 4000 bytes of sound"):
        read_audio(path)
    for size in range(1, 2000, 13):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            check_audio(path)
    place = whole.index(b"data") + 4
    path.write_bytes(whole[:place] + b"\xff" * 4 + whole[place + 4 :])  # written by who did not know how long it gets
    assert len(read_audio(path)[0]) == 1000


def test_the_mp3_library_is_silent_and_nobody_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A clip cut out of an mp3, whose first frames refer to sound before them; and a damaged one."""
    whole = sound(3.0)
    damaged = bytearray(whole)
    damaged[len(whole) // 4 :: 100] = bytes(len(range(len(whole) // 4, len(whole), 100)))
    for content in (whole[len(whole) // 2 :], bytes(damaged), whole[: len(whole) // 2] + bytes(range(256)) * 8):
        (tmp_path / "x.mp3").write_bytes(content)
        with contextlib.suppress(UserError):
            check_audio(tmp_path / "x.mp3")
    with silent_decoder():
        print("heard", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo heard >&2"], check=True)
    assert capfd.readouterr().err == "heard\nheard\n"
