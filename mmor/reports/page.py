"""`mmor report`: results files as one self-contained page that needs no script, and as CSV files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path

from mmor.reports.compare_sections import compare_results
from mmor.reports.graph_sections import graph_sections, meanings
from mmor.reports.mask_sections import mask_sections
from mmor.reports.parts import Section
from mmor.reports.pictures import Album, require_takes
from mmor.reports.results import KINDS, Results, read_results
from mmor.reports.seconds import worst_seconds
from mmor.reports.task_sections import task_sections
from mmor.reports.triplet_sections import triplet_sections
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.files.atomic import require_folder, require_own, write_text

LIMIT = 5_000_000  # bytes of the page
_DOCTYPE = "<!doctype html>"
_TOLD = 4  # tables by name
_SPARE = 20_000  # bytes for what is not counted: the frame of the page, captions of pictures


def write_report(
    paths: Sequence[Path],
    out: Path,
    domain: Domain | None = None,
    album: Album | None = None,
    csv: Path | None = None,
    title: str = "Report",
    about: str = "",
    before: Sequence[Section] = (),
    limit: int = LIMIT,
) -> list[str]:
    """Write a page of at most `limit` bytes about results files; it needs no other file and no network.

    Args:
        paths: results files that `evaluate` wrote, of scene graphs, masks and downstream tasks.
        out: the page.
        domain: whose takes they are about; None is the one that the files name.
        album: where pictures of the worst seconds come from; None shows none.
        csv: folder for the same numbers as CSV files, if they are wanted.
        title: of the page.
        about: a sentence below the title.
        before: sections to show before all others.
        limit: bytes.

    Returns:
        what is to be known: tables of other reports in `csv`, which stay.

    Raises:
        UserError: a file is missing, damaged, no results file or of another domain; two of one task cannot be compared;
            none of their takes is in the album; `out` is something else than a page; or it cannot be written.
    """
    if any(_is_same(out, path) for path in paths):
        raise UserError(f"{out}: holds results, which the page would replace; choose another --out")
    require_own(out, _DOCTYPE, "page")
    require_folder(out.parent)  # before pictures are read
    if csv is not None:
        require_folder(csv)
    results, domain = read_results(paths, domain)
    graphs = [one for one in results if one.kind == "scene_graph" and one.samples]
    if album is not None:
        require_takes(album.dataset, [sample for one in graphs for sample in one.samples])
    groups = [(one, _sections(one, domain)) for one in results]
    kinds = [one.kind for one in results]
    groups = [
        (one, [_of_file(s, one.label) for s in sections] if kinds.count(one.kind) > 1 else sections)
        for one, sections in groups
    ]
    compared = _comparisons(results, domain)
    last = [meanings(one) for one in results]
    fixed = sum(len(_encoded(s)) for s in (*before, *compared, *last, *(s for _, of_one in groups for s in of_one)))
    for one, sections in groups:
        if one in graphs:
            budget = max(limit - fixed - _SPARE, 0) // (len(graphs) - graphs.index(one))
            section = _worst(one, domain, album, budget)
            fixed += len(_encoded(section))
            sections.append(section)
    sections = [*before, *compared, *(s for _, of_one in groups for s in of_one), *last]
    page = _page(title, about, sections)
    if len(page.encode("utf-8", "backslashreplace")) > limit:
        raise UserError(
            f"{out}: would be larger than {limit / 1e6:.0f} MB; give fewer results files, or results of fewer takes"
        )
    write_text(out, page)
    return [] if csv is None else _write_csv(csv, [(one.label, of_one) for one, of_one in groups], compared)


def _sections(results: Results, domain: Domain) -> list[Section]:
    match results.kind:
        case "scene_graph":
            overview, *more = graph_sections(results, domain)
            beside, *of_triplets = triplet_sections(results, domain)
            return [overview, beside, *more, *of_triplets]
        case "masks":
            return mask_sections(results)
        case "downstream":
            return task_sections(results, domain)


def _of_file(section: Section, label: str) -> Section:
    return section if label in section.title else replace(section, title=f"{section.title}: {label}")


def _comparisons(results: Sequence[Results], domain: Domain) -> list[Section]:
    """Of each kind the first with every other one."""
    found = []
    for kind in KINDS:
        first, *others = [one for one in results if one.kind == kind] or [None]
        found += [compare_results(first, other, domain) for other in others if first is not None and other is not None]
    return found


def _worst(results: Results, domain: Domain, album: Album | None, budget: int) -> Section:
    """Text of the cards is part of the budget: what it takes is known once they are there without pictures."""
    bare = worst_seconds(results, domain.language, None, 0)
    if album is None:
        return bare
    return worst_seconds(results, domain.language, album, max(budget - 2 * len(_encoded(bare)), 0))


def _page(title: str, about: str, sections: Sequence[Section]) -> str:
    css = resources.files("mmor.reports").joinpath("report.css").read_text("utf-8")
    anchors = [f"s{place}" for place in range(len(sections))]
    links = "".join(f'<li><a href="#{anchor}">{escape(s.title)}</a></li>' for anchor, s in zip(anchors, sections))
    body = "\n".join(section.html(anchor) for anchor, section in zip(anchors, sections))
    return (
        f'{_DOCTYPE}\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body><header><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(about)}</p><nav><ul>{links}</ul></nav></header>\n<main>{body}</main></body></html>\n'
    )


def _write_csv(folder: Path, groups: Sequence[tuple[str, Sequence[Section]]], compared: Sequence[Section]) -> list[str]:
    """One file for each table; with several results files a folder for each. A line if there are others."""
    names = _file_names([label for label, _ in groups])
    files = {
        (folder if len(groups) == 1 else folder / name) / f"{_file_name(table.name)}.csv": table
        for name, (_, sections) in zip(names, groups)
        for section in sections
        for table in section.tables
    }
    for name, section in zip(_file_names([section.title for section in compared], names), compared):
        files |= {folder / name / f"{_file_name(table.name)}.csv": table for table in section.tables}
    for path, table in files.items():
        write_text(path, table.csv())
    others = sorted({*folder.glob("*.csv"), *folder.glob("*/*.csv")} - files.keys())
    if not others:
        return []
    told = ", ".join(str(path.relative_to(folder)) for path in others[:_TOLD])
    more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
    return [f"{folder}: also holds tables that are not of this report, {told}{more}; remove them or choose another"]


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text.removesuffix(".json")).strip("_")[:80]


def _file_names(texts: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """As `_file_name`; those that would be equal, also on a disk that knows no capitals, or empty get a number."""
    used, names = {name.lower() for name in taken}, []
    for text in texts:
        name, number = _file_name(text), 1
        unique = name or "results"
        while unique.lower() in used:
            number += 1
            unique = f"{name or 'results'}_{number}"
        used.add(unique.lower())
        names.append(unique)
    return names


def _encoded(section: Section) -> bytes:
    return section.html("s000").encode("utf-8", "backslashreplace")


def _is_same(out: Path, path: Path) -> bool:
    return out.exists() and path.exists() and out.samefile(path)
