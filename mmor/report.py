"""One self-contained HTML page about one take: views with masks, scene graphs, predicates over time, scores."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from operating_room.domain.labels import Labels
from operating_room.domain.language import Language
from operating_room.files import readers
from operating_room.files.atomic import write_text
from operating_room.graphs.scene_graph import Sample, Triplet, normalise
from operating_room.recordings.dataset import RecordedTake
from operating_room.recordings.questions import read_screen, read_speech
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores import scoring
from operating_room.work.progress import track
from panoptic_segmentation.scores import vpq

_KINDS = {"room_views": "room", "station_views": "station", "tracker_view": "tracking camera", "ego_views": "worn"}
VIEW_WIDTH = 320  # px, of the pictures in the page


@dataclass(frozen=True)
class TakeResult:
    """What a report shows of one take."""

    recorded: RecordedTake
    truth: Sequence[Sample]  # the timepoints to show, in order
    graphs: Mapping[str, Sequence[Triplet]]  # sample id -> predicted triplets as parsed
    masks: Mapping[Path, Path]  # picture of a camera -> predicted class-colour picture
    scores: scoring.SceneGraphScores
    constant_scores: scoring.SceneGraphScores  # of one constant guess: the most frequent graph of the training takes
    quality: vpq.VideoQuality
    note: str  # where take and models come from


def write_report(path: Path, result: TakeResult) -> None:
    """Write the page to `path`; it needs no other file and no network.

    Raises:
        UserError: a picture or mask cannot be read, or the page cannot be written.
    """
    template = resources.files("mmor").joinpath("report.html").read_text("utf-8")
    # "</script" would end the script element in which the data stand, and "<!--<script" hide its end from the parser,
    # as a transcript may hold; in JSON "<" stands in strings only.
    data = json.dumps(_page(result), ensure_ascii=False).replace("<", "\\u003c")
    write_text(path, template.replace("__DATA__", data))


def _page(result: TakeResult) -> dict[str, Any]:
    overall, constant = result.scores.overall, result.constant_scores.overall
    labels = result.recorded.domain.labels
    frames = {timepoint.frame_id: timepoint for timepoint in result.recorded.timepoints}
    moments = [_moment(frames[sample.frame_id], sample, result) for sample in track(result.truth, "report: timepoints")]
    return {
        "title": f"Take {result.recorded.take.name}",
        "subtitle": result.note,
        "cards": [
            {"label": "VPQ (mean of windows of 4 and 8 frames)", "value": f"{result.quality.vpq:.1f}"},
            {"label": "scene graph macro F1 (none included)", "value": f"{overall.macro_f1:.3f}"},
            {"label": "macro F1 of one constant graph", "value": f"{constant.macro_f1:.3f}"},
            {"label": "timepoints", "value": str(len(moments))},
            {"label": "pairs of entities scored", "value": str(overall.predicates.total)},
        ],
        "entities": list(result.recorded.domain.language.entities),
        "predicates": list(result.recorded.domain.language.predicates),
        "forgotten": list(result.recorded.domain.language.forgotten),
        "colors": {name: "#{:02x}{:02x}{:02x}".format(*c.color) for name, c in labels.by_entity.items()},
        "moments": moments,
        "tables": [_predicate_table(overall, constant), _category_table(result.quality)],
        "definitions": {**scoring.DEFINITIONS, **{f"VPQ: {name}": text for name, text in vpq.DEFINITIONS.items()}},
    }


def _moment(timepoint: Timepoint, sample: Sample, result: TakeResult) -> dict[str, Any]:
    return {
        "frame_id": sample.frame_id,
        "views": list(_views(timepoint, result.masks)),
        "triplets": compare_graphs(sample.triplets, result.graphs[sample.sample_id], result.recorded.domain.language),
        "signals": _signals(timepoint),
    }


def compare_graphs(
    truth: Iterable[Triplet], predicted: Iterable[Triplet], language: Language
) -> list[tuple[str, str, str, str]]:
    """Every true or predicted triplet with its verdict: right, missed (true only) or wrong (predicted only)."""
    true = {known for triplet in truth if (known := normalise(triplet, language)) is not None}
    found = {known for triplet in predicted if (known := normalise(triplet, language)) is not None}
    spelling = {predicate.lower(): predicate for predicate in language.predicates}
    verdicts = {triplet: "right" if triplet in found else "missed" for triplet in true}
    verdicts |= dict.fromkeys(found - true, "wrong")
    return [(s, o, spelling.get(p, p), verdict) for (s, o, p), verdict in sorted(verdicts.items())]


def _views(timepoint: Timepoint, masks: Mapping[Path, Path]) -> Iterable[dict[str, str]]:
    cameras, labels = timepoint.collection.camera, timepoint.domain.labels
    for camera, path in timepoint.views.items():
        kind = _KINDS[cameras[camera].modality]
        view = {"name": f"{kind} {camera}", "picture": _jpeg(readers.read_picture(path))}
        if predicted := masks.get(path):
            view["predicted"] = _overlay(labels.colors_to_categories(readers.read_picture(predicted)), labels)
        if annotated := timepoint.several("label_masks").get(camera):
            view["annotated"] = _overlay(labels.label_to_category[readers.read_label_mask(annotated)], labels)
        yield view


def _signals(timepoint: Timepoint) -> dict[str, str]:
    """What the sensors without a picture say, in words."""
    signals = {}
    if (transcript := timepoint.one("transcript")) is not None:
        signals["heard"] = read_speech(transcript)
    if (screen := timepoint.one("robot_screen")) is not None:
        parts = read_screen(screen)
        signals["robot screen"] = ", ".join(f"{part['type']}: {part['template_name']}" for part in parts.values())
    if timepoint.tracker is not None:
        signals["tracked tools"] = str(len(timepoint.tracker["unique_id_dicts"]))
    return signals


def _predicate_table(overall: scoring.GraphReport, constant: scoring.GraphReport) -> dict[str, Any]:
    report = overall.predicates
    rows = [
        [name, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", f"{guess:.3f}", str(int(support))]
        for name, precision, recall, f1, guess, support in zip(
            report.names, report.precision, report.recall, report.f1, constant.predicates.f1, report.support
        )
        if support
    ]
    columns = ["predicate", "precision", "recall", "F1", "F1 of the constant graph", "support"]
    return {"title": "Predicates of ordered entity pairs", "columns": columns, "rows": rows}


def _category_table(quality: vpq.VideoQuality) -> dict[str, Any]:
    short, long = (quality.windows[length].total for length in vpq.SUMMARY_WINDOWS)
    rows = []
    for category in sorted(short.keys() | long.keys()):
        sums = [total.get(category, vpq.Quality()) for total in (short, long)]
        rows.append([quality.names[category], *(f"{100 * s.scores['pq']:.1f}" for s in sums), str(sums[0].support)])
    return {
        "title": "Segmentation categories",
        "columns": ["category", *(f"VPQ, {n} frames" for n in vpq.SUMMARY_WINDOWS), "tubes of 4 frames"],
        "rows": rows,
    }


def _jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((VIEW_WIDTH, VIEW_WIDTH))
    return _encode(image, "JPEG", quality=80)


def _overlay(categories: UInt8[np.ndarray, "height width"], labels: Labels) -> str:
    """A category map as a palette picture whose background is transparent."""
    image = Image.fromarray(categories).resize((VIEW_WIDTH, VIEW_WIDTH * categories.shape[0] // categories.shape[1]), 0)
    image.putpalette(labels.colors.tobytes())
    return _encode(image, "PNG", transparency=0, bits=8)


def _encode(image: Image.Image, form: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
