"""Charts as SVG for print and for colour-blind people: Okabe-Ito colours, and a shape for each series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Int64

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"),
)
SERIES = (BLUE, ORANGE, GREEN, RED)
LEFT, PLOT, RIGHT, STEP, TOP = 150, 440, 190, 20, 26  # px
Number = float | int
_SHAPES = (
    "M{x:.1f},{y:.1f}m-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "M{x:.1f},{y:.1f}m-4,-4h8v8h-8z",
    "M{x:.1f},{y:.1f}m0,-5.5l5.2,9.5h-10.4z",
    "M{x:.1f},{y:.1f}m0,-6l5,6l-5,6l-5,-6z",
)


@dataclass(frozen=True)
class Axis:
    """What the horizontal direction means."""

    low: Number
    high: Number
    ticks: Sequence[Number]
    log: bool = False  # of 1 + value

    def place(self, value: Number) -> float:
        """In px from the left."""
        scaled = [math.log1p(v) if self.log else v for v in (self.low, self.high, min(max(value, self.low), self.high))]
        return LEFT + PLOT * (scaled[2] - scaled[0]) / (scaled[1] - scaled[0])


SHARE = Axis(0, 1, (0, 0.25, 0.5, 0.75, 1))


@dataclass(frozen=True)
class Row:
    """One name with its marks."""

    label: str
    points: Sequence[tuple[int, Number | None]] = ()  # series, value
    lines: Sequence[tuple[int, tuple[Number, Number]]] = ()  # series, interval
    boxes: Sequence[tuple[int, tuple[Number, Number]]] = ()  # series, quartiles
    filled: bool = True
    note: str = ""


def counted(most: int) -> Axis:
    """A logarithmic axis for counts up to `most`."""
    powers = [10**power for power in range(len(str(max(most, 1))) + 1)]
    return Axis(0, powers[-1], [0, *powers], log=True)


def around(values: Sequence[Number]) -> Axis:
    """An axis that holds 0 and these values."""
    reach = max(map(abs, values), default=0)
    step = next(s * 10**p for p in range(-4, 309) for s in (1, 2, 5) if 3 * s * 10**p >= max(reach, 1e-4))
    return Axis(-3 * step, 3 * step, [step * n for n in range(-3, 4)])


def chart(title: str, rows: Sequence[Row], axis: Axis, series: Sequence[str]) -> str:
    """A line for each row with points, intervals and boxes on one axis."""
    height = TOP + STEP * len(rows) + 24
    parts = [_legend(series)]
    bottom = TOP + STEP * len(rows)
    for tick in axis.ticks:
        x = axis.place(tick)
        parts.append(f'<path d="M{x:.1f},{TOP}V{bottom}" class="grid"/>')
        parts.append(_text(x, bottom + 14, f"{tick:g}", "middle"))
    for place, row in enumerate(rows):
        y = TOP + STEP * (place + 0.5)
        parts.append(_text(LEFT - 8, y + 4, row.label, "end"))
        parts.append(_text(LEFT + PLOT + 14, y + 4, row.note, "start"))
        middle, apart = y, 5.0 if len(series) > 1 else 0.0  # marks of the same value stay side by side
        offsets = [middle + apart * (2 * number - len(series) + 1) / 2 for number in range(len(series))]
        for number, (low, high) in row.boxes:
            a, b = axis.place(low), axis.place(high)
            style = f'fill="{SERIES[number]}" fill-opacity=".25" stroke="{SERIES[number]}"'
            parts.append(f'<path d="M{a - 1:.1f},{y - 6:.1f}H{b + 1:.1f}v12H{a - 1:.1f}z" {style}/>')
        for number, (low, high) in row.lines:
            y = offsets[number]
            path = f"M{axis.place(low):.1f},{y - 3:.1f}v6m0,-3H{axis.place(high):.1f}m0,-3v6"
            parts.append(f'<path d="{path}" fill="none" stroke="{SERIES[number]}" stroke-width="1.4"/>')
        for number, value in row.points:
            if value is not None:
                fill = SERIES[number] if row.filled else "#fff"
                shape = _SHAPES[number].format(x=axis.place(value), y=offsets[number])
                parts.append(f'<path d="{shape}" fill="{fill}" stroke="{SERIES[number]}" stroke-width="1.5"/>')
    return figure(title, LEFT + PLOT + RIGHT, height, "".join(parts))


def heatmap(title: str, rows: Sequence[str], columns: Sequence[str], counts: Int64[np.ndarray, "rows columns"]) -> str:
    """Counts with a shade for their share of the row; the numbers can be read without any colour.

    Where row and column have one name the cell has an edge: it is right there.
    """
    cell, left, top = 46, 118, 96
    parts = []
    for place, name in enumerate(columns):
        x, y = left + cell * (place + 0.5), top - 6
        parts.append(f'<text x="{x:.0f}" y="{y}" transform="rotate(-45 {x:.0f} {y})">{escape(name)}</text>')
    for i, name in enumerate(rows):
        parts.append(_text(left - 6, top + 22 * i + 15, name, "end"))
        total = counts[i].sum()
        for j in range(len(columns)):
            share = counts[i, j] / total if total else 0.0
            shade = "#{:02x}{:02x}{:02x}".format(*(round(255 + share * (c - 255)) for c in (0, 0x72, 0xB2)))
            x, y = left + cell * j, top + 22 * i
            edge = ' stroke="#000" stroke-width="1.2"' if rows[i] == columns[j] else ' stroke="#ddd"'
            parts.append(f'<path d="M{x},{y}h{cell}v22h-{cell}z" fill="{shade}"{edge}/>')
            if counts[i, j]:
                ink = "#fff" if share > 0.55 else "#000"
                parts.append(
                    f'<text x="{x + cell / 2}" y="{y + 15}" text-anchor="middle" fill="{ink}">{counts[i, j]}</text>'
                )
    return figure(title, left + cell * len(columns) + 30, top + 22 * len(rows) + 4, "".join(parts))


def spans(
    title: str, rows: Sequence[tuple[str, Sequence[tuple[str, int, Sequence[tuple[int, int]]]]]], length: int
) -> str:
    """Stretches of time: for each name (colour, half, spans in timepoints); half 0 is above, 1 below."""
    left, width, step = 96, 880, 16
    parts = [
        '<defs><pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<path d="M0,0h4v4h-4z" fill="{RED}"/><path d="M0,0v4" stroke="#fff" stroke-width="1.6"/></pattern></defs>'
    ]
    scale = width / max(length, 1)
    for place, (name, stretches) in enumerate(rows):
        y = step * place + 2
        parts.append(f'<path d="M{left},{y}h{width}v13h-{width}z" fill="#eef0f3"/>')
        parts.append(_text(left - 6, y + 11, name, "end"))
        for colour, half, found in stretches:
            path = "".join(
                f"M{left + a * scale:.1f},{y + 7 * half}h{(b - a) * scale:.1f}v6h-{(b - a) * scale:.1f}z"
                for a, b in found
            )
            parts.append(f'<path d="{path}" fill="{colour}"/>' if path else "")
    bottom = step * len(rows) + 16
    for quarter in range(5):
        place = round(length * quarter / 4)
        anchor = "start" if not quarter else "end" if quarter == 4 else "middle"
        parts.append(_text(left + place * scale, bottom, str(place), anchor))
    return figure(title, left + width + 4, bottom + 4, "".join(parts))


def figure(title: str, width: Number, height: Number, inside: str) -> str:
    """A picture of lines with its title for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def key(colour: str, words: str, shape: int = 1) -> str:
    """An entry of a legend within text."""
    path = _SHAPES[shape].format(x=7, y=7)
    fill = colour if colour.startswith("#") else RED
    return f'<svg width="14" height="14" aria-hidden="true"><path d="{path}" fill="{fill}"/></svg> {escape(words)} '


def _legend(series: Sequence[str]) -> str:
    parts, x = [], float(LEFT)
    for number, name in enumerate(series):
        parts.append(f'<path d="{_SHAPES[number].format(x=x, y=10)}" fill="{SERIES[number]}"/>')
        parts.append(_text(x + 9, 14, name, "start"))
        x += 26 + 6.4 * len(name)
    return "".join(parts)


def _text(x: Number, y: Number, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>' if words else ""
