"""`mmor data stats --page`: the numbers of a dataset as one self-contained page, its figures SVG.

One blue of growing darkness stands for growing numbers, which print and eyes of every kind tell apart; each figure has
its numbers as text, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from operating_room.doctor.statistics import PARTS, DatasetStatistics, Statistics
from operating_room.files.atomic import write_text

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#111;background:#fff;margin:2em auto;max-width:60em;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-size:13px}
th,td{padding:.15em .7em;border-bottom:1px solid #ccc;text-align:right}th:first-child,td:first-child{text-align:left}
svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#111}p.note{color:#444;font-size:13px}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}svg,table{break-inside:avoid}}
"""
_LABEL, _ROW = 150, 18  # px, of figures


def write_page(path: Path, found: DatasetStatistics, title: str) -> None:
    """Write the page, which needs no other file and no network.

    Raises:
        UserError: it cannot be written.
    """
    total = found.total
    parts = [
        f"<h1>{escape(title)}</h1>",
        _totals(found),
        _section("Predicates: triplets", _bars(dict(total.predicates.most_common()))),
        _section(
            "Predicates over the time of a take",
            _grid(
                {name: _per_graph(total, counts.tolist()) for name, counts in _by_count(total)},
                [f"{100 * part // PARTS} %" if part % 5 == 0 else "" for part in range(PARTS)],
            ),
            f"Triplets per annotated timepoint, in {PARTS} parts of each take from its start to its end.",
        ),
        _section(
            "Predicates in one timepoint",
            _grid(_together(total), [name for name, _ in _by_count(total)], turned=True),
            "Of the timepoints with the predicate of the row, the share that have that of the column, too.",
        ),
        _section(
            "Pictures of each camera over time",
            "".join(
                f"<h3>{escape(take.name)}</h3>" + _grid({n: g.recorded for n, g in take.cameras.items()}, [""] * PARTS)
                for take in found.takes
                if any(gaps.pictures < gaps.timepoints for gaps in take.cameras.values())
            ),
            "Takes with gaps only; dark is complete. Cameras without any picture in a take are left out.",
        ),
        _section("Classes: share of the pixels of annotated masks", _bars(_shares(total.pixels), "{:.2%}")),
        _section("Entities: timepoints in which they are related", _bars(dict(total.subjects.most_common()))),
    ]
    if total.problems:
        parts += ["<h2>Left out</h2><ul>", *(f"<li>{escape(each)}</li>" for each in total.problems), "</ul>"]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>')


def _totals(found: DatasetStatistics) -> str:
    names = ("timepoints", "seconds", "graphs", "triplets", "different triplets", "masks", "gaps of cameras")
    rows = [f"<tr><th>take</th>{''.join(f'<th>{name}</th>' for name in names)}</tr>"]
    for each in (*found.takes, found.total):
        gaps = sum(camera.gaps for camera in each.cameras.values())
        numbers = (each.timepoints, round(each.seconds), each.graphs, each.triplets, len(each.different))
        cells = "".join(f"<td>{number:,}</td>" for number in (*numbers, each.masks, gaps))
        rows.append(f"<tr><td>{escape(each.name)}</td>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _section(title: str, content: str, note: str = "") -> str:
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>{told}{content or '<p>none</p>'}"


def _by_count(total: Statistics) -> list[tuple[str, Integer[np.ndarray, " parts"]]]:
    return [(name, total.over_time[name]) for name, _ in total.predicates.most_common()]


def _per_graph(total: Statistics, counts: Sequence[int]) -> list[float]:
    return [count / max(1, graphs) for count, graphs in zip(counts, total.graphs_over_time.tolist())]


def _together(total: Statistics) -> dict[str, list[float]]:
    names = [name for name, _ in total.predicates.most_common()]
    return {
        row: [total.together[min(row, other), max(row, other)] / max(1, total.together[row, row]) for other in names]
        for row in names
    }


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    every = max(1, sum(counts.values()))
    return {name: count / every for name, count in sorted(counts.items(), key=lambda item: -item[1])}


def _bars(values: Mapping[str, int | float], form: str = "{:,}") -> str:
    """Horizontal bars with their numbers."""
    if not values:
        return ""
    most, rows = max(values.values()) or 1, []
    for place, (name, value) in enumerate(values.items()):
        y, width = place * _ROW, 420 * value / most
        rows.append(f'<text x="{_LABEL - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        rows.append(f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="#3b6fb6"/>')
        rows.append(f'<text x="{_LABEL + width + 5:.1f}" y="{y + 13}">{form.format(value)}</text>')
    return _svg(_LABEL + 520, len(values) * _ROW, rows)


def _grid(values: Mapping[str, Sequence[float]], columns: Sequence[str], turned: bool = False) -> str:
    """A square for each number, the darker the larger; the number itself is its tooltip, and is written if it is not 0.

    Args:
        values: row -> a number for each column.
        columns: names above; empty ones are not shown.
        turned: long names stand upright.
    """
    if not values:
        return ""
    cell, top = 28, (110 if turned else 16)
    most = max((value for row in values.values() for value in row), default=0) or 1
    shapes = []
    for place, name in enumerate(columns):
        x = _LABEL + place * cell + (cell / 2 + 4 if turned else 0)
        turn = f' transform="rotate(-90 {x} {top - 6})"' if turned else ""
        shapes.append(f'<text x="{x}" y="{top - 6}"{turn}>{escape(name)}</text>')
    for row, (name, numbers) in enumerate(values.items()):
        y = top + row * _ROW
        shapes.append(f'<text x="{_LABEL - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        for place, value in enumerate(numbers):
            share = value / most
            x, told = _LABEL + place * cell, f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2g}"
            shapes.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{_ROW - 1}" fill="{_blue(share)}" stroke="#ddd">'
                f"<title>{escape(name)}: {value:.3f}</title></rect>"
            )
            if value:
                ink = "#fff" if share > 0.55 else "#111"
                shapes.append(f'<text x="{x + 3}" y="{y + 13}" style="fill:{ink};font-size:9px">{told}</text>')
    return _svg(_LABEL + len(columns) * cell, top + len(values) * _ROW, shapes)


def _blue(share: float) -> str:
    """White to dark blue."""
    light, dark = (247, 251, 255), (8, 48, 107)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(light, dark))


def _svg(width: int, height: int, shapes: Sequence[str]) -> str:
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">{"".join(shapes)}</svg>'
