"""The page in a real browser: Debian's chromium, driven by playwright; skipped where either is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from mmor.viewer.server import STATIC
from mmor.viewer.takes import Shown, open_shown
from operating_room.recordings.dataset import Dataset
from tests.mmor.viewer.conftest import MARKUP, MARKUP_AT, SECONDS, TAKE, WRONG_FROM, Folder
from tests.mmor.viewer.driven import served, until, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SOUND = "document.querySelector('#sound')"
NAME = TAKE.sample_name
LONG = 1156  # s, the longest take of MM-OR


def test_a_link_leads_to_its_second_and_survives_a_reload(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=12&masks=truth")
    wait_for(page, 12)
    assert page.locator("#views figure").count() == 10
    assert page.locator("#views img.mask").count() == 6
    page.keyboard.press("ArrowRight")
    wait_for(page, 13)
    assert "at=13" in page.url
    assert page.locator("#views img.mask").count() == 0  # every other second is annotated
    page.reload()
    wait_for(page, 13)
    other = tab(f"{address}#take={NAME}&at=30")
    wait_for(other, 30)
    page.keyboard.press("ArrowRight")
    wait_for(page, 14)
    assert "at=30" in other.url


def test_a_browser_that_limits_addresses_still_shows_the_second(address: str, tab: Callable[[str], Page]) -> None:
    """Safari throws after a hundred in half a minute: the clock went on, pictures and graph did not."""
    page = tab(f"{address}#take={NAME}&at=0")
    wait_for(page, 0)
    # By the driver, which the page's policy does not bind.
    page.evaluate(
        "() => { let n = 0; const before = history.replaceState.bind(history); history.replaceState = (...given) => "
        "{ if (++n > 2) throw new DOMException('too many', 'SecurityError'); before(...given); }; }"
    )
    for second in range(1, 6):
        page.keyboard.press("ArrowRight")
        wait_for(page, second)
    assert "at=2" in page.url


def test_masks_are_put_on_and_off_and_name_their_categories(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=12")
    wait_for(page, 12)
    assert page.locator("#views img.mask").count() == 0
    page.select_option("#masks", "truth|masks")
    until(page, "document.querySelectorAll('#views img.mask').length === 9")  # 6 true, 3 predicted
    page.select_option("#masks", "truth")
    until(page, "document.querySelectorAll('#views img.mask').length === 6")
    box = page.locator("figure[data-camera='1']").bounding_box()
    assert box is not None
    names = set()
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.6 * box["height"])
        names.add(page.locator("#tip").inner_text() if page.locator("#tip").is_visible() else "")
    legend = page.locator("#legend span").all_inner_texts()
    assert names - {""}
    assert names - {""} <= {text.strip() for text in legend}
    page.keyboard.press("m")
    page.keyboard.press("m")
    until(page, "document.querySelector('#masks').value !== 'truth'")


def test_it_plays_with_sound_in_step_and_stops(shown: Shown, address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=3")
    wait_for(page, 3)
    page.keyboard.press("Space")
    until(page, f"!{SOUND}.paused && {SOUND}.currentTime > 5")
    until(page, "Number(document.body.dataset.shown) >= 5")
    page.keyboard.press("Space")
    until(page, f"{SOUND}.paused && document.querySelector('#slider').value === document.body.dataset.shown")
    heard, position = page.evaluate(f"[{SOUND}.currentTime, Number(document.body.dataset.shown)]")
    assert heard == pytest.approx(shown.take(NAME).times[position], abs=0.05)


def test_a_page_that_reloads_while_it_plays_shows_where_it_was(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=3&masks=truth")
    wait_for(page, 3)
    page.keyboard.press("Space")
    until(page, "Number(document.body.dataset.shown) >= 5")
    for _ in range(3):  # pictures are on their way each time
        page.keyboard.press("ArrowRight")
        page.reload(wait_until="domcontentloaded")  # at "commit" a busy machine's browser may not take the next one yet
    page.wait_for_selector("body[data-shown]")
    position = int(page.evaluate("document.body.dataset.shown"))
    assert position >= 5
    assert f"at={position}&masks=truth" in page.url
    assert page.evaluate(f"{SOUND}.paused")
    assert page.locator("#problem").is_hidden()
    page.keyboard.press("ArrowRight")
    wait_for(page, position + 1)


def test_jumps_go_to_the_next_error_and_the_next_drilling(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=0")
    page.wait_for_selector("#error-after:enabled")
    page.keyboard.press("]")
    wait_for(page, WRONG_FROM)
    assert page.locator("#triplets td.wrong").count() == 1
    page.keyboard.press("]")
    wait_for(page, WRONG_FROM + 1)
    page.keyboard.press("Home")
    wait_for(page, 0)
    page.keyboard.press(".")
    wait_for(page, WRONG_FROM)
    page.select_option("#predicate", "drilling")
    page.keyboard.press("Home")
    wait_for(page, 0)
    page.click("#hold-after")
    page.keyboard.press("Space")  # not the button again
    until(page, "document.querySelector('#play').textContent.includes('pause')")
    page.keyboard.press("Space")
    until(page, "document.querySelector('#triplets').textContent.includes('drilling')")


def test_what_was_heard_is_text_whatever_it_holds(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at={MARKUP_AT}")
    wait_for(page, MARKUP_AT)
    assert MARKUP in page.locator("#signals").inner_text()
    assert page.title() == "004_PKA - mmor view"
    page.click("#texts summary")
    page.wait_for_selector("#texts pre")
    assert MARKUP in "".join(page.locator("#texts pre").all_inner_texts())
    assert page.title() == "004_PKA - mmor view"


def test_the_cloud_is_drawn(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=8")
    until(page, "/points|WebGL/.test(document.querySelector('#cloud-note').textContent)")
    assert "points" in page.locator("#cloud-note").inner_text()


def test_cameras_stand_in_the_cloud_and_one_shows_it(address: str, tab: Callable[[str], Page]) -> None:
    page = tab(f"{address}#take={NAME}&at=8")
    until(page, "/cameras|WebGL/.test(document.querySelector('#cloud-note').textContent)")
    assert "5 cameras" in page.locator("#cloud-note").inner_text()
    assert page.locator("#views canvas").count() == 0
    page.keyboard.press("c")
    page.wait_for_selector("figure[data-camera='1'] canvas")
    assert "cloud, from the camera" in page.locator("#legend").inner_text()
    drawn = "Number(document.querySelector('#views canvas').dataset.points)"
    assert page.evaluate(f"() => {drawn}") > 100
    page.select_option("#seen", "3")
    page.wait_for_selector("figure[data-camera='3'] canvas")
    assert page.locator("#views canvas").count() == 1
    assert "cloud=3" in page.url
    page.keyboard.press("ArrowRight")
    wait_for(page, 9)
    page.reload()
    page.wait_for_selector("figure[data-camera='3'] canvas")
    page.select_option("#seen", "")
    until(page, "document.querySelectorAll('#views canvas').length === 0")


def test_without_camera_files_the_page_says_so_and_shows_the_rest(
    folder: Folder, tmp_path: Path, tab: Callable[[str], Page]
) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    for path in (tmp_path / "data" / "MM-OR_data" / TAKE.name).glob("camera*.json"):
        path.unlink()
    with served(open_shown(Dataset(tmp_path / "data"), TAKE)) as address:
        page = tab(f"{address}#take={NAME}&at=8&cloud=3")
        until(page, "/no camera files|WebGL/.test(document.querySelector('#cloud-note').textContent)")
        assert page.locator("#cloud-note").inner_text().endswith("points; no camera files")
        assert page.locator("#seen").is_hidden()
        page.keyboard.press("c")
        page.keyboard.press("ArrowRight")
        wait_for(page, 9)


def test_without_a_take_one_is_chosen(folder: Folder, tab: Callable[[str], Page]) -> None:
    with served(open_shown(Dataset(folder.data))) as address:
        page = tab(address)
        page.click("text=004_PKA")
        wait_for(page, 0)
        assert page.locator("#error-after").is_hidden()  # nothing was predicted
        page.click("#back")
        page.wait_for_selector(".takes a")


def test_a_folder_that_vanishes_is_told(folder: Folder, tmp_path: Path, tab: Callable[[str], Page]) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    with served(open_shown(Dataset(tmp_path / "data"), TAKE)) as address:
        page = tab(f"{address}#take={NAME}&at=2")
        wait_for(page, 2)
        shutil.rmtree(tmp_path / "data")
        page.keyboard.press("End")  # the page has the next second already
        until(page, "document.querySelector('figcaption.bad')?.textContent.includes('not there any more')")


def test_the_longest_take_at_full_size(folder: Folder, tmp_path: Path, tab: Callable[[str], Page]) -> None:
    """1156 s out of the short take, 2048 x 1536 px in the first 20 of them."""
    root = tmp_path / "MM-OR_data"
    shutil.copytree(folder.data / "MM-OR_data", root)
    index = root / TAKE.folder / "timestamp_to_pcd_and_frames_list.json"
    elements = json.loads(index.read_text())
    index.write_text(json.dumps([[f"{at:06d}", elements[at % len(elements)][1]] for at in range(LONG)]))
    shown = open_shown(Dataset(tmp_path), TAKE)
    first = shown.take(NAME).recorded.timepoints[:20]
    for camera, path in first[0].views.items():
        Image.open(path).resize((2048, 1536)).save(tmp_path / f"{camera}.jpg")
    for timepoint in first:
        for camera, path in timepoint.views.items():
            shutil.copy(tmp_path / f"{camera}.jpg", path)
    with served(shown) as address:
        page = tab(f"{address}#take={NAME}&at=0")
        wait_for(page, 0)
        for position in range(1, 20):
            page.keyboard.press("ArrowRight")
            wait_for(page, position)
        page.keyboard.press("End")
        wait_for(page, LONG - 1)
        page.wait_for_selector("#hold-before:enabled")
    assert 0 < shown.cache.size <= shown.cache.limit
    assert SECONDS < len(shown.take(NAME).recorded.timepoints) == LONG


def test_a_live_page_follows_and_stops_following(folder: Folder, tmp_path: Path, tab: Callable[[str], Page]) -> None:
    def line(second: int) -> str:
        fields = {"take": NAME, "frame_id": f"{second:06d}", "time": float(second), "text": "", "missing": ["tracker"]}
        return json.dumps({**fields, "graph": [["nurse", "holding", "drill"]], "latency_s": {"total": 0.5}}) + "\n"

    path = tmp_path / "live.jsonl"
    path.write_text(line(4))
    with served(open_shown(Dataset(folder.data), live=path)) as address:
        page = tab(address)
        wait_for(page, 4)
        with path.open("a") as file:
            file.write(line(5))
        wait_for(page, 5)
        assert "without tracker" in page.locator("#signals").inner_text()
        page.click("#before")
        wait_for(page, 4)
        with path.open("a") as file:
            file.write(line(6))
        until(page, "document.body.dataset.newest === '000006'")
        assert page.locator("#slider").input_value() == "4"
        page.check("#follow")
        with path.open("a") as file:
            file.write(line(7))
        wait_for(page, 7)


def test_it_follows_a_running_live(folder: Folder, tmp_path: Path, tab: Callable[[str], Page]) -> None:
    """The bundled models answer in another process, at the pace of the take, while the page looks on."""
    lines = tmp_path / "live.jsonl"
    arguments = ("live", "--replay", TAKE.name, "--data", str(folder.data), "--speed", "1", "--out", str(lines))
    with subprocess.Popen([sys.executable, "-m", "mmor.cli", *arguments], stderr=subprocess.PIPE, text=True) as live:
        try:
            while live.poll() is None and not (lines.exists() and lines.stat().st_size):
                time.sleep(0.1)
            assert live.poll() is None, live.stderr and live.stderr.read()
            with served(open_shown(Dataset(folder.data), live=lines)) as address:
                page = tab(address)
                newest = "Number(document.body.dataset.newest)"
                until(page, f"{newest} >= 0 && document.body.dataset.shown === document.querySelector('#slider').value")
                first = page.evaluate(newest)
                until(page, f"{newest} >= {first + 2} && Number(document.body.dataset.shown) >= {first + 2}")
                assert live.poll() is None  # the file was still being written
                page.wait_for_selector("#triplets td.mark:not(.true)")
                assert "answered in" in page.locator("#signals").inner_text()
                assert "live, the last 60 s" in page.locator("#subtitle").inner_text()
                assert page.locator("#problem").is_hidden()
        finally:
            live.terminate()


def test_a_hundredth_below_a_second_is_that_second(browser: Browser) -> None:
    """At 29.97 pictures a second: 28.9957 s was shown as 0:28.100."""
    source = re.search(r"^function clock\(.*?^}", (STATIC / "viewer.js").read_text(), re.MULTILINE | re.DOTALL)
    assert source is not None
    told = browser.new_page().evaluate(
        f"(() => {{ {source[0]}; return [870 / 30.004, 59.999, 61.5, 7].map(clock); }})()"
    )
    assert told == ["0:29", "1:00", "1:01.50", "0:07"]
