"""Atomic files and folders: whole or absent, whatever happens, and nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from operating_room.errors import UserError
from operating_room.files import atomic as files
from operating_room.files.atomic import (
    atomic_folder,
    atomic_path,
    clear_left,
    require_folder,
    require_replaceable,
    temporary_path,
    write_bytes,
    write_json,
    write_text,
)
from operating_room.files.locks import one_at_a_time

KILLED = """
import os, signal, sys
from pathlib import Path
from operating_room.files.atomic import atomic_folder, atomic_path
path = Path(sys.argv[1])
with atomic_path(path) as temporary, atomic_folder(path.with_suffix(".shards")) as folder:
    temporary.write_bytes(b"half")
    (folder / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process that has not looked at any folder yet."""
    monkeypatch.setattr(files, "_cleared", set())


def _half_written(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("stop")


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_text(path, "first")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        _half_written(temporary)
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["a.json"]


def test_what_a_killed_process_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert process.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    write_text(tmp_path / "other.json", "x")
    assert os.listdir(tmp_path) == ["other.json"]


def test_what_is_left_of_a_name_with_a_line_break_is_removed_too(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = temporary_path(tmp_path / "two\nlines.json")
    left.with_name(left.name.replace(f".{os.getpid()}.", f".{dead.pid}.")).write_text("half")
    clear_left(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    mine = f".a.{files._HOST}.{os.getpid()}.00000000.partial.json"
    names = [mine, ".a.other-host.999999999.00000000.partial.json", ".hidden", "a.partial", ".a.partial.json"]
    for name in names:
        (tmp_path / name).write_text("x")
    write_text(tmp_path / "b.json", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "b.json"])


def test_what_another_host_has_left_goes_after_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start of a container is another host: what was killed in it stayed for ever."""
    left, folder, newer = (tmp_path / f".a.other-host.999999999.0000000{n}.partial" for n in range(3))
    left.write_bytes(b"half a model")
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "old.bin").write_bytes(b"half a model")
    os.utime(left, (0, 0))  # a copy may be of any date
    newer.touch()
    in_two_days, in_eight_days = (time.time() + days * 24 * 3600 for days in (2, 8))
    os.utime(newer, (in_two_days, in_two_days))
    clear_left(tmp_path)
    assert sorted(tmp_path.iterdir()) == [left, folder, newer]
    monkeypatch.setattr(files.time, "time", lambda: in_eight_days)
    clear_left(tmp_path)
    assert sorted(tmp_path.iterdir()) == [newer]


def test_two_writers_never_share_a_temporary_file(tmp_path: Path) -> None:
    """Also in containers, where host and process number may be the same."""
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() in ("1", "2")


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    long = tmp_path / ("n" * 300 + ".json")
    for path in (tmp_path / "file" / "out.json", tmp_path / "file" / "a" / "b.json", long, tmp_path / "folder"):
        with pytest.raises(UserError, match="cannot be written") as caught:
            write_bytes(path, b"x")
        assert str(caught.value).startswith(f"{path}: ")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_part_of_an_output_that_is_there_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match="file: is no folder; choose another output"):
            require_folder(path)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # what root would never see
    with pytest.raises(UserError, match="cannot be written; check permissions"):
        require_folder(tmp_path / "out")
    look = os.stat

    def closed(path: Any, **how: Any) -> os.stat_result:
        if Path(path) == tmp_path / "closed" / "out":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **how)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.stat", closed)
    with pytest.raises(UserError, match="closed: cannot be written"):
        require_folder(tmp_path / "closed" / "out")


def test_a_file_never_takes_the_place_of_a_device_or_pipe(tmp_path: Path) -> None:
    """As root, a rename onto /dev/null breaks the machine; a link there is none of ours either."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/null"), Path("/dev/stdout"), Path("/dev/new.json")):
        with pytest.raises(UserError, match="the place of a device"):
            require_replaceable(path)
    for path in (pipe, link):
        with pytest.raises(UserError, match="the place of a device"):
            write_bytes(path, b"x")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    for name in (
        "n" * 240,
        "\N{GREEK SMALL LETTER OMEGA}" * 120,
        "\N{CJK UNIFIED IDEOGRAPH-624B}" * 80,
        "\udcff" * 240,
    ):
        path = tmp_path / f"{name}.json"
        write_text(path, "x")
        assert path.read_text() == "x"
    assert len(os.listdir(tmp_path)) == 4


def test_letters_that_names_cannot_have_in_this_locale(tmp_path: Path) -> None:
    """In one that is not UTF-8 the temporary name of `\xdf.csv` had a letter that no name has: a traceback."""
    code = "import sys; from pathlib import Path; from operating_room.files.atomic import write_text as write; "
    code += "write(Path(sys.argv[1]), 'text'); write(Path(sys.argv[1] + 'x' * 20), 'text')"
    path = tmp_path / ("\xdf" * 40 + ".csv")
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env={**os.environ, **locale}, stderr=subprocess.PIPE)
    assert not done.stderr
    assert sorted(os.listdir(tmp_path)) == [path.name, path.name + "x" * 20]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"choose another place \(--out"):
        write_text(tmp_path / "a", "x")


def test_what_to_do_where_nothing_can_be_written(tmp_path: Path) -> None:
    """`convert-relations` of a dataset on a read-only disk told to check free space, and nothing of --out."""
    for number, advice in ((errno.EROFS, "choose another place (--out"), (errno.ENOSPC, "check free space")):
        with pytest.raises(UserError, match=re.escape(advice)), atomic_path(tmp_path / "a"):
            raise OSError(number, os.strerror(number))


def test_a_missing_input_is_not_told_as_a_failure_to_write(tmp_path: Path) -> None:
    missing = tmp_path / "input.json"
    with pytest.raises(UserError) as caught, atomic_path(tmp_path / "out.json"):
        missing.read_bytes()
    assert str(caught.value).startswith(f"{missing}: ")
    assert "cannot be written" not in str(caught.value)


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "shards") as folder:
            (folder / text).write_text("x")
    assert os.listdir(tmp_path / "shards") == ["second"]
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "shards") as folder:
        _half_written(folder / "half")
    assert os.listdir(tmp_path) == ["shards"]
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "take"):
        told = re.escape(f"{folder}: cannot be written ({tmp_path / 'file'} is a file); choose another folder")
        with pytest.raises(UserError, match=told), atomic_folder(folder):
            pass
        with pytest.raises(UserError, match=re.escape(f"({tmp_path / 'file'} is a file)")):
            write_text(folder / "x.json", "x")


def test_json_never_holds_what_json_does_not_have(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5, (float("inf"), True)], "text": "\ud800 ä"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [None, 1.5, [None, True]], "text": "\ud800 ä"}
    write_text(tmp_path / "b.txt", "\udcff ä")
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "\\udcff ä"


def test_a_lock_of_another_user_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of several users: who may not write the file can lock it all the same."""
    path = tmp_path / ".lock"
    path.touch()
    opened, of_path = [], Path.open

    def closed(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if self == path and mode != "rb":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        opened.append(of_path(self, mode, *args, **options))
        return opened[-1]

    monkeypatch.setattr(Path, "open", closed)
    with one_at_a_time(path), of_path(path, "ab") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert [file.closed for file in opened] == [True]
