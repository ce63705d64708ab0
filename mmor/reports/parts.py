"""What a page is made of: sections of text, figures and tables. All text is escaped here and in `svg`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_CODE = re.compile("`([^`<>]+)`")
_FORMULA, _NUMBER = re.compile(r"[=+\-@\t\r].", re.DOTALL), re.compile(r"[+-]\d+(\.\d+)?(e[+-]?\d+)?")
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of names and numbers: in the page with three digits, as CSV with all of them."""

    name: str  # of the CSV file, without its ending
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def html(self) -> str:
        """As a table of the page."""
        words = [bool(self.rows) and isinstance(cell, str) for cell in (self.rows[0] if self.rows else self.columns)]
        head = "".join(
            f'<th scope="col"{" class=text" if is_text else ""}>{escape(column)}</th>'
            for column, is_text in zip(self.columns, words)
        )
        body = "".join(f"<tr>{''.join(map(_shown, row))}</tr>" for row in self.rows)
        return (
            f'<div class="scroll"><table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def csv(self) -> str:
        """As a CSV file, one line for the columns."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([map(_as_text, row) for row in (self.columns, *self.rows)])
        return buffer.getvalue()


@dataclass(frozen=True)
class Section:
    """A part of the page: HTML and tables in the order in which they are shown."""

    title: str
    parts: Sequence[str | Table]
    behind: Sequence[Table] = ()  # for the CSV files only: what a figure shows

    @property
    def tables(self) -> list[Table]:
        """For the CSV files."""
        return [*(part for part in self.parts if isinstance(part, Table)), *self.behind]

    def html(self, anchor: str) -> str:
        """As a section of the page, to which a link can lead."""
        body = "\n".join(part.html() if isinstance(part, Table) else part for part in self.parts)
        return f'<section id="{escape(anchor)}"><h2>{escape(self.title)}</h2>\n{body}\n</section>'


def note(words: str) -> str:
    """A line of explanation."""
    marked = _CODE.sub(r"<code>\1</code>", escape(words[:1].upper() + words[1:]))
    return f'<p class="note">{marked}</p>'


def heading(words: str) -> str:
    """Above a part of a section."""
    return f"<h3>{escape(words)}</h3>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Numbers to see first, each with what it is."""
    inside = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in values
    )
    return f'<div class="cards">{inside}</div>'


def definitions(meanings: Sequence[tuple[str, str]]) -> str:
    """Names with what they mean."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(words)}</dd>' for name, words in meanings)}</dl>"


def picture(source: str, alt: str, css: str = "") -> str:
    """An image; `source` is a data URL of ours."""
    return f'<img src="{escape(source)}" alt="{escape(alt)}"{f" class={css}" if css else ""}>'


def _as_text(cell: Cell) -> Cell:
    """A cell that no spreadsheet computes: names in a results file of somebody else may be formulas."""
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "<td>-</td>"
        case float():
            return f"<td>{cell:z.3f}</td>"
        case str():
            return f'<td class="text">{escape(cell)}</td>'
    return f"<td>{escape(str(cell))}</td>"
