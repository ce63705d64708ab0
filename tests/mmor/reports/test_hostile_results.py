"""Results files that somebody else hands on: what is damaged is one line, and nothing in them runs."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmor.reports.mask_sections import mask_sections
from mmor.reports.parts import Table
from mmor.reports.pictures import Album, overlay
from mmor.reports.results import Results, read_results
from mmor.reports.seconds import graph
from mmor.reports.task_sections import task_sections
from mmor.reports.triplet_sections import _hallucinations
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.scores.breach_recall import BreachRecall
from tests.mmor.reports.results_files import changed, task_results
from tests.operating_room.tiny_dataset import write
from tests.operating_room.tiny_house import write_house


def test_answers_of_live_are_no_damaged_results(tmp_path: Path) -> None:
    """They were invalid JSON, to be made again or mended."""
    (tmp_path / "r.json").write_text('{"take": "kitchen", "frame": 0}\n{"take": "kitchen", "frame": 1}\n')
    with pytest.raises(UserError, match=r"r\.json: holds what `mmor live` answered"):
        read_results([tmp_path / "r.json"], None)


@pytest.mark.parametrize("takes", [5, None, "001_PKA", {"a": 1}])
def test_another_kind_of_value_is_damage(takes: Any) -> None:
    """It was a TypeError, or the letters of a name."""
    windows = {length: {"per_class": {}, "per_video": {}} for length in ("4", "8")}
    content = {"vpq": 1.0, "windows": windows, "takes": takes}
    with pytest.raises(UserError, match="has no usable takes"):
        mask_sections(Results(Path("r.json"), "masks", "r", content))


def test_entities_that_are_no_table_are_damage() -> None:
    """As above."""
    names = ("invented", "triplets", "share", "with_any", "timepoints", "unreadable")
    content = {"triplets": {"hallucinations": {**dict.fromkeys(names, 0), "entities": 5}}}
    with pytest.raises(UserError, match=r"has no usable triplets\.hallucinations\.entities"):
        _hallucinations(Results(Path("r.json"), "scene_graph", "r", content))


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_csv_file_is_a_formula(sign: str) -> None:
    """Spreadsheets compute what begins with such a sign, and a formula can run programs."""
    formula = f'{sign}HYPERLINK("http://elsewhere")'
    text = Table("about", "", ("setting", formula), [("model", formula), ("low", "-1.5"), ("high", -1.5)]).csv()
    rows = dict(csv.reader(StringIO(text, newline="")))
    assert rows == {"setting": f"'{formula}", "model": f"'{formula}", "low": "-1.5", "high": "-1.5"}


def test_a_mask_that_is_a_line_of_pixels_is_shown() -> None:
    """Smaller pictures of it had no height, a traceback."""
    assert overlay(np.zeros((3, 2000), np.uint8), mmor().labels, 240).startswith("data:image/png;base64,")


def test_notes_of_downstream_results_are_on_the_page(tmp_path: Path) -> None:
    """As of graphs whose relations cannot count: the scores alone look like those of a bad model."""
    said = ["in another order"]
    path = changed(task_results(tmp_path / "r.json"), tmp_path / "n.json", lambda r: r.update(notes=said))
    results = Results(path, "downstream", "r", json.loads(path.read_text()))
    assert "Note: in another order" in str(task_sections(results, mmor())[0].parts)


def test_breaches_and_seconds_of_downstream_results_are_on_the_page(tmp_path: Path) -> None:
    """`mmor downstream evaluate` prints them; the page had neither."""
    breaches = BreachRecall(12, 8, 6, {"person": 1, "contact": 2, "state": 3}).to_json()
    seconds = {"timepoints": 5, "with_time": 4, "mean_error": 2.5, "median_error": None}
    added = {"breaches": breaches, "seconds": seconds}
    path = changed(task_results(tmp_path / "r.json"), tmp_path / "b.json", lambda r: r.update(added))
    results = Results(path, "downstream", "r", json.loads(path.read_text()))
    tables = {table.name: table.rows for table in task_sections(results, mmor())[0].tables}
    assert tables["breaches"] == [[12, 8, 6, 0.5, 0.75, 1, 2, 3]]
    assert tables["seconds"] == [["timepoints", 5], ["with time", 4], ["mean error", 2.5]]
    for damaged in ({"breaches": {"true": 1}}, {"seconds": [3]}, {"seconds": {"mean_error": "x"}}):
        with pytest.raises(UserError, match=f"has no usable {next(iter(damaged))}"):
            task_sections(Results(path, "downstream", "r", {**results.content, **damaged}), mmor())


def test_a_take_whose_index_is_damaged_costs_its_pictures(tmp_path: Path) -> None:
    """The whole report ended with what is wrong with that one take."""
    write_house(tmp_path)
    write(tmp_path / "takes" / "soup" / "take.yaml", "period: [")
    album = Album(Dataset(tmp_path))
    assert album.timepoint(Sample.of_id("soup_000001", ())) is None
    assert [str(Path("soup", "take.yaml")) in told for told in album.problems] == [True]
    assert album.timepoint(Sample.of_id("stew_000001", ())) is not None


def test_two_predicates_of_one_pair_can_both_be_read() -> None:
    """What was said in the place of the truth lay exactly below it."""
    said = [("nurse", "drill", "holding", "missed"), ("nurse", "drill", "touching", "wrong")]
    drawn = graph(said, {}, mmor().language)
    holding, touching = (
        re.search(rf'y="(\d+)" text-anchor="middle" class="halo">{p}<', drawn) for p in ("holding", "touching")
    )
    assert holding is not None
    assert touching is not None
    assert abs(int(holding[1]) - int(touching[1])) >= 12
