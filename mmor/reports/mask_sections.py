"""Sections about masks: video panoptic quality of categories and videos, and two results side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from mmor.reports.parts import Section, Table, cards, note
from mmor.reports.results import Results
from mmor.reports.svg import SHARE, Row, around, chart
from operating_room.errors import UserError
from operating_room.scores import bootstrap
from panoptic_segmentation.scores.vpq import SUMMARY_WINDOWS

_TOLD = 10  # videos without a score that are named
_SUMS = ("iou", "tp", "fp", "fn")
Sums = Float64[np.ndarray, "windows videos categories sums"]


def mask_sections(results: Results) -> list[Section]:
    """Scores of each category and each video.

    Raises:
        UserError: the results are damaged.
    """
    told = [("VPQ (mean of windows of 4 and 8 frames)", f"{results.number('vpq'):.1f}")]
    if results.content.get("stq"):
        told.append(("STQ", f"{100 * results.number('stq', 'stq'):.1f}"))
    if results.content.get("instances"):
        told.append(("VPQ by instance, identity switches count", f"{results.number('instances', 'vpq'):.1f}"))
    told += [(what, f"{results.number(what):.0f}") for what in ("videos", "frames") if what in results.content]
    windows = [str(length) for length in SUMMARY_WINDOWS]
    rows, marks = [], []
    for name in sorted(set().union(*(results.table("windows", window, "per_class") for window in windows))):
        there = [name in results.table("windows", window, "per_class") for window in windows]
        places = [("windows", window, "per_class", name) for window in windows]
        pq = [results.number(*place, "pq") if ok else None for place, ok in zip(places, there)]
        first = places[there.index(True)]
        ratios = [results.number(*first, key) for key in ("precision", "recall")]
        tp, fp, fn = (int(results.number(*first, key)) for key in _SUMS[1:])
        rows.append([name, *pq, *ratios, tp + fn, fp])
        marks.append(Row(name.replace("_", " "), list(enumerate(pq)), note=f"{tp + fn} true tubes"))
    names, sums = _sums(results)
    # A video without so many frames, or with nothing on them, has no score over them: 0 would be that of a bad one.
    there = np.asarray(sums.any(axis=(2, 3)))
    videos = [
        [
            video,
            *(_vpq(sums[chosen][:, [place]]) if there[chosen, place].all() else None for chosen in ([0], [1], [0, 1])),
        ]
        for place, video in enumerate(names[0])
    ]
    columns = (
        "category",
        *(f"PQ, {window} frames" for window in windows),
        *(f"{told}, {windows[0]} frames" for told in ("precision", "recall", "true tubes", "wrong tubes")),
    )
    return [
        Section(
            f"Masks: {results.label}",
            [
                cards(told),
                note(f"Takes: {', '.join(results.lines('takes'))}."),
                *_left_out(results),
                *_too_short(results),
                chart("Panoptic quality of each category", marks, SHARE, [f"{window} frames" for window in windows]),
                Table("categories", "Categories", columns, rows),
                Table("videos", "Videos, in percent", ("video", *(f"VPQ, {w} frames" for w in windows), "VPQ"), videos),
            ],
        )
    ]


def _left_out(results: Results) -> list[str]:
    """A note about the videos that are not in the scores, if there are any."""
    lines = results.content.get("left_out") or []
    if not isinstance(lines, list):
        raise results.lacks(("left_out",))
    if not lines:
        return []
    more = f" (and {len(lines) - _TOLD} more)" if len(lines) > _TOLD else ""
    return [note(f"Not all was scored: {'; '.join(map(str, lines[:_TOLD]))}{more}.")]


def _too_short(results: Results) -> list[str]:
    """A note about lengths of windows that no video has."""
    told = " and ".join(results.lines("windows_of_no_video"))
    return [note(f"No video has {told} frames with anything on them: 0 in the VPQ, as published.")] if told else []


def compare_masks(first: Results, second: Results) -> Section:
    """What changed, over the videos in both; the interval draws whole videos.

    Raises:
        UserError: the results are damaged, have no video in common, or were scored on other frames or masks.
    """
    (names, sums), (other_names, other_sums) = _sums(first), _sums(second)
    common = [video for video in names[0] if video in other_names[0]]
    if not common:
        raise UserError(f"{first.path} and {second.path} have no video in common; are they of the same split?")
    for video in common:
        if _true(names, sums, video) != _true(other_names, other_sums, video):
            raise UserError(
                f"{first.path} and {second.path} were scored on other frames or annotated masks, first of {video}; "
                "evaluate one again"
            )
    # What one of them alone has is predicted by it and true nowhere: wrong, and as wrong in its VPQ here.
    categories = sorted({*names[1], *other_names[1]})
    a, b = _of(common, categories, names, sums), _of(common, categories, other_names, other_sums)
    weights = bootstrap.draws(len(common))
    in_first, in_second = (np.asarray(part.any(axis=(0, 1, 3))) for part in (a, b))
    both, alone = (np.flatnonzero(chosen).tolist() for chosen in (in_first & in_second, in_first ^ in_second))
    rows, marks = [], []
    for name, chosen in [("VPQ", range(len(categories))), *((categories[place], [place]) for place in both)]:
        pair = [part[:, :, chosen] for part in (a, b)]
        before, after = (_vpq(part) for part in pair)
        drawn = [_change(draw, *pair) for draw in weights]
        low, high = bootstrap.percentiles(np.array(drawn)) or (0.0, 0.0)
        seen = np.logical_or(*pair).any(axis=(0, 2, 3)).sum()  # videos; every draw of a single one is the same
        real = bool(seen > 1) and (low > 0 or high < 0)
        verdict = "unknown" if seen < 2 else "yes" if real else "no"
        rows.append([name, before, after, after - before, low, high, verdict])
        told = f"{after - before:+z.1f}{', more than chance' if real else ''}"
        marks.append(Row(name.replace("_", " "), [(0, after - before)], [(0, (low, high))], filled=real, note=told))
    axis = around([value for row in rows for value in row[3:6]])
    columns = ("category", "first", "second", "change", "from", "to", "more than chance")
    wrong = ", ".join(categories[place] for place in alone)
    invented = f" Predicted in one of both only, and true nowhere, so 0 in its VPQ: {wrong}." if wrong else ""
    few = " These are few: the interval is too narrow." if len(common) < 10 else ""
    return Section(
        f"Masks: {first.label} and {second.label}",
        [
            note(
                f"{len(common)} videos in both. VPQ in percent, of these videos only; {bootstrap.LEVEL} % intervals by "
                f"drawing whole videos ({bootstrap.RESAMPLES} times).{few} Filled marks: more than chance, "
                f"which a single video does not tell (unknown). Intervals: {bootstrap.OF_WHAT}.{invented}"
            ),
            chart("Change of VPQ", marks, axis, ["second minus first"]),
            Table("change_masks", "What changed", columns, rows),
        ],
    )


def _sums(results: Results) -> tuple[tuple[list[str], list[str]], Sums]:
    """Names of videos and of categories, and the sums of each."""
    windows = [results.table("windows", str(length), "per_video") for length in SUMMARY_WINDOWS]
    videos = [video for video in windows[0] if all(video in of_window for of_window in windows)]
    categories = sorted({name for of_window in windows for video in videos for name in of_window[video]})
    sums = np.zeros((len(windows), len(videos), len(categories), len(_SUMS)))
    for w, length in enumerate(SUMMARY_WINDOWS):
        for v, video in enumerate(videos):
            for name in windows[w][video]:
                place = ("windows", str(length), "per_video", video, name)
                sums[w, v, categories.index(name)] = [results.number(*place, key) for key in _SUMS]
    return (videos, categories), sums


def _of(
    videos: Sequence[str], categories: Sequence[str], names: tuple[list[str], list[str]], sums: Sums
) -> Float64[np.ndarray, "windows videos_chosen categories_chosen sums"]:
    """The sums of these videos and categories; 0 of a category that is not there."""
    chosen = np.zeros((len(sums), len(videos), len(categories), len(_SUMS)))
    there = [place for place, name in enumerate(categories) if name in names[1]]
    places = [names[1].index(categories[place]) for place in there]
    chosen[:, :, there] = sums[:, [names[0].index(video) for video in videos]][:, :, places]
    return chosen


def _true(names: tuple[list[str], list[str]], sums: Sums, video: str) -> dict[str, list[float]]:
    """The number of true tubes of each category of a video, by window: found or missed, whatever was predicted."""
    tubes = sums[:, names[0].index(video), :, 1] + sums[:, names[0].index(video), :, 3]
    return {name: of_name.tolist() for name, of_name in zip(names[1], tubes.T) if of_name.any()}


def _change(draw: Int64[np.ndarray, " videos"], first: Sums, second: Sums) -> float:
    """VPQ of the second minus that of the first, each video counted so often as it was drawn.

    NaN where the drawn ones have nothing over a window over which others have something: 0 would be no change.
    """
    drawn = [np.einsum("v,wvcs->wcs", draw, part)[:, None] for part in (first, second)]
    has, of_all = (np.logical_or(*pair).any(axis=(1, 2, 3)) for pair in (drawn, (first, second)))
    return float("nan") if (has != of_all).any() else _vpq(drawn[1]) - _vpq(drawn[0])


def _vpq(sums: Sums) -> float:
    """In percent, of these videos pooled; 0 where there is nothing."""
    iou, tp, fp, fn = np.moveaxis(sums.sum(axis=1), -1, 0)
    half, there = tp + (fp + fn) / 2, tp + fp + fn > 0
    means = [(iou[w][there[w]] / half[w][there[w]]).mean() if there[w].any() else 0.0 for w in range(len(iou))]
    return 100 * float(np.mean(means))
