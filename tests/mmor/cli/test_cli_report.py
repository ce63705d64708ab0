"""`mmor report` as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmor import cli
from tests.mmor.reports.results_files import graph_results
from tests.operating_room.tiny_dataset import write_dataset


def run(*arguments: str | Path) -> int:
    """The exit code of the real entry point, which returns where all went well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


def test_a_page_and_csv_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, out = graph_results(tmp_path / "r.json"), tmp_path / "new" / "page.html"
    assert run(results, "--out", out, "--csv", tmp_path / "csv") == 0
    said = capsys.readouterr()
    assert f"open {out} in a browser" in said.out
    assert said.err == ""
    assert out.read_text().startswith("<!doctype html>")
    assert (tmp_path / "csv" / "predicates.csv").exists()


def test_tables_of_an_earlier_report_in_the_folder_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report of two files left the tables of an earlier one of one file above its folders, as if of today."""
    one, two = (graph_results(tmp_path / f"{name}.json", 2 + n) for n, name in enumerate(("one", "two")))
    common = ("--out", tmp_path / "page.html", "--csv", tmp_path / "csv")
    for results, told in (((one,), False), ((one, two), True)):
        for _ in range(2):
            assert run(*results, *common) == 0
            said = capsys.readouterr().err
            assert ("tables that are not of this report" in said) == told
            assert ("predicates.csv" in said or "more;" in said) == told


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, data = graph_results(tmp_path / "r.json"), write_dataset(tmp_path / "data")
    mistakes = [
        (tmp_path / "nothing.json",),
        (tmp_path,),
        (tmp_path / "r.predictions.json",),
        (results, "--domain", "egoexor"),
        (results, "--domain", "clinic"),
        (results, "--data", tmp_path / "no data"),
        (results, "--data", data, "--domain", "egoexor"),
        (results, "--out", tmp_path),
    ]
    for arguments in mistakes:
        assert run(*arguments, *(() if "--out" in arguments else ("--out", tmp_path / "x.html"))) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
    assert not (tmp_path / "x.html").exists()
