"""Who may see the page, where it is served, and what is refused before it is."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from mmor.cli import app
from mmor.viewer.cache import Ahead, Cache
from mmor.viewer.server import make_app
from mmor.viewer.serving import listen, page_address
from mmor.viewer.takes import Shown, open_shown
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.mmor.viewer.conftest import TAKE, Folder
from tests.operating_room.tiny_dataset import MMOR_NAME, write_dataset


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8123", "[::1]:8000", "LOCALHOST"])
def test_this_machine_may_look(shown: Shown, host: str) -> None:
    assert TestClient(make_app(shown)).get("/api/takes", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "192.168.0.7:8000"])
def test_a_name_that_is_made_to_lead_here_gets_nothing(shown: Shown, host: str) -> None:
    for url in ("/", "/api/takes", "/static/viewer.js"):
        answer = TestClient(make_app(shown)).get(url, headers={"Host": host})
        assert answer.status_code == 403
        assert TAKE.name not in answer.text


def test_a_number_that_no_program_reads_is_refused(shown: Shown) -> None:
    client = TestClient(make_app(shown), base_url="http://127.0.0.1")
    answer = client.get(f"/api/takes/{TAKE.sample_name}/{'9' * 5000}")
    assert answer.status_code == 414
    assert "4000 characters" in answer.json()["problem"]
    assert client.get(f"/api/takes/{TAKE.sample_name}/{'9' * 3000}").status_code == 404


def test_others_need_the_token_once(shown: Shown) -> None:
    server = make_app(shown, token="a-token", host="0.0.0.0")
    client = TestClient(server, base_url="http://theatre.example:8000")
    assert client.get("/api/takes").status_code == 403
    assert client.get("/?token=a-tokem").status_code == 403
    assert client.get("/static/viewer.js").status_code == 403
    opened = client.get("/?token=a-token", follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert client.get("/api/takes").status_code == 200  # by the cookie
    assert TestClient(server, base_url="http://theatre.example:8000").get("/api/takes").status_code == 403


def test_the_address_that_is_printed_has_the_token() -> None:
    assert page_address("127.0.0.1", 8001, None) == "http://127.0.0.1:8001/"
    assert page_address("::1", 8001, None) == "http://[::1]:8001/"
    assert page_address("10.0.0.7", 8001, "abc") == "http://10.0.0.7:8001/?token=abc"


def test_a_port_in_use_is_told_and_one_that_nobody_chose_is_another() -> None:
    with listen("127.0.0.1", None) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: address already in use"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", None) as second:
            assert second.getsockname()[1] != port


@pytest.mark.parametrize("host", ["no such name", "a..b", "x" * 64])
def test_an_address_that_is_none_is_told(host: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        listen(host, 8000)


@pytest.mark.parametrize("port", [None, 8000])
def test_an_address_of_another_machine_is_told(port: int | None) -> None:
    """No port would help, and another one was advised."""
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1: is no address of this machine"):
        listen("192.0.2.1", port)  # of documentation, so nobody's


def test_the_command_refuses_before_it_serves(folder: Folder, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["view", "004_PKA", "--data", str(folder.data), "--port", port, "--no-browser"])
    assert isinstance(done.exception, UserError)
    assert "in use" in str(done.exception)
    done = CliRunner().invoke(app, ["view", "011_TKA", "--data", str(folder.data), "--no-browser"])
    assert "no take 011_TKA" in str(done.exception)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"task": "scene_graph", "about": {"domain": "egoexor"}, "samples": {}}, "is of domain egoexor"),
        ({"task": "scene_graph", "about": {}, "overall": {}}, "as an older version wrote"),
        ({"task": "next_action", "about": {}, "samples": {}}, "holds results of next_action"),
        ({"task": "scene_graph", "samples": {"004_PKA_MMOR_000000": {"predicted": [["a"]]}}}, "no list of predicted"),
        ({"011_TKA_MMOR_000000": []}, "says nothing of take 004_PKA; it is about 011_TKA_MMOR"),
        ({"004_PKA_MMOR_000000": [["a", "b"]]}, "predictions map sample ids"),
        ([1, 2], "predictions map sample ids"),
    ],
)
def test_results_that_do_not_fit_are_refused(folder: Folder, tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=told):
        open_shown(Dataset(folder.data), TAKE, graphs=[path])


def test_more_than_two_and_folders_without_masks_are_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 at most"):
        open_shown(Dataset(folder.data), graphs=[folder.results] * 3)
    with pytest.raises(UserError, match="holds no predicted masks"):
        open_shown(Dataset(folder.data), masks=[tmp_path])
    with pytest.raises(UserError, match="cannot be listed"):
        open_shown(Dataset(folder.data), masks=[tmp_path / "none"])


def test_masks_of_another_take_are_refused(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.masks, tmp_path / "masks")
    for video in (tmp_path / "masks" / "inference" / "pan_pred").iterdir():
        video.rename(video.with_name(video.name.replace("004_PKA", "011_TKA")))
    with pytest.raises(UserError, match="holds no masks of take 004_PKA"):
        open_shown(Dataset(folder.data), TAKE, masks=[tmp_path / "masks"])


def test_two_files_of_one_name_are_told_apart(folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "other" / folder.results.name
    other.parent.mkdir()
    other.write_bytes(folder.results.read_bytes())
    shown = open_shown(Dataset(folder.data), graphs=[folder.results, other])
    assert list(shown.graphs) == [f"{folder.results.parent.name}/wrong", "other/wrong"]


def test_texts_beside_predictions_are_found_even_after_a_run_was_killed(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_bytes(folder.predictions.read_bytes())
    lines = ['{"model": "x"}', '["004_PKA_MMOR_000003", "q", "<SG> </SG>"]', '["004_PKA_MMOR_000004", "q", "<SG']
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    assert open_shown(Dataset(folder.data), graphs=[path]).graphs["said"].texts == {"004_PKA_MMOR_000003": "<SG> </SG>"}


def test_the_cache_keeps_to_its_limit_and_what_was_used_last() -> None:
    cache, made = Cache(100), []

    def get(key: int, size: int = 40) -> bytes:
        return cache.get(key, lambda: made.append(key) or bytes(size))

    get(1), get(2), get(1), get(3)
    assert (cache.size, 1 in cache, 2 in cache, 3 in cache) == (80, True, False, True)
    get(4, 101)  # larger than everything: given, not kept
    assert 4 not in cache
    get(1)
    assert made == [1, 2, 3, 4]


def test_what_is_made_ahead_goes_on_behind_a_broken_file() -> None:
    made: list[str] = []

    def broken() -> None:
        raise UserError("broken")

    ahead = Ahead()
    ahead.make([broken, lambda: made.append("next")])
    ahead._thread.shutdown()
    assert made == ["next"]


def test_live_lines_are_followed_while_they_are_written(folder: Folder, tmp_path: Path) -> None:
    def line(second: int, **more: object) -> str:
        fields = {"take": TAKE.sample_name, "frame_id": f"{second:06d}", "time": float(second), "text": "<SG> </SG>"}
        graph = [["nurse", "closeTo", "patient"]]
        return json.dumps({**fields, "graph": graph, "latency_s": {"total": 0.5}, "missing": [], **more}) + "\n"

    path = tmp_path / "live.jsonl"
    beyond = line(2).replace("2.0", "9" * 400)  # a whole number that is no float
    path.write_text(line(2, behind_s=10**400) + "damaged\n" + beyond + line(2, time=math.nan) + line(3)[:30])
    shown = open_shown(Dataset(folder.data), live=path)
    client = TestClient(make_app(shown), base_url="http://127.0.0.1")
    found = client.get("/api/live").json()
    assert ([one["frame_id"] for one in found["lines"]], found["damaged"]) == (["000002"], 3)
    with path.open("a") as file:
        file.write(line(3)[30:] + line(4, problem="no picture"))
    assert [one["frame_id"] for one in client.get("/api/live").json()["lines"]] == ["000002", "000003", "000004"]
    second = client.get(f"/api/takes/{TAKE.sample_name}/3").json()
    assert ["nurse", "patient", "closeTo"] in [row[:3] for row in second["graphs"]["live"]["triplets"]]
    assert client.get(f"/api/takes/{TAKE.sample_name}/4").json()["graphs"]["live"] is None  # it was not answered
    with path.open("a") as file:
        file.writelines(line(second) for second in range(5, 90))
    lines = client.get("/api/live").json()["lines"]
    assert [lines[0]["at_s"], lines[-1]["at_s"]] == [29.0, 89.0]  # the last minute
    path.write_text(line(0))  # begun anew
    assert [one["frame_id"] for one in client.get("/api/live").json()["lines"]] == ["000000"]
    path.unlink()
    assert "start `mmor live` first" in client.get("/api/live").json()["problem"]


BROWSER = f"""#!{sys.executable}
import os, signal, sys, urllib.request
try:
    told = str(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except OSError as error:
    told = str(error)
open(__file__ + ".told", "w").write(told)
os.kill(os.getppid(), signal.SIGINT)
"""


@pytest.mark.parametrize("name", ["shows-pictures", "lynx"])
def test_a_browser_that_is_waited_for_gets_the_page_and_one_of_text_is_not_opened(
    folder: Folder, tmp_path: Path, name: str
) -> None:
    browser = tmp_path / name
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "mmor.cli", "view", "004_PKA", "--data", str(folder.data)],
        env={**os.environ, "BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        if name == "lynx":
            with urlopen(address) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    told = browser.with_name(f"{name}.told")
    assert (told.read_text() if told.exists() else None) == (None if name == "lynx" else "200")


def test_a_folder_in_the_place_of_a_recording_is_told(tmp_path: Path) -> None:
    """It was a traceback, for each visitor."""
    data = write_dataset(tmp_path)
    (sound := data / "MM-OR_data" / "take_audios" / f"{MMOR_NAME}.mp3").unlink()
    sound.mkdir()
    with TestClient(make_app(open_shown(Dataset(data))), base_url="http://127.0.0.1:8000") as client:
        answer = client.get(f"/api/takes/{MMOR_NAME}_MMOR/sound")
    assert answer.status_code == 404
    assert "mp3: is a folder, device or pipe where a recording is expected" in answer.json()["problem"]
