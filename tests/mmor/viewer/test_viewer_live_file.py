"""The file that `mmor live` is writing, when another run has begun it anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mmor.viewer.graphs import Live, read_graphs
from mmor.viewer.server import make_app
from mmor.viewer.takes import open_shown
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from tests.mmor.live.recorder import house_recorder
from tests.mmor.viewer.conftest import TAKE, Folder
from tests.operating_room.counted import timepoints_looked_for


def _lines(path: Path, take: str, seconds: range) -> None:
    lines = ({"take": take, "frame_id": f"{s:06d}", "time": s, "graph": [], "text": "x" * 50} for s in seconds)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_file_of_another_run_is_read_from_its_start(tmp_path: Path) -> None:
    """It was gone on with in the midst of a line, once it was longer than that of the run before."""
    path = tmp_path / "live.jsonl"
    _lines(path, "001_PKA_MMOR", range(5))
    live = Live(path)
    live.update()
    assert [line.frame_id for line in live.lines] == [f"{s:06d}" for s in range(5)]
    _lines(path, "014_TKA_MMOR_2", range(3, 23))
    live.update()
    assert [line.frame_id for line in live.lines] == [f"{s:06d}" for s in range(3, 23)]
    assert live.damaged == 0
    _lines(path, "014_TKA_MMOR_2", range(3, 25))  # grown, not begun anew
    live.update()
    assert [line.at_s for line in live.lines] == list(range(3, 25))


@pytest.mark.parametrize(
    "content", ['{"task": "scene_graph", "samples": {}}', '{\n "001_PKA_000001": []\n}\n', "text\n"]
)
def test_a_file_that_is_not_of_mmor_live_is_told(tmp_path: Path, content: str) -> None:
    """The page opened, without anything live in it, and nobody said why."""
    house_recorder(tmp_path)
    path = tmp_path / "live.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"live\.jsonl: holds no lines of `mmor live`"):
        open_shown(Dataset(tmp_path), live=path)
    for begun in ("", '{"take": "sou'):
        path.write_text(begun)
        assert open_shown(Dataset(tmp_path), live=path).live is not None


def test_a_house_take_is_as_long_as_what_is_live(tmp_path: Path) -> None:
    """take.yaml is written before the recording, so that the page stayed at the first second."""
    recorder = house_recorder(tmp_path)  # frames: 1
    for second in range(5):
        recorder.shoot(second)
    _lines(tmp_path / "live.jsonl", "soup", range(5))
    shown = open_shown(Dataset(tmp_path), live=tmp_path / "live.jsonl")
    client = TestClient(make_app(shown), base_url="http://127.0.0.1")
    assert client.get("/api/live").status_code == 200
    assert client.get("/api/takes/soup").json()["times"] == [0, 1, 2, 3, 4]
    assert client.get("/api/takes/soup/4").status_code == 200
    for second in range(5, 8):
        recorder.shoot(second)
    _lines(tmp_path / "live.jsonl", "soup", range(8))
    assert client.get("/api/live").status_code == 200
    assert len(client.get("/api/takes/soup").json()["times"]) == 8


def test_a_live_take_whose_clock_jumped_back_is_shown(folder: Folder, tmp_path: Path) -> None:
    """`mmor live` goes on then; the page showed nothing more, and told to sort the index that is being written."""
    shutil.copytree(folder.data, tmp_path / "data")
    index = Dataset(tmp_path / "data").take(TAKE).index_file
    elements = json.loads(index.read_text())
    index.write_text(json.dumps([*elements[:20], *elements[10:20]]))
    lines, name = tmp_path / "live.jsonl", TAKE.sample_name
    _lines(lines, name, range(15, 20))
    client = TestClient(make_app(open_shown(Dataset(tmp_path / "data"), live=lines)), base_url="http://127.0.0.1")
    assert client.get("/api/live").status_code == 200
    assert len(client.get(f"/api/takes/{name}").json()["times"]) == 30
    for url in ("25", "25/texts", "timeline", "25/views/1"):
        assert client.get(f"/api/takes/{name}/{url}").status_code == 200


def test_as_graphs_it_is_refused_by_what_it_is(tmp_path: Path) -> None:
    """It was told to be damaged JSON, to be made again."""
    _lines(tmp_path / "live.jsonl", "001_PKA_MMOR", range(2))
    with pytest.raises(UserError, match=r"holds what `mmor live` answered.*`mmor view --live`"):
        read_graphs(tmp_path / "live.jsonl", mmor())


def test_a_new_second_of_a_live_take_costs_the_same_after_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files of all seconds so far were looked for anew, so that after an hour the page fell behind."""
    recorder, path = house_recorder(tmp_path), tmp_path / "live.jsonl"
    for second in range(41):
        recorder.shoot(second)
    dataset = Dataset(tmp_path)
    name = dataset.takes()[0].sample_name
    _lines(path, name, range(40))
    client = TestClient(make_app(open_shown(dataset, live=path)), base_url="http://127.0.0.1")
    assert len(client.get(f"/api/takes/{name}").json()["times"]) == 40
    looked_for = timepoints_looked_for(monkeypatch)
    _lines(path, name, range(41))
    assert client.get("/api/live").json()["lines"][-1]["frame_id"] == "000040"
    assert len(client.get(f"/api/takes/{name}").json()["times"]) == 41
    for what in ("timeline", "lenses", "40", "40/texts"):
        assert client.get(f"/api/takes/{name}/{what}").status_code == 200
    assert 0 < len(looked_for) < 10
