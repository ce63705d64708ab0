"""Sections about downstream tasks, each by who answered."""

from __future__ import annotations

import numpy as np

from mmor.reports.graph_sections import about
from mmor.reports.parts import Section, Table, cards, note
from mmor.reports.results import Results
from mmor.reports.svg import SHARE, Row, chart, heatmap
from mmor.reports.triplet_sections import PUBLISHED, PUBLISHED_NOTE
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.scores.breach_recall import REASONS
from operating_room.scores.comparison import judged_answers

_SCORES = ("precision", "recall", "f1-score")
_AVERAGES = ("micro avg", "macro avg", "weighted avg")


def task_sections(results: Results, domain: Domain) -> list[Section]:
    """One for each task and who answered it.

    Raises:
        UserError: the results are damaged.
    """
    sections = [_overview(results, domain)]
    for task, by in results.table("tasks").items():
        sections += [_task(results, task, who, domain) for who in by]
    return sections


def _overview(results: Results, domain: Domain) -> Section:
    rows = []
    for task, by in results.table("tasks").items():
        for who in by:
            interval = results.interval("tasks", task, who, "intervals", "macro f1-score")
            macro = results.number("tasks", task, who, "macro", "f1-score")
            support = int(results.number("tasks", task, who, "macro", "support"))
            every = results.number("tasks", task, who, "overall", "macro avg", "f1-score")
            rows.append([task, who, macro, *(interval or (None, None)), every, support])
    columns = ("task", "answered by", "macro F1", "from", "to", "macro F1 over all classes", "timepoints")
    parts: list[str | Table] = [
        note(
            "Macro F1 is over the classes with support. Over all classes, 0 for those without, is how MM-OR's paper "
            "counts: that column stands beside the published numbers."
        ),
        Table("tasks", "Macro F1 of each task", columns, rows),
    ]
    if domain.name == "mmor":
        others = [[name, *(value / 100 for value in values)] for name, _, *values in PUBLISHED]
        columns = ("method", "next action", "robot phase", "sterility breach")
        parts += [Table("published_tasks", "Published, macro F1", columns, others), note(PUBLISHED_NOTE)]
    parts += [*_breaches(results), *_seconds(results)]
    parts += [note(f"Note: {line}") for line in results.lines("notes")]
    parts += [note(f"Problem: {line}") for line in results.lines("problems")]
    return Section(f"Downstream tasks: {results.label}", [*parts, about(results)])


def _breaches(results: Results) -> list[str | Table]:
    """Of the graphs, by the rule; nothing where no task is of sterility, or an older version wrote the file."""
    if results.content.get("breaches") is None:
        return []
    counts = [int(results.number("breaches", name)) for name in ("true", "predicted", "found")]
    rates = [results.number("breaches", name) for name in ("recall", "precision")]
    missed = [int(results.number("breaches", "missed", reason)) for reason in REASONS]
    columns = ("true", "predicted", "found", "recall", "precision", *(f"missed: {reason}" for reason in REASONS))
    told = "; ".join(f"{reason}: {why}" for reason, why in REASONS.items())
    title = "Pairs that break sterility by the rule, in the graphs that were given"
    return [Table("breaches", title, columns, [[*counts, *rates, *missed]]), note(f"Why breaches are missed. {told}.")]


def _seconds(results: Results) -> list[str | Table]:
    """Until the next action, as the model said; nothing where none was asked."""
    if (found := results.content.get("seconds")) is None:
        return []
    if not isinstance(found, dict):
        raise results.lacks(("seconds",))
    numbers = {name: results.number("seconds", name) for name, value in found.items() if value is not None}
    rows = [[name.replace("_", " "), n if "error" in name else int(n)] for name, n in numbers.items()]
    return [Table("seconds", "Seconds until the next action, by the model", ("what", "value"), rows)]


def _task(results: Results, task: str, who: str, domain: Domain) -> Section:
    place = ("tasks", task, who)
    interval = results.interval(*place, "intervals", "macro f1-score")
    certainty = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    rows, marks = [], []
    for name in results.table(*place, "overall"):
        support = int(results.number(*place, "overall", name, "support"))
        if name in _AVERAGES or not support:
            continue
        scores = [results.number(*place, "overall", name, key) for key in _SCORES]
        around = results.interval(*place, "intervals", name)
        rows.append([name, *scores, *(around or (None, None)), support])
        lines = [] if around is None else [(0, around)]
        marks.append(Row(name, [(0, scores[2])], lines, note=f"{scores[2]:.3f} of {support}"))
    takes = [
        [
            take,
            *(results.number(*place, "takes", take, "macro avg", key) for key in _SCORES),
            int(results.number(*place, "takes", take, "macro avg", "support")),
        ]
        for take in results.table(*place, "takes")
    ]
    file = f"{task}_{who}"
    columns = ("class", "precision", "recall", "F1", "F1 from", "F1 to", "support")
    parts: list[str | Table] = [
        cards(
            [
                (
                    "macro F1 over the classes with support",
                    f"{results.number(*place, 'macro', 'f1-score'):.3f}{certainty}",
                )
            ]
        ),
        chart(f"F1 of each class of {task}", marks, SHARE, ["F1"]),
        Table(file, "Classes", columns, rows),
        Table(
            f"{file}_takes", "Takes, mean over all classes", ("take", "precision", "recall", "F1", "timepoints"), takes
        ),
    ]
    records = results.content.get("samples")
    if not isinstance(records, dict) or not records:
        return Section(f"{task}, answered by {who}", [*parts, note("No confusion: the file holds no timepoints.")])
    chosen = domain.task(task)
    try:
        _, confusions = judged_answers(records, chosen, who, domain)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{results.path}: a timepoint lacks {error}; evaluate again") from error
    total = confusions.sum(axis=0)
    rows_there, names = np.flatnonzero(total.sum(axis=1)), (*chosen.classes, "other text")
    columns_there = np.flatnonzero(total.sum(axis=0))
    counts = total[np.ix_(rows_there, columns_there)]
    titles = [names[i] for i in columns_there]
    lines = [[names[i], *map(int, row)] for i, row in zip(rows_there, counts)]
    parts.append(heatmap(f"Confusion of {task}", [names[i] for i in rows_there], titles, counts))
    table = Table(f"{file}_confusion", "", ("true \\ answered", *titles), lines)
    return Section(f"{task}, answered by {who}", parts, [table])
