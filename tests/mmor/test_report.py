"""The report page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmor import report
from mmor.report import TakeResult, compare_graphs, write_report
from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.scores import scoring
from operating_room_simulator.writer import synthesize
from panoptic_segmentation.scores.vpq import VideoQuality, WindowQuality

TAKE = mmor().find_take("002_4DOR")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TakeResult:
    """A short simulated take, predicted perfectly."""
    root = tmp_path_factory.mktemp("report")
    synthesize(root, [TAKE], 40, 3, size=(32, 24))
    convert(Dataset(root), root)
    truth = load_samples(root / "relationships_test.json")[10:13]
    graphs = {sample.sample_id: list(sample.triplets) for sample in truth}
    scores = scoring.score(truth, graphs, mmor())
    quality = VideoQuality({length: WindowQuality({}, {}) for length in (4, 8)}, {})
    return TakeResult(Dataset(root).take(TAKE), truth, graphs, {}, scores, scores, quality, "a </script> note")


def test_the_page_is_one_file_that_needs_no_other(result: TakeResult, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|(https?://[^\s"\'<]+)', page)
    outside = {link for group in links for link in group if link and not link.startswith("data:")}
    assert outside <= {"http://www.w3.org/2000/svg"}  # the name of SVG, which no browser fetches


def test_the_data_in_the_page_are_those_of_the_take(result: TakeResult, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[0])
    assert data["subtitle"] == "a </script> note"
    assert [moment["frame_id"] for moment in data["moments"]] == ["000010", "000011", "000012"]
    assert {view["name"] for view in data["moments"][0]["views"]} == {f"room {number}" for number in range(1, 7)}
    assert "annotated" in data["moments"][0]["views"][0]
    for sample, moment in zip(result.truth, data["moments"]):
        assert sorted(map(tuple, moment["triplets"])) == sorted((*triplet, "right") for triplet in sample.triplets)


@pytest.mark.parametrize("text", ["<!--<script>", "</script>", "<!-- <SCRIPT", "]]>", 'a & b \u2028 "c" __DATA__'])
def test_no_text_ends_or_hides_the_data(
    text: str, result: TakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 60: the page stayed empty when somebody was heard to say such a thing."""
    monkeypatch.setattr(report, "_page", lambda _: {"heard": text})
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text("utf-8")
    data = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data) == {"heard": text}


def test_triplets_are_right_missed_or_wrong() -> None:
    truth = [Triplet("nurse", "drill", "holding"), Triplet("nurse", "patient", "closeTo")]
    predicted = [Triplet("nurse", "drill", "holding"), Triplet("nurse", "saw", "holding"), Triplet("x", "y", "z")]
    assert compare_graphs(truth, predicted, mmor().language) == [
        ("nurse", "drill", "holding", "right"),
        ("nurse", "patient", "closeTo", "missed"),
        ("nurse", "saw", "holding", "wrong"),
    ]
