"""Files of results that are damaged, odd, or of names that do harm elsewhere; files that a page would replace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmor.reports.page import write_report
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from tests.mmor.reports.results_files import changed, graph_results, page_of


def test_a_number_that_no_axis_holds_is_damage(tmp_path: Path) -> None:
    def enlarged(content: dict[str, Any]) -> None:
        content["triplets"]["exact"]["predicates"]["holding"]["predicted"] = 10**308

    damaged = changed(graph_results(tmp_path / "g.json"), tmp_path / "d.json", enlarged)
    with pytest.raises(UserError, match=r"d\.json: has no usable triplets\.exact\.predicates\.holding\.predicted"):
        page_of(tmp_path, damaged)


WRONG: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("no usable overall.macro.f1-score", lambda r: r["overall"]["macro"].update({"f1-score": "high"})),
    ("no usable overall", lambda r: r.pop("overall")),
    ("no usable takes", lambda r: r.update(takes=[])),
    ("no usable samples.001_4DOR_000003", lambda r: r["samples"]["001_4DOR_000003"].update(predicted=[["a", "b"]])),
    ("no usable triplets.segments", lambda r: r["triplets"].pop("segments")),
    ("is about the domain clinic; give its file", lambda r: r["about"].update(domain="clinic")),
    ("is no results file", lambda r: r.pop("task")),
    ("take name", lambda r: r["samples"].update({"../x_000000": {"truth": [], "predicted": []}})),
    ("is no entity", lambda r: r["samples"]["001_4DOR_000003"].update(truth=[["a", "b", "holding"]])),
]


@pytest.mark.parametrize(("told", "change"), WRONG, ids=[told for told, _ in WRONG])
def test_a_damaged_file_is_one_line(told: str, change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    bad = changed(graph_results(tmp_path / "g.json"), tmp_path / "bad.json", change)
    with pytest.raises(UserError, match=told) as error:
        page_of(tmp_path, bad)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "page.html").exists()


def test_a_page_replaces_nothing_but_a_page(tmp_path: Path) -> None:
    """--out with the name of results that are not on this page lost them; a --csv that is a file was told after it."""
    results, other = graph_results(tmp_path / "g.json"), tmp_path / "hours.json"
    other.write_bytes(results.read_bytes())
    with pytest.raises(UserError, match=r"hours\.json: is there already and is no page; choose another output"):
        write_report([results], other)
    assert other.read_bytes() == results.read_bytes()
    page = tmp_path / "page.html"
    with pytest.raises(UserError, match=r"hours\.json: is no folder; choose another output"):
        write_report([results], page, csv=other)
    assert not page.exists()
    page.touch()  # as mktemp leaves it
    for _ in range(2):
        write_report([results], page)
        assert page.read_text().startswith("<!doctype html>")


def test_numbers_of_files_with_like_names_are_kept_apart(tmp_path: Path) -> None:
    names = ("run 1", "run_1", "模型一", "模型二", f"{'x' * 90}_a", f"{'x' * 90}_b")
    paths = [graph_results(tmp_path / f"{name}.json", 2 + n) for n, name in enumerate(names)]
    write_report(paths, tmp_path / "page.html", csv=tmp_path / "csv")
    found = [path.parent for path in (tmp_path / "csv").rglob("worst_seconds.csv")]
    assert len(found) == len(names)
    assert tmp_path / "csv" not in found


def test_names_of_an_old_disk_and_markup_in_odd_places_do_no_harm(tmp_path: Path) -> None:
    path = graph_results(tmp_path / os.fsdecode(b"r\xe9.json"))
    content = json.loads(path.read_text())
    content["modalities"] = {"views": {"timepoints": ["<img src=x onerror=alert(1)>"], "of": 3, "files": 3}}
    content["about"]["predictions"] = str(path)
    write_json(path, content)
    write_report([path], tmp_path / "page.html")
    assert "<img" not in (tmp_path / "page.html").read_text()
    for key, odd in (("notes", 5), ("problems", None)):
        write_json(path, {**content, key: odd})
        with pytest.raises(UserError, match=f"has no usable {key}"):
            write_report([path], tmp_path / "page.html")
