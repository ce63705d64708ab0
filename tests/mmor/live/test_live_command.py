"""`mmor live` as a command: how it ends, what it refuses, and that its file is its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmor.cli import app
from mmor.cli.live import sound_encoder
from mmor.demo import BUNDLED, GRAPHS
from operating_room.errors import UserError
from operating_room.files.locks import lock
from scene_graph_generation.preprocess.embeddings import mel_encoder
from tests.mmor.live.conftest import TAKE


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mmor.cli", "live", *arguments]


def test_who_reads_one_line_only_ends_it_quietly(data: Path) -> None:
    """As `mmor live ... | head -1`."""
    with subprocess.Popen(
        command("--replay", TAKE.name, "--data", str(data), "--speed", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0
    assert first["frame_id"] == "000000"
    assert "Traceback" not in said
    assert "Error" not in said
    assert "seconds answered" in said


def test_a_run_that_has_written_nothing_yet_has_its_file_for_itself(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    with out.open("a") as file:
        lock(out, file)
        arguments = "--replay", TAKE.name, "--data", str(data), "--speed", "0", "--out", str(out)
        second = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == f"error: {out}: another run is writing it; wait for it or choose another output\n"
    assert not out.read_bytes()


@pytest.fixture
def interruptible() -> Generator[None]:
    """Processes that are started listen to ctrl-C and SIGHUP, also where tests run in the background or by nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGHUP), before):
        signal.signal(number, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_with_a_summary_and_a_file_is_not_mixed_up(
    data: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """So do systemd, `docker stop` and a closed terminal, after which the masks of the last second stayed in /tmp."""
    out, temporary = tmp_path / "lines.jsonl", tmp_path / "temporary"
    temporary.mkdir()
    arguments = "--replay", TAKE.name, "--data", str(data), "--speed", "0.02", "--out", str(out)
    with subprocess.Popen(
        command(*arguments),
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (out.exists() and out.stat().st_size) and process.poll() is None:
            time.sleep(0.1)
        os.kill(process.pid, sent)
        printed, said = process.communicate()
        assert process.returncode == 0, said
    assert not list(temporary.glob("mmor-*"))
    assert printed == ""
    assert "live: 1 seconds answered, 0 skipped" in said
    assert "Traceback" not in said
    assert [json.loads(line)["frame_id"] for line in out.read_text().splitlines()] == ["000000"]
    again = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1] == f"error: {out}: holds the lines of another run; choose a new file"
    assert len(out.read_text().splitlines()) == 1


def test_a_full_disk_is_one_line(data: Path) -> None:
    arguments = "--replay", TAKE.name, "--data", str(data), "--speed", "0", "--out", "/dev/full"
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: /dev/full: cannot be written (No space left on device)")
    assert "Traceback" not in done.stderr


def test_a_model_around_a_base_needs_to_be_told_what_it_heard(tmp_path: Path) -> None:
    """Vectors of both encoders have 512 numbers, so that nothing would tell."""
    with pytest.raises(UserError, match="add --audio-encoder clap, and for published models --published-feeding"):
        sound_encoder(None, False, None, tmp_path)
    assert sound_encoder(None, False, None, None) is mel_encoder  # it hears nothing
    assert sound_encoder(None, False, None, BUNDLED / GRAPHS) is mel_encoder
    assert sound_encoder("none", False, None, tmp_path) is None
    done = CliRunner().invoke(app, ["live", str(tmp_path), "--published-feeding"])
    assert "are of CLAP; add --audio-encoder clap" in str(done.exception)


def test_a_split_is_no_take_to_replay(data: Path) -> None:
    refused = subprocess.run(command("--replay", "train", "--data", str(data)), capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "train" in refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["somewhere", "--speed", "0"], "--speed is of a replay"),
        (["--replay", "x", "--patience", "3"], "--patience is of"),
    ],
)
def test_options_of_the_other_kind_of_take_are_refused(words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["live", *words])
    assert told in str(result.exception)


def test_a_replay_that_would_never_end_is_refused(data: Path) -> None:
    words = ["live", "--replay", TAKE.name, "--data", str(data), "--speed", "1e-300"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UserError)
    assert "--speed 1e-300: takes ages; give 0, or 0.001 and more" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--replay", TAKE.name, "--segmenter", "nowhere"], "nowhere: no such model; give its file"),
        (["--replay", TAKE.name, "--speed", "inf"], "--speed inf: all seconds but the last would be skipped"),
        (["MM-OR_data/005_TKA"], "005_TKA: no such folder; give that of a take that is being recorded"),
    ],
)
def test_what_is_wrong_is_told_before_the_model_is_loaded(
    data: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    monkeypatch.setattr("mmor.cli.live.load_generator", lambda *_, **__: pytest.fail("minutes of loading"))
    assert told in str(CliRunner().invoke(app, ["live", *words, "--data", "."]).exception)
