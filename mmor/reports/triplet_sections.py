"""Sections about what macro F1 does not tell: open generation, rare predicates, segments, onsets, hallucinations."""

from __future__ import annotations

from dataclasses import replace

from mmor.reports.graph_sections import WITHOUT_SAMPLES
from mmor.reports.parts import Section, Table, cards, note
from mmor.reports.results import Results
from mmor.reports.svg import SHARE, Axis, Row, around, chart, counted
from operating_room.domain.domain import Domain
from operating_room.scores.scoring import score
from operating_room.scores.triplets.details import DEFINITIONS, measure
from operating_room.scores.triplets.segments import OVERLAPS

RARE = 100  # true triplets below which a predicate is called rare
_RATIOS = ("precision", "recall", "f1-score")
# Macro F1 in percent on MM-OR's test takes: relations, next action, robot phase, sterility breach.
PUBLISHED = (
    ("MM2SG (MM-OR's paper)", 52.9, 35.4, 56.9, 55.0),
    ("TopoOR", 61.3, 41.1, 73.53, 76.83),
)
PUBLISHED_NOTE = (
    "MM2SG and TopoOR: as in TopoOR's tables (github.com/wngTn/TopoOR), on the recorded takes 004_PKA, 011_TKA, "
    "036_PKA and 038_TKA (robot phase without 004_PKA). They compare with a file about these four recorded takes "
    "only, not with simulated ones or others. TopoOR's thresholds of sterility are fitted on these same test takes, "
    "which are its validation takes, too."
)


def triplet_sections(results: Results, domain: Domain) -> list[Section]:
    """From the key `triplets` of the file, or from its samples where an older version wrote it.

    Raises:
        UserError: the results are damaged.
    """
    with_triplets = _with_triplets(results, domain)
    if with_triplets is None:
        return [Section("Whole triplets, segments, onsets, hallucinations", [note(WITHOUT_SAMPLES)])]
    told = []
    if with_triplets is not results:
        told = [note("The file is of an older version: these numbers were computed from its timepoints now.")]
    results = with_triplets
    return [
        _like_with_like(results, domain, told),
        _counts(results),
        _segments(results),
        _delays(results),
        _hallucinations(results),
    ]


def headline(results: Results, domain: Domain) -> dict[str, float | None]:
    """The measures of triplets in one number each; nothing where the file holds no timepoints.

    Raises:
        UserError: the results are damaged.
    """
    found = _with_triplets(results, domain)
    if found is None:
        return {}
    onsets = [found.number("triplets", "delays", "all", key) for key in ("found", "missed")]
    return {
        "macro F1 over given pairs that are named": found.number("triplets", "given_named", "f1-score"),
        "F1 of whole triplets": found.number("triplets", "exact", "micro", "f1-score"),
        "F1 of whole triplets, mean over predicates": found.number("triplets", "exact", "macro", "f1-score"),
        **{f"segment F1@{k}": found.number("triplets", "segments", "all", f"f1@{k}") for k in OVERLAPS},
        "onset delay, median in s": found.number("triplets", "delays", "all", "median") if onsets[0] else None,
        "onsets missed, share": onsets[1] / sum(onsets) if sum(onsets) else None,
        "hallucinations, share": found.number("triplets", "hallucinations", "share"),
    }


def _with_triplets(results: Results, domain: Domain) -> Results | None:
    """The results themselves, or with the key `triplets` from their samples; None where they have neither."""
    if "triplets" in results.content:
        return results
    if not results.samples:
        return None
    scores = score(results.samples, results.predictions, domain)
    details = measure(results.samples, results.predictions, scores, domain, results.times)
    return replace(results, content={**results.content, "triplets": details.to_json()})


def _like_with_like(results: Results, domain: Domain, told: list[str]) -> Section:
    micro = results.interval("triplets", "exact", "micro", "intervals", "f1-score")
    macro = results.interval("overall", "intervals", "macro f1-score")
    rows = [
        [
            "given pairs (the paper's)",
            results.number("triplets", "given", "f1-score"),
            *(macro or (None, None)),
            "as MM2SG",
        ],
        ["given pairs that are named", results.number("triplets", "given_named", "f1-score"), None, None, "as TopoOR"],
        [
            "open generation, all triplets",
            results.number("triplets", "exact", "micro", "f1-score"),
            *(micro or (None, None)),
            "",
        ],
        [
            "open generation, mean over predicates",
            results.number("triplets", "exact", "macro", "f1-score"),
            None,
            None,
            "",
        ],
    ]
    tables = [Table("like_with_like", "This file", ("what is asked", "F1", "from", "to", "counts"), rows)]
    if domain.name == "mmor":
        others = [[name, relations / 100] for name, relations, *_ in PUBLISHED]
        tables.append(Table("published_relations", "Published, relations", ("method", "macro F1"), others))
    keys = ("given", "given_named", "exact")
    return Section(
        "Predicates over given pairs beside open generation",
        [
            *told,
            *(note(f"`{name}`: {DEFINITIONS[name]}.") for name in keys),
            *tables,
            *([note(PUBLISHED_NOTE)] if domain.name == "mmor" else []),
        ],
    )


def _counts(results: Results) -> Section:
    where = ("triplets", "exact", "predicates")
    rows, counts, ratios = [], [], []
    found = results.table(*where)
    ordered = sorted(found, key=lambda name: results.number(*where, name, "true"))
    for name in ordered:
        true, predicted, right = (int(results.number(*where, name, key)) for key in ("true", "predicted", "right"))
        if not true and not predicted:
            continue
        scores = [results.number(*where, name, key) for key in _RATIOS]
        intervals = [results.interval(*where, name, "intervals", key) for key in _RATIOS]
        rate = predicted / true if true else None
        flat = [value for one, interval in zip(scores, intervals) for value in (one, *(interval or (None, None)))]
        rows.append([name, true, predicted, right, rate, *flat])
        rare = " (rare)" if true < RARE else ""
        said = "" if rate is None else f"{rate:.2f} times as often"
        counts.append(Row(name + rare, [(0, true), (1, predicted)], note=said))
        lines = [(i, interval) for i, interval in enumerate(intervals[:2]) if interval is not None]
        points = [(0, scores[0] if predicted else None), (1, scores[1] if true else None)]
        ratios.append(Row(name + rare, points, lines, note=f"{true} true"))
    columns = ["predicate", "true", "predicted", "right", "predicted / true"]
    columns += [column for name in ("precision", "recall", "F1") for column in (name, f"{name} from", f"{name} to")]
    most = max((row[2] for row in rows), default=1), max((row[1] for row in rows), default=1)
    return Section(
        "Calibration of rare predicates",
        [
            note(f"Whole triplets, rarest first; rare: fewer than {RARE} true ones."),
            note(f"{DEFINITIONS['counts']}."),
            chart("How often each predicate is true and predicted", counts, counted(max(most)), ["true", "predicted"]),
            chart("Precision and recall with intervals", ratios, SHARE, ["precision", "recall"]),
            Table("calibration", "Counts of whole triplets", columns, rows),
        ],
    )


def _segments(results: Results) -> Section:
    keys, rows, marks = [f"f1@{overlap}" for overlap in OVERLAPS], [], []
    where = ("triplets", "segments")
    for name in results.table(*where, "predicates"):
        values = [results.number(*where, "predicates", name, key) for key in keys]
        true, predicted = (int(results.number(*where, "predicates", name, key)) for key in ("true", "predicted"))
        rows.append([name, *values, true, predicted])
        marks.append(Row(name, list(enumerate(values)), note=f"{true} true, {predicted} predicted"))
    overall = [results.number(*where, "all", key) for key in keys]
    counts = [int(results.number(*where, "all", key)) for key in ("true", "predicted")]
    macro = [results.number(*where, "macro", key) for key in keys]
    rows += [["all", *overall, *counts], ["macro", *macro, None, None]]
    shown = [(f"F1 at {overlap} % overlap, all intervals", f"{value:.3f}") for overlap, value in zip(OVERLAPS, overall)]
    titles = [f"F1@{overlap}" for overlap in OVERLAPS]
    columns = ("predicate", *titles, "true intervals", "predicted intervals")
    return Section(
        "Segments",
        [
            cards(shown),
            note(f"{DEFINITIONS['segments']}."),
            note(f"{DEFINITIONS['segments_overall']}."),
            chart("Segment F1 of each predicate", marks, SHARE, titles),
            Table("segments", "Triplets as intervals", columns, rows),
        ],
    )


def _delays(results: Results) -> Section:
    where, rows, marks = ("triplets", "delays"), [], []
    found: list[float] = []
    for name in [*results.table(*where, "predicates"), "all"]:
        place = (*where, name) if name == "all" else (*where, "predicates", name)
        counts = [int(results.number(*place, key)) for key in ("found", "missed", "unknown")]
        keys = ("first_quartile", "median", "third_quartile")
        quartiles = [results.number(*place, key) for key in keys] if counts[0] else [None] * 3
        rows.append([name, *quartiles, *counts])
        told = f"{counts[1]} of {counts[0] + counts[1]} missed"
        if counts[0]:
            first, median, third = (results.number(*place, key) for key in keys)
            found += [first, median, third]
            marks.append(Row(name, [(0, median)], boxes=[(0, (first, third))], note=f"{median:+.1f} s, {told}"))
        else:
            marks.append(Row(name, note=told))
    axis: Axis = around(found)
    columns = ("predicate", "first quartile, s", "median, s", "third quartile, s", "found", "missed", "unknown onset")
    return Section(
        "Onset delays",
        [
            note(f"{DEFINITIONS['delays']}."),
            note(f"{DEFINITIONS['delays_unknown']}."),
            chart(
                "Onset delay in s: median and quartiles; left of 0 is early",
                marks,
                axis,
                ["median, s (box: quartiles)"],
            ),
            Table("delays", "From the true onset to the first prediction", columns, rows),
        ],
    )


def _hallucinations(results: Results) -> Section:
    where = ("triplets", "hallucinations")
    invented, triplets, share = (results.number(*where, key) for key in ("invented", "triplets", "share"))
    any_, timepoints, unreadable = (results.number(*where, key) for key in ("with_any", "timepoints", "unreadable"))
    shown = [
        ("of the predicted triplets have an entity that is not in the true graph", f"{100 * share:.1f} %"),
        (f"of {triplets:.0f} triplets", f"{invented:.0f}"),
        (f"of {timepoints:.0f} timepoints have one", f"{any_:.0f}"),
        ("triplets outside the vocabulary", f"{unreadable:.0f}"),
    ]
    counts = results.get(*where, "entities")
    if not isinstance(counts, dict):
        raise results.lacks((*where, "entities"))
    entities = [[name, int(results.number(*where, "entities", name))] for name in counts]
    numbers = [[name, value] for name, value in results.get(*where).items() if isinstance(value, int | float)]
    return Section(
        "Hallucinations",
        [
            cards(shown),
            note(f"{DEFINITIONS['hallucinations']}."),
            note(f"{DEFINITIONS['hallucinations_unreadable']}."),
            Table("hallucinated_entities", "Entities that were not there", ("entity", "triplets"), entities),
        ],
        [Table("hallucinations", "", ("what", "value"), numbers)],
    )
