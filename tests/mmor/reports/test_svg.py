"""Charts: well-formed whatever stands in them, and what they say can be read without colours."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmor.reports.svg import SHARE, Row, around, chart, counted, heatmap, key, spans

words = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)


@given(words, words, st.floats(-2, 2))
def test_any_text_stays_text(label: str, note: str, value: float) -> None:
    drawn = [
        chart(
            label, [Row(label, [(0, value), (1, None)], [(0, (0, 1))], [(1, (0, 1))], note=note)], SHARE, [note, label]
        ),
        heatmap(label, [label], [note], np.array([[3]])),
        spans(label, [(note, [("#000", 0, [(0, 2)])])], 4),
    ]
    for svg in drawn:
        texts = [element.text or "" for element in ElementTree.fromstring(svg).iter()]
        assert label in texts
        assert note in texts


def test_series_differ_in_shape_as_well() -> None:
    svg = chart("t", [Row("a", [(series, 0.5) for series in range(4)])], SHARE, ["a", "b", "c", "d"])
    marks = [e.get("d", "") for e in ElementTree.fromstring(svg).iter("path") if e.get("stroke-width") == "1.5"]
    assert len({mark.partition("m")[2] for mark in marks}) == len(marks) == 4
    assert key("hatch", "x")


def test_axes_hold_their_values() -> None:
    for values in ([0.0], [], [-0.3, 0.1], [4.0, -90.0], [1e5], [2e6], [-1e300]):
        axis = around(values)
        assert axis.low <= min(values, default=0) <= max(values, default=0) <= axis.high
    axis = counted(61259)
    places = [axis.place(value) for value in (0, 1, 10, 61259)]
    assert places == sorted(set(places))
    assert axis.place(10**9) == pytest.approx(axis.place(axis.high))


def test_right_answers_are_edged_where_a_class_is_never_answered() -> None:
    """Rows are what is true somewhere, columns what was answered: a cell on the diagonal is right by chance."""
    svg = heatmap(
        "t", ["cut", "drill", "saw"], ["cut", "saw", "none"], np.array([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    )
    cells, edged = list(ElementTree.fromstring(svg)), []
    for cell, text in pairwise(cells):
        if cell.tag == "path" and cell.get("stroke") == "#000":
            edged.append(text.text)
    assert edged == ["11", "32"]
