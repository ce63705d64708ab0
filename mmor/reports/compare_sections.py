"""Two results of one task side by side: what changed, and whether it is more than chance."""

from __future__ import annotations

from mmor.reports.mask_sections import compare_masks
from mmor.reports.parts import Section, Table, note
from mmor.reports.results import Results
from mmor.reports.svg import Row, around, chart
from mmor.reports.triplet_sections import headline
from operating_room.domain.domain import Domain
from operating_room.scores import bootstrap
from operating_room.scores.comparison import compare


def compare_results(first: Results, second: Results, domain: Domain) -> Section:
    """Of the same kind.

    Raises:
        UserError: they have nothing in common, or were scored against different annotations.
    """
    if first.kind == "masks":
        return compare_masks(first, second)
    title = f"{first.label} and {second.label}"
    if not (first.content.get("samples") and second.content.get("samples")):
        return Section(
            title, [note("One of the files holds no timepoints (it is of an older version): nothing to compare.")]
        )
    found = compare(first.path, second.path, domain)
    settings = [[name, str(a), str(b)] for name, (a, b) in found.settings.items()]
    told = (
        f"{found.common} timepoints in both ({found.alone[0]} only in the first, {found.alone[1]} only in the second), "
        f"{found.changed} answered differently."
    )
    parts: list[str | Table] = [
        note(told),
        Table("settings", "What both say of themselves", ("setting", "first", "second"), settings),
    ]
    if not found.changed:
        return Section(title, [*parts, note("All answers are the same, so there is nothing to compare.")])
    parts.append(
        note(
            f"{bootstrap.LEVEL} % intervals of second minus first, the same blocks of timepoints drawn for both; more "
            "than chance if the interval does not hold 0 (filled marks); unknown where what the row counts is in one "
            f"block only. One of twenty rows is to be expected. They are {bootstrap.OF_WHAT}."
        )
    )
    for part, differences in found.scores.items():
        rows, marks = [], []
        for one in differences:
            change, real = one.second - one.first, ", more than chance" if one.is_real else ""
            told = "unknown" if one.blocks < 2 else "yes" if one.is_real else "no"
            rows.append([one.name, one.first, one.second, change, *one.interval, told])
            marks.append(
                Row(one.name, [(0, change)], [(0, one.interval)], filled=one.is_real, note=f"{change:+z.3f}{real}")
            )
        axis = around([value for one in differences for value in (*one.interval, one.second - one.first)])
        columns = ("score", "first", "second", "change", "from", "to", "more than chance")
        name = f"change_{part.replace(', ', '_')}"
        parts += [chart(f"Change of {part}", marks, axis, ["second minus first"]), Table(name, part, columns, rows)]
    if first.kind == "scene_graph":
        before, after = (headline(one, domain) for one in (first, second))
        rows = [[name, value, after[name], _change(value, after[name])] for name, value in before.items()]
        parts.append(note("The other measures have no interval of their difference; each over its own file."))
        parts.append(Table("change_triplets", "Other measures", ("measure", "first", "second", "change"), rows))
    return Section(title, parts)


def _change(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first
