"""What is known of one timepoint, as the page gets it (JSON values)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmor.viewer.pictures import TRUTH, masks_of
from mmor.viewer.takes import LIVE, Shown, ViewedTake, label_of
from operating_room.domain.collection import CAMERA_MODALITIES
from operating_room.errors import UserError
from operating_room.files.array_files import NO_GAZE, read_gaze, read_hands
from operating_room.files.readers import picture_size
from operating_room.graphs.prompts import metadata_blocks
from operating_room.graphs.scene_graph import Triplet, normalise, sample_id
from operating_room.recordings.file_checks import check_mask_shape
from operating_room.recordings.questions import read_screen, timepoint_prompt
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.triplets.verdicts import compare_graphs

KINDS = dict(zip(CAMERA_MODALITIES, ("room", "station", "tracking camera", "worn")))

Value = TypeVar("Value")


def describe_take(shown: Shown, viewed: ViewedTake) -> dict[str, Any]:
    """What the page must know of a take before it shows a second of it.

    Raises:
        UserError: the index of the take is missing or damaged.
    """
    recorded, language = viewed.recorded, shown.domain.language
    recording = recorded.path("recording")
    return {
        "take": viewed.take.sample_name,
        "title": viewed.take.name,
        "dataset": recorded.collection.title,
        "domain": shown.domain.name,
        "times": viewed.times,
        "frame_ids": [element.frame_id for element in viewed.index],
        "cameras": [{"name": c.name, "kind": KINDS[c.modality]} for c in recorded.collection.cameras],
        "entities": list(language.entities),
        "predicates": list(language.predicates),
        "forgotten": list(language.forgotten),
        "categories": [
            {"name": category.name, "color": "#{:02x}{:02x}{:02x}".format(*category.color)}
            for category in shown.domain.labels.categories
        ],
        "colors": {name: "#{:02x}{:02x}{:02x}".format(*c.color) for name, c in shown.domain.labels.by_entity.items()},
        "masks": [TRUTH, *shown.masks],
        "graphs": list(shown.graphs),
        "sound": recording is not None and recorded.has(recording),
        "live": shown.live is not None,
    }


def describe_second(shown: Shown, name: str, position: int) -> dict[str, Any]:
    """All that is seen, heard and said at a timepoint; what cannot be read is told under `problems`.

    Raises:
        UserError: there is no such take or position.
    """
    viewed, timepoint = shown.timepoint(name, position)
    problems = list(viewed.problems)

    def tried(read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except UserError as error:
            problems.append(str(error))
            return None

    masks = tried(lambda: masks_of(timepoint, shown.masks)) or {}
    for camera, of_camera in masks.items():
        for path in of_camera.values():
            tried(partial(check_mask_shape, path, timepoint.views[camera]))
    marks = tried(lambda: _marks(timepoint)) or {}
    label = tried(lambda: label_of(timepoint))
    truth = None if label is None else label.triplets
    screen = timepoint.one("robot_screen")
    parts = None if screen is None else tried(lambda: read_screen(screen))

    def told(robot: dict[str, Any] | None, tracker: dict[str, Any] | None) -> str | None:
        return _block_text(tried(lambda: metadata_blocks(shown.domain.language, robot, tracker, None)))

    return {
        "position": position,
        "frame_id": timepoint.frame_id,
        "time": viewed.times[position],
        "views": [
            {
                "camera": camera,
                "kind": KINDS[timepoint.collection.camera[camera].modality],
                "masks": list(masks.get(camera, ())),
                **marks.get(camera, {}),
            }
            for camera in timepoint.views
        ],
        "cloud": timepoint.one("point_cloud") is not None,
        "words": tried(lambda: viewed.words(timepoint)),
        "screen": told(parts, None),
        "tracker": told(None, timepoint.tracker),
        "robot_log": timepoint.records.get("robot_log"),
        "truth": None if truth is None else [list(triplet) for triplet in _spelled(truth, shown)],
        "graphs": {
            source: None if (graph := said.graphs.get(timepoint.sample_id)) is None else _compared(truth, graph, shown)
            for source, said in shown.graphs.items()
        },
        "problems": problems,
    }


def describe_texts(shown: Shown, name: str, position: int) -> dict[str, Any]:
    """Memory, prompt and answer of a timepoint: by labelled graphs (`truth`) and by each prediction.

    Raises:
        UserError: there is no such take or position.
    """
    viewed, timepoint = shown.timepoint(name, position)
    texts = {TRUTH: _texts(viewed, timepoint, position, TRUTH, viewed.truth, None)}
    for source, said in shown.graphs.items():
        answer = said.texts.get(sample_id(name, timepoint.frame_id))
        if source == LIVE:  # of the past beyond the last minute nothing is known
            texts[source] = {"memory": None, "prompt": None, "answer": answer, "problem": None}
        else:
            texts[source] = _texts(viewed, timepoint, position, source, viewed.predicted(said), answer)
    return texts


def _texts(
    viewed: ViewedTake,
    timepoint: Timepoint,
    position: int,
    source: str,
    graphs: Mapping[int, Sequence[Triplet]],
    answer: str | None,
) -> dict[str, str | None]:
    memory, prompt, problem = None, None, None
    try:
        memory = viewed.memory(position, source, graphs)
        prompt = timepoint_prompt(timepoint, memory)
    except UserError as error:
        problem = str(error)
    return {"memory": memory, "prompt": prompt, "answer": answer, "problem": problem}


def _compared(truth: Sequence[Triplet] | None, graph: Sequence[Triplet], shown: Shown) -> dict[str, Any]:
    """The triplets of a prediction with verdicts; where nothing is labelled, all are `unlabelled`."""
    language = shown.domain.language
    strange = [",".join(triplet) for triplet in graph if normalise(triplet, language) is None]
    if truth is None:
        return {"triplets": [[*triplet, "unlabelled"] for triplet in _spelled(graph, shown)], "strange": strange}
    return {"triplets": [list(row) for row in compare_graphs(truth, graph, language)], "strange": strange}


def _spelled(graph: Sequence[Triplet], shown: Shown) -> list[Triplet]:
    """Known triplets with predicates as the domain spells them."""
    return [Triplet(s, o, p) for s, o, p, _ in compare_graphs(graph, graph, shown.domain.language)]


def _block_text(blocks: list[str] | None) -> str | None:
    """What stands between the marks of a block of a prompt."""
    if not blocks:
        return None
    return blocks[0].partition("_start>: ")[2].rpartition(" <")[0]


def _marks(timepoint: Timepoint) -> dict[str, dict[str, list[list[float]]]]:
    """Camera -> `gaze` and `hands`, points as shares of the width and height of its picture.

    Raises:
        UserError: a file of them cannot be read.
    """
    numbers = {number: camera.name for number, camera in enumerate(timepoint.collection.cameras, 1)}
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name, read in (("gaze", read_gaze), ("hands", read_hands)):
        if (path := timepoint.one(name)) is None:
            continue
        for row in read(path):
            camera = numbers.get(int(row[0])) if np.isfinite(row[0]) else None
            picture = None if camera is None else timepoint.views.get(camera)
            if camera is None or picture is None:
                continue
            points = row[1:3].reshape(1, 2) if name == "gaze" else row[1:].reshape(-1, 2)
            found.setdefault(camera, {}).setdefault(name, []).extend(_shares(points, picture))
    return found


def _shares(points: np.ndarray, picture: Path) -> list[list[float]]:
    seen = points[np.isfinite(points).all(axis=1) & (points > NO_GAZE).all(axis=1)]
    return (seen / np.array(picture_size(picture), np.float32)).astype(float).round(4).tolist()
