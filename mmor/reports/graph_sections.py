"""Sections about scene graphs: scores, confusion, takes and entities, what was seen, predicates over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmor.reports.parts import Cell, Section, Table, cards, definitions, note
from mmor.reports.results import Results
from mmor.reports.svg import BLUE, GREEN, SHARE, Row, chart, heatmap, key, spans
from operating_room.domain.domain import Domain
from operating_room.scores import bootstrap
from operating_room.scores.scoring import SceneGraphScores, score
from operating_room.scores.triplets.timelines import Timeline, timelines

MOST_TIME_LINES = 1_200_000  # bytes
_SCORES = ("precision", "recall", "f1-score")
WITHOUT_SAMPLES = "The results file holds no timepoints (it is of an older version): evaluate again to see this."


def graph_sections(results: Results, domain: Domain) -> list[Section]:
    """All but the single seconds and the scores of triplets.

    Raises:
        UserError: the results are damaged.
    """
    scores = score(results.samples, results.predictions, domain) if results.samples else None
    return [
        _overview(results),
        _predicates(results),
        _confusion(results, scores),
        _takes(results),
        _entities(results),
        _time_lines(results, domain),
        _seen(results),
    ]


def _overview(results: Results) -> Section:
    macro, interval = (
        results.number("overall", "macro", "f1-score"),
        results.interval("overall", "intervals", "macro f1-score"),
    )
    certainty = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    told = [
        ("macro F1 over given pairs, none included", f"{macro:.3f}{certainty}"),
        ("timepoints", f"{results.number('overall', 'samples'):.0f}"),
        ("pairs of entities scored", f"{results.number('overall', 'pairs'):.0f}"),
    ]
    lines = [*results.lines("notes"), *results.lines("problems")]
    return Section(
        f"Scene graphs: {results.label}",
        [
            cards(told),
            note(f"In brackets: {bootstrap.DEFINITION}."),
            *(note(f"Note: {line}") for line in lines),
            *_egoexor(results),
            about(results),
        ],
    )


def _egoexor(results: Results) -> list[str | Table]:
    """EgoExOR's published score beside ours, where the file has both."""
    if "egoexor" not in results.content:
        return []
    rows = [
        [kind, *(results.number("egoexor", score, kind, "macro_f1") for score in ("f1_official", "f1_truth"))]
        for kind in results.table("egoexor", "f1_truth")
    ]
    told = str(results.get("egoexor", "definitions", "differ"))
    return [note(told), Table("egoexor", "EgoExOR", ("surgery", "f1_official", "f1_truth"), rows)]


def about(results: Results) -> Table:
    """What a results file says of itself."""
    flat: dict[str, object] = {}
    for name, value in results.get("about").items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    rows = [(name, str(value)) for name, value in flat.items() if value is not None]
    return Table("about", "What was scored with what", ("setting", "value"), rows)


def _predicates(results: Results) -> Section:
    rows, marks = [], []
    for name, scores in _named(results, "predicates"):
        numbers = [float(scores[key]) for key in _SCORES]
        interval = results.interval("overall", "intervals", name)
        rows.append([name, *numbers, *(interval or (None, None)), int(scores["support"])])
        lines = [] if interval is None else [(0, interval)]
        marks.append(Row(name, [(0, numbers[2])], lines, note=f"{numbers[2]:.3f} of {scores['support']} pairs"))
    columns = ("predicate", "precision", "recall", "F1", "F1 from", "F1 to", "support")
    return Section(
        "Predicates over given pairs",
        [
            note("F1 of each predicate that is true somewhere, with its 95 % interval."),
            chart("F1 of each predicate with its interval", marks, SHARE, ["F1"]),
            Table("predicates", "Predicates of ordered entity pairs", columns, rows),
        ],
    )


def _confusion(results: Results, scores: SceneGraphScores | None) -> Section:
    title = "Confusion of predicates"
    if scores is None:
        return Section(title, [note(WITHOUT_SAMPLES)])
    report = scores.overall.predicates
    there = [i for i in range(len(report.names)) if report.support[i] or report.confusion[:, i].any()]
    names = [report.names[i] for i in there]
    counts = report.confusion[np.ix_(there, there)]
    rows = [[name, *map(int, row)] for name, row in zip(names, counts)]
    return Section(
        title,
        [
            note("Rows: true; columns: predicted. Numbers are ordered pairs; the shade is their share of the row."),
            heatmap("Confusion of predicates", names, names, counts),
        ],
        [Table("confusion", "", ("true \\ predicted", *names), rows)],
    )


def _takes(results: Results) -> Section:
    rows, marks = [], []
    for name, report in results.table("takes").items():
        one = Results(results.path, results.kind, results.label, report)
        macro = [one.number("macro", score) for score in _SCORES]
        rest = [one.number("interaction", "macro avg", "f1-score"), one.number("entities", "macro avg", "f1-score")]
        rows.append([name, *(int(one.number(key)) for key in ("samples", "pairs")), *macro, *rest])
        marks.append(Row(name, [(0, macro[2])], note=f"{macro[2]:.3f}, {rows[-1][1]} timepoints"))
    columns = ("take", "timepoints", "pairs", "macro P", "macro R", "macro F1", "interaction F1", "entity F1")
    parts = [chart("Macro F1 of each take", marks, SHARE, ["macro F1"]), Table("takes", "Takes", columns, rows)]
    return Section("Takes", [note("Takes do not compare: which predicates have support decides the mean."), *parts])


def _entities(results: Results) -> Section:
    named = _named(results, "entities")
    rows = [[name, *(scores[key] for key in _SCORES), int(scores["support"])] for name, scores in named]
    columns = ("entity", "precision", "recall", "F1", "support")
    told = note("Whether an entity of the true graph is named in the prediction at all, in how many timepoints.")
    marks = [
        Row(name.replace("_", " "), [(0, scores["recall"])], note=f"{scores['recall']:.3f} of {scores['support']:.0f}")
        for name, scores in named
    ]
    return Section(
        "Entities",
        [told, chart("Recall of each entity", marks, SHARE, ["recall"]), Table("entities", "Entities", columns, rows)],
    )


def _time_lines(results: Results, domain: Domain) -> Section:
    title = "Predicates over time"
    if not results.samples:
        return Section(title, [note(WITHOUT_SAMPLES)])
    legend = f"<p class=note>{key(BLUE, 'true')}{key(GREEN, 'predicted, right')}{key('hatch', 'predicted, wrong')}</p>"
    parts = [note("Upper half of a row: true; lower half: predicted. Filled while any pair has the predicate."), legend]
    left_out, rows = list[str](), list[list[Cell]]()
    for take in timelines(results.samples, results.predictions, domain, results.times):
        found = _stretches(take, domain)
        rows += [
            [take.take_name, predicate, what, take.seconds[first], take.seconds[end - 1], end - first]
            for predicate, by_kind in found.items()
            for what, runs in by_kind.items()
            for first, end in runs
        ]
        drawn = _time_line(take, found)
        if sum(map(len, parts)) + len(drawn) > MOST_TIME_LINES:
            left_out.append(take.take_name)
        else:
            parts.append(drawn)
    if left_out:
        parts.append(note(f"Left out, as the page would be too large: {', '.join(left_out)}."))
    columns = ("take", "predicate", "what", "first, s", "last, s", "timepoints")
    return Section(title, parts, [Table("time_lines", "", columns, rows)])


def _stretches(take: Timeline, domain: Domain) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Predicate -> `true`, `right` and `wrong` (predicted) -> stretches of timepoints, the end behind the last."""
    found = {}
    for predicate in domain.language.predicates:
        lower = predicate.lower()
        true = [{t for t in graph if t.predicate == lower} for graph in take.truth]
        said = [{t for t in graph if t.predicate == lower} for graph in take.predicted]
        if not any(true) and not any(said):
            continue
        right = [bool(a & b) for a, b in zip(true, said)]
        wrong = [bool(b) and not ok for b, ok in zip(said, right)]
        kinds = {"true": list(map(bool, true)), "right": right, "wrong": wrong}
        found[predicate] = {kind: _runs(flags, take.follows) for kind, flags in kinds.items()}
    return found


def _time_line(take: Timeline, found: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]]) -> str:
    looks = {"true": (BLUE, 0), "right": (GREEN, 1), "wrong": ("url(#hatch)", 1)}
    rows = [(predicate, [(*looks[what], runs) for what, runs in of.items()]) for predicate, of in found.items()]
    told = f"{take.take_name}: {len(take.truth)} timepoints"
    return f"<h3>{told}</h3>{spans(f'Predicates over time, {told}', rows, len(take.truth))}"


def _runs(flags: Sequence[bool], follows: Sequence[bool]) -> list[tuple[int, int]]:
    """Stretches of timepoints that are flagged; a gap between the timepoints ends one, as it ends an interval."""
    runs: list[tuple[int, int]] = []
    for place in np.flatnonzero(flags).tolist():
        if runs and runs[-1][1] == place and follows[place]:
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    return runs


def _seen(results: Results) -> Section:
    seen = results.content.get("modalities")
    if not isinstance(seen, dict):
        return Section(
            "Modalities", [note("Not known: predictions came as a file, or the results are of an older version.")]
        )
    rows = [
        [
            kind,
            *(count if isinstance(count := presence.get(key), int) else None for key in ("timepoints", "of", "files")),
            "yes" if presence.get("known") else "no",
        ]
        for kind, presence in seen.items()
        if isinstance(presence, dict)
    ]
    columns = ("input", "timepoints that have it", "of", "files", "known to the model")
    return Section("Modalities", [Table("modalities", "What the model was shown", columns, rows)])


def meanings(results: Results) -> Section:
    """The definitions that a results file brings along."""
    found = results.content.get("definitions")
    pairs = [(str(k), str(v)) for k, v in found.items()] if isinstance(found, dict) else []
    return Section(f"Definitions: {results.label}", [definitions(pairs)])


def _named(results: Results, what: str) -> list[tuple[str, dict[str, float]]]:
    """The names with support, not the averages."""
    found = []
    for name in results.table("overall", what):
        numbers = {key: results.number("overall", what, name, key) for key in (*_SCORES, "support")}
        if "avg" not in name and numbers["support"]:
            found.append((name, numbers | {"support": int(numbers["support"])}))
    return found
