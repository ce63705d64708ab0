"""The page in a browser: what comes late or is damaged, a live take that grows, and what lies on top of each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmor.viewer.takes import Shown, open_shown
from operating_room.graphs.graph_files import save_predictions
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.dataset import Dataset
from tests.mmor.live.recorder import house_recorder
from tests.mmor.viewer.conftest import TAKE, Folder
from tests.mmor.viewer.driven import served, until, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

NAME = TAKE.sample_name


def test_what_comes_late_is_not_shown_in_the_place_of_what_is_wanted(address: str, tab: Callable[[str], Page]) -> None:
    """A picture that failed covered that of the next second, and a second that came when the list was seen failed."""
    page = tab(f"{address}#take={NAME}&at=3")
    wait_for(page, 3)

    def hold(pattern: str, position: int) -> Route:
        held: list[Route] = []
        page.route(pattern, lambda route: held.append(route))
        page.evaluate(f"() => {{ location.hash = 'take={NAME}&at={position}'; }}")
        until(page, f"document.querySelector('#slider').value === '{position}'")
        while not held:
            page.wait_for_timeout(100)
        return held[0]

    picture = hold("**/12/views/1?*", 12)
    page.keyboard.press("ArrowRight")
    wait_for(page, 13)
    picture.abort()
    page.wait_for_timeout(500)
    assert page.locator("figure[data-camera='1'] figcaption").get_attribute("class") in (None, "")
    second = hold("**/30?*", 30)
    page.click("#back")
    page.wait_for_selector("#list a")
    second.continue_()
    page.wait_for_timeout(500)
    assert page.locator("#problem").is_hidden()
    assert page.locator("#list").is_visible()


def test_a_second_asked_for_ahead_may_come_when_the_list_is_seen(address: str, tab: Callable[[str], Page]) -> None:
    """It failed there, unseen: the take that it is of was gone."""
    page = tab(f"{address}#take={NAME}&at=3")
    wait_for(page, 3)
    held: list[Route] = []
    page.route("**/8?*", lambda route: held.append(route))
    page.evaluate(f"() => {{ location.hash = 'take={NAME}&at=7'; }}")
    wait_for(page, 7)
    while not held:
        page.wait_for_timeout(100)
    page.click("#back")
    page.wait_for_selector("#list a")
    held[0].continue_()
    page.wait_for_timeout(500)  # what fails is told by the tab at its end
    assert page.locator("#list").is_visible()


def test_a_damaged_cloud_is_not_that_of_the_second_before(
    folder: Folder, tmp_path: Path, tab: Callable[[str], Page]
) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    shown = open_shown(Dataset(tmp_path / "data"), TAKE)
    cloud = shown.take(NAME).recorded.timepoints[9].one("point_cloud")
    assert cloud is not None
    cloud.write_bytes(cloud.read_bytes()[:300])
    with served(shown) as address:
        page = tab(f"{address}#take={NAME}&at=8")
        page.wait_for_selector("#cloud[data-points]")
        page.keyboard.press("ArrowRight")
        until(page, f"document.querySelector('#cloud-note').textContent.includes('{cloud.name}')")
        assert page.locator("#cloud").is_hidden()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#cloud:visible")


def test_a_live_take_that_grows_keeps_what_somebody_looks_at(tmp_path: Path, tab: Callable[[str], Page]) -> None:
    """Each new second forgot the one that was seen: its texts stayed empty, and playing stopped."""
    recorder = house_recorder(tmp_path)
    path = tmp_path / "live.jsonl"

    def answer(seconds: range) -> None:
        for second in seconds:
            recorder.shoot(second)
        lines = ({"take": "soup", "frame_id": f"{s:06d}", "time": s, "graph": [], "text": "seen"} for s in seconds)
        with path.open("a") as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in lines))

    answer(range(5))
    with served(open_shown(Dataset(tmp_path), live=path)) as address:
        page = tab(address)
        wait_for(page, 4)
        page.click("#before")
        wait_for(page, 3)
        answer(range(5, 8))
        until(page, "document.body.dataset.newest === '000007'")
        assert page.locator("#slider").get_attribute("max") == "7"
        page.click("#texts summary")
        page.wait_for_selector("#texts-body pre")
        page.click("#back")  # nothing but the live take is shown
        wait_for(page, 7)
        assert page.locator("#views figure").count() > 0


def test_two_predicates_of_one_pair_can_both_be_read(
    folder: Folder, shown: Shown, tmp_path: Path, tab: Callable[[str], Page]
) -> None:
    """What was said in the place of the truth lay exactly below it."""
    at, (s, o, true) = next(
        (position, triplet)
        for position, graph in shown.take(NAME).truth.items()
        for triplet in graph
        if triplet.predicate not in ("closeTo", "drilling")
    )
    path = tmp_path / "said.json"
    save_predictions(path, {f"{NAME}_{at:06d}": [Triplet(s, o, "drilling")]})
    with served(open_shown(Dataset(folder.data), TAKE, graphs=[path])) as address:
        page = tab(f"{address}#take={NAME}&at={at}")
        wait_for(page, at)
        boxes = [
            page.locator("#graph text", has_text=text).first.bounding_box() for text in ("+ drilling", f"− {true}")
        ]
        tops = [box["y"] for box in boxes if box is not None]
        assert abs(tops[0] - tops[1]) > 5


def test_a_mask_that_has_nothing_beside_it_says_whose_it_is(address: str, tab: Callable[[str], Page]) -> None:
    """Where one of two was to be seen, it took all of the picture, and nothing told which it was."""
    page = tab(f"{address}#take={NAME}&at=12&masks=truth%7Cmasks")
    wait_for(page, 12)
    captions = page.locator("#views figcaption").all_inner_texts()
    assert sum(caption.endswith(" · truth alone") for caption in captions) == 3
    assert "room 1" in captions


def test_a_clock_that_was_set_while_it_recorded_is_shown(address: str, tab: Callable[[str], Page]) -> None:
    """The time line drew a mark for every twenty minutes of thirty years; the page stood still."""
    page = tab(address)

    def set_clock(route: Route) -> None:
        answer = route.fetch()
        take = answer.json()
        take["times"] = [time + (9e8 if position >= 20 else 0) for position, time in enumerate(take["times"])]
        route.fulfill(response=answer, json=take)

    page.route(f"**/api/takes/{NAME}", set_clock)
    page.evaluate(f"() => {{ location.hash = 'take={NAME}&at=25'; }}")
    wait_for(page, 25)


def test_an_address_counts_in_a_page_of_the_same_take_too(address: str, tab: Callable[[str], Page]) -> None:
    """Of one that somebody sent masks and cloud were left out; and "all takes" of such a page led to the first take."""
    page = tab(f"{address}#take={NAME}&at=3")
    page.wait_for_selector("#seen:visible")
    page.evaluate(f"() => {{ location.hash = 'take={NAME}&at=12&masks=truth&cloud=2'; }}")
    wait_for(page, 12)
    assert page.locator("#views img.mask").count() == 6
    page.wait_for_selector("figure[data-camera='2'] canvas", state="attached")
    page.click("#back")
    page.wait_for_selector("#list a")
