"""A short simulated take, two sets of predictions for it, and the server of the page without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mmor.viewer.server import make_app
from mmor.viewer.takes import Shown, open_shown
from operating_room.domain.domain import mmor
from operating_room.files.readers import read_label_mask
from operating_room.graphs.scene_graph import Triplet, target_text
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.raw_labels import read_labels
from operating_room_simulator.writer import synthesize
from tests.mmor.viewer.driven import CHROMIUM, SWITCHES, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TAKE = mmor().find_take("004_PKA")
OF_TAKE = f"/api/takes/{TAKE.sample_name}"
SECONDS = 40
WRONG = Triplet("nurse", "drill", "holding")
WRONG_FROM = 20  # position from which the first prediction says WRONG; the second never does
MARKUP = "</script><script>document.title='broken'</script><img src=x onerror=document.title='broken'> <b>scalpel</b>"
MARKUP_AT = 5  # position at which that is heard


@dataclass(frozen=True)
class Folder:
    """Where everything is."""

    data: Path
    results: Path  # wrong from WRONG_FROM on
    predictions: Path  # right everywhere
    masks: Path  # the annotated ones, of all but station cameras


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Written once; tests that change something copy what they change."""
    root = tmp_path_factory.mktemp("viewer")
    synthesize(root / "data", [TAKE], SECONDS, 3, size=(64, 48), mask_stride=2, calibration=True)
    dataset = Dataset(root / "data")
    heard = dataset.take(TAKE).expected[MARKUP_AT].files["transcript"][""]
    heard.parent.mkdir(parents=True, exist_ok=True)
    heard.write_text(json.dumps({"text": MARKUP}))
    samples, right = {}, {}
    for position, timepoint in enumerate(dataset.take(TAKE).timepoints):
        labels = dataset.domain.labels
        truth = read_labels(timepoint.files["annotation"][""], TAKE, dataset.domain).triplets
        said = [*truth, WRONG] if position >= WRONG_FROM and WRONG not in truth else list(truth)
        samples[timepoint.sample_id] = {"truth": truth, "predicted": said, "text": target_text(said)}
        right[timepoint.sample_id] = [[s, p, o] for s, o, p in truth]
        for camera, mask in timepoint.several("label_masks").items():
            if camera.startswith("simstation"):
                continue
            video = root / "masks" / "inference" / "pan_pred" / f"{TAKE.name}_{camera}_part0"
            video.mkdir(parents=True, exist_ok=True)
            colors = labels.colors[labels.label_to_category[read_label_mask(mask)]]
            Image.fromarray(np.ascontiguousarray(colors)).save(video / f"{timepoint.views[camera].stem}.png")
    results = {"task": "scene_graph", "about": {"domain": "mmor"}, "samples": samples}
    (root / "wrong.json").write_text(json.dumps(results))
    (root / "right.json").write_text(json.dumps(right))
    return Folder(root / "data", root / "wrong.json", root / "right.json", root / "masks")


@pytest.fixture(scope="session")
def shown(folder: Folder) -> Shown:
    """The take with all predictions."""
    return open_shown(Dataset(folder.data), TAKE, [folder.masks], [folder.results, folder.predictions])


@pytest.fixture(scope="session")
def client(shown: Shown) -> Iterator[TestClient]:
    """Asks as a browser of this machine does."""
    with local(shown) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skips where playwright or the browser is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: the extra dev")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(shown: Shown) -> Iterator[str]:
    """Of the page with the take and all predictions."""
    with served(shown) as address:
        yield address


@pytest.fixture
def tab(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens tabs; a script that fails, or anything that the policy of the page forbids, fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    wrong: list[str] = []

    def open_tab(url: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)
        page.goto(url)
        return page

    yield open_tab
    context.close()
    assert wrong == []


def ask(client: TestClient, url: str) -> Any:
    """What it answers."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(client: TestClient, url: str, status: int = 404) -> str:
    """What it says is wrong."""
    answer = client.get(url)
    assert answer.status_code == status
    return answer.json()["problem"]


def local(shown: Shown) -> TestClient:
    """Asks as a browser of this machine does."""
    return TestClient(make_app(shown), base_url="http://127.0.0.1:8000")
