"""Single seconds: what was true and what was said, the worst ones with pictures, and a take second by second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from mmor.reports.parts import Section, Table, heading, note, picture
from mmor.reports.pictures import Album, View, signals
from mmor.reports.results import Results
from mmor.reports.svg import BLACK, GREEN, ORANGE, RED, figure
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.triplets.verdicts import Verdict, compare_graphs
from operating_room.work.progress import track

WORST = 100
TAKE_WIDTH = 240  # px of pictures with masks
SIGNS = {"right": "✓", "missed": "−", "wrong": "+"}
_COLOURS = {"right": GREEN, "missed": ORANGE, "wrong": RED}
_MEANING = "✓ predicted and true, − missed (true, not predicted), + wrong (predicted, not true)"


def worst_seconds(results: Results, language: Language, album: Album | None, budget: int) -> Section:
    """The timepoints with most missed and wrong triplets, with pictures that take `budget` bytes at most.

    Raises:
        UserError: the results are damaged.
    """
    compared = {
        s.sample_id: compare_graphs(s.triplets, results.predictions[s.sample_id], language) for s in results.samples
    }
    faults = {key: sum(verdict != "right" for *_, verdict in graph) for key, graph in compared.items()}
    ranked = sorted(results.samples, key=lambda sample: -faults[sample.sample_id])
    worst = [sample for sample in ranked[:WORST] if faults[sample.sample_id]]
    rows = [
        [s.take_name, s.frame_id, *(sum(v == verdict for *_, v in compared[s.sample_id]) for verdict in SIGNS)]
        for s in worst
    ]
    shown, left, problems = [], budget, dict[str, None]()
    for place, sample in enumerate(track(worst, "report: worst seconds")):
        views, said = [], {}
        if album is not None and (timepoint := album.timepoint(sample)) is not None:
            said, unsaid = signals(timepoint)
            views, unseen = album.fitting(timepoint, left // (len(worst) - place))
            problems |= dict.fromkeys([*unsaid, *unseen])  # each costs itself, and is told above the seconds
        html = _card(
            f"{place + 1}. {sample.take_name}, timepoint {sample.frame_id}", compared[sample.sample_id], views, said
        )
        left -= sum(len(view.picture) for view in views)
        shown.append(html)
    problems = {**({} if album is None else album.problems), **problems}
    table = Table("worst_seconds", "", ("take", "timepoint", *SIGNS), rows)
    told = [note(f"The {len(worst)} timepoints with most missed and wrong triplets. {_MEANING}.")]
    if album is None:
        told.append(note("Without pictures: no data folder was given (--data)."))
    told += [note(f"Left out: {problem}") for problem in problems]
    return Section(f"Worst seconds: {results.label}", [*told, f'<div class="seconds">{"".join(shown)}</div>'], [table])


def take_seconds(
    samples: Sequence[Sample], predictions: Mapping[str, Iterable[Triplet]], album: Album, budget: int
) -> Section:
    """Seconds of a take, spread over it: all cameras, masks over them, graph, sensors; as many as `budget` bytes hold.

    Raises:
        UserError: a picture or mask cannot be read.
    """
    language, shown, used = album.dataset.domain.language, [], 0
    for sample in track(_spread(samples), "report: timepoints"):
        if (timepoint := album.timepoint(sample)) is None:
            continue
        compared = compare_graphs(sample.triplets, predictions[sample.sample_id], language)
        views = list(album.all_views(timepoint, TAKE_WIDTH))
        said, problems = signals(timepoint)
        if problems:
            raise UserError(problems[0])
        drawn = graph(compared, album.dataset.domain.labels.by_entity, language)
        card = _card(f"timepoint {sample.frame_id}", compared, views, said, drawn)
        if used + len(card) > budget:
            break
        used += len(card)
        shown.append((sample.frame_id, card))
    switch = "".join(
        f'<input type="radio" name="masks" id="m-{kind}"{" checked" if kind == "predicted" else ""}>'
        f'<label for="m-{kind}">{kind} masks</label>'
        for kind in ("predicted", "annotated", "no")
    )
    told = note(f"{len(shown)} of {len(samples)} timepoints, spread over the take. {_MEANING}.")
    cards = "".join(card for _, card in sorted(shown))
    return Section("Second by second", [told, f'<div class="masks">{switch}<div class="whole">{cards}</div></div>'])


def graph(compared: Sequence[Verdict], colours: Mapping[str, object], language: Language) -> str:
    """The scene graph of a second: entities on a circle; what is missed is dashed, what is wrong dotted."""
    names = [name for name in language.entities if any(name in (s, o) for s, o, *_ in compared)]
    place = {
        name: (230 + 160 * math.sin(2 * math.pi * i / len(names)), 190 - 150 * math.cos(2 * math.pi * i / len(names)))
        for i, name in enumerate(names)
    }
    dashes = {"right": "none", "missed": "6 4", "wrong": "2 3"}
    parts, words, between = [], [], Counter[frozenset[str]]()
    for subject, object_, predicate, verdict in compared:
        if subject not in place or object_ not in place:
            continue
        (x1, y1), (x2, y2) = place[subject], place[object_]
        faint, pair = predicate in language.forgotten, frozenset((subject, object_))
        # Of several between one pair each lies beside the one before; labels beside each other would overlap.
        before, long = between[pair], max(1.0, math.hypot(x2 - x1, y2 - y1))
        bend, lower = 0.12 + 28 * before / long, (13 if x2 < x1 else -13) * before * (1 - abs(x2 - x1) / long)
        between[pair] += not faint
        mx, my = (x1 + x2) / 2 + bend * (y2 - y1), (y1 + y2) / 2 - bend * (x2 - x1)
        parts.append(
            f'<path d="M{x1:.0f},{y1:.0f}Q{mx:.0f},{my:.0f} {x2:.0f},{y2:.0f}" fill="none" '
            f'stroke="{_COLOURS[verdict]}" stroke-width="{1 if faint else 2}" stroke-dasharray="{dashes[verdict]}"/>'
        )
        if not faint:
            x, y = (x1 + x2) / 4 + mx / 2, (y1 + y2) / 4 + my / 2 + lower
            words.append(f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" class="halo">{escape(predicate)}</text>')
    for name, (x, y) in place.items():
        colour = getattr(colours.get(name), "color", (154, 166, 178))
        fill = "#{:02x}{:02x}{:02x}".format(*colour)
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="8" fill="{fill}" stroke="{BLACK}"/>')
        below = y + (-12 if y < 190 else 21)
        words.append(
            f'<text x="{x:.0f}" y="{below:.0f}" text-anchor="middle" class="halo">{escape(_words(name))}</text>'
        )
    return figure("scene graph", 460, 380, "".join([*parts, *words]))


def _card(
    title: str, compared: Sequence[Verdict], views: Sequence[View], said: Mapping[str, str], more: str = ""
) -> str:
    lines = "".join(
        f'<li class="{verdict}">{SIGNS[verdict]} {escape(_words(s))}, {escape(p)}, {escape(_words(o))}</li>'
        for s, o, p, verdict in sorted(compared, key=lambda one: (one[3] == "right", one))
        if more or verdict != "right"
    )
    right = sum(verdict == "right" for *_, verdict in compared)
    kept = "" if more else f'<li class="right">✓ {right} right</li>'
    heard = "".join(f"<p><b>{escape(name)}</b> {escape(words)}</p>" for name, words in said.items())
    seen = f'<div class="views">{"".join(map(_figure, views))}</div>' if views else ""
    body = f'<div class="graph">{more}</div>' if more else ""
    return f'<article>{heading(title)}{seen}{body}<ul class="triplets">{lines}{kept}</ul>{heard}</article>'


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(view: View) -> str:
    layers = [picture(view.picture, view.name)]
    for kind, source in (("predicted", view.predicted), ("annotated", view.annotated)):
        layers += [picture(source, "", kind)] if source else []
    told = "; ".join([view.name, *view.problems])
    return f"<figure>{''.join(layers)}<figcaption>{escape(told)}</figcaption></figure>"


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """All of them, in an order of which every beginning is spread over the whole: halves, quarters, eighths."""
    order, step = dict[int, None](), len(samples)
    while step >= 1:
        order |= dict.fromkeys(range(step // 2, len(samples), step))
        step //= 2
    order |= dict.fromkeys(range(len(samples)))
    return [samples[place] for place in order]
