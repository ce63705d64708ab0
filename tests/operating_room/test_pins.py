"""What must not change when code moves: every text, order, colour, path and file name that published files depend on.

Each digest is that of a JSON of the thing itself, so a failing one is looked into by printing it before and after.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from operating_room.domain.domain import mmor
from operating_room.graphs import memory, prompts
from operating_room.graphs.scene_graph import Triplet, normalise, parse, target_text
from scene_graph_generation.inputs.tokens import _closed_language, _fixed_phrases
from scene_graph_generation.samples.downstream_samples import downstream_file_name
from scene_graph_generation.samples.records import SampleOptions
from scene_graph_generation.samples.sample_files import frequency_file_name

ROOT, LANGUAGE = Path("root"), mmor().language
ROBOT = {"b": {"type": "Button", "template_name": "Next"}, "a": {"type": "Title", "template_name": "Femur"}}
TRACKER = {
    "unique_id_dicts": [
        {"unique_id": number, "button_state": 1, "Translation": [1.9, -2.9, 3], "euler_rot": [0.5, -90.7, 180]}
        for number in sorted(LANGUAGE.tools)
    ]
}


def human_prompts() -> list[str]:
    choices = product((None, ROBOT), (None, TRACKER), (None, "the saw please"), (None, "0: nurse,drill,holding; "))
    return [prompts.conversation(prompts.human_prompt(mmor().language, *choice)) for choice in choices]


def downstream_prompts() -> list[str]:
    graph = (Triplet("head_surgeon", "patient", "drilling"),)
    return [
        prompts.downstream_prompt(text, triplets, task)
        for task in mmor().tasks
        for text in (None, "0: nurse,drill,holding; ")
        for triplets in ((), graph)
    ]


def all_triplets() -> list[Triplet]:
    names = (*LANGUAGE.entities, *LANGUAGE.role_synonyms, *LANGUAGE.word_synonyms)
    return [
        Triplet(name, names[-1 - i], predicate) for i, name in enumerate(names) for predicate in LANGUAGE.predicates
    ]


def targets() -> list[Any]:
    texts = [target_text((triplet,)) for triplet in all_triplets()]
    return [
        texts,
        target_text(()),
        [parse(text) for text in texts],
        [normalise(t, mmor().language) for t in all_triplets()],
    ]


def memory_texts() -> list[str]:
    """A surgery of 60 s in which relations come and go, in every style, with and without dropping."""
    draw, remembered, texts = Random(5), memory.Memory(mmor().language.forgotten_spellings), []
    people, things = LANGUAGE.people[:4], LANGUAGE.entities[8:14]
    for time in range(60):
        texts += [remembered.text(style) for style in memory.STYLES]
        graph = [Triplet(draw.choice(people), draw.choice(things), draw.choice(LANGUAGE.predicates)) for _ in range(3)]
        remembered.add(graph, time)
    texts += [memory.memory_text(remembered.log, style, 0.5, Random(1)) for style in memory.STYLES]
    return [*texts, memory.truncate("x" * 6000)]


def paths() -> list[Any]:
    """Every path of every published take, for one frame."""
    found: list[Any] = [[take.sample_name, take.folder, take.dataset] for take in mmor().takes]
    for take in mmor().takes:
        own, files = mmor().collection(take), mmor().collection("MMOR")  # which have one form for what both could have
        found += [str(ROOT / path) for path in (*own.index_files(take), *own.annotation_folders(take))]
        of_take = ("seconds", "tracks", "recording", "subtitles", "next_action", "robot_phase", "sterility_breach")
        found += [str(ROOT / take.folder), *(str(ROOT / files.path(name, take)) for name in of_take)]
        of_frame = ("robot_screen", "audio", "audio_embedding", "transcript")
        numbers = dict.fromkeys(("time", "simstation", "pcd"), "000017")
        found += [str(ROOT / files.path(name, take, **numbers)) for name in of_frame]
        found += [str(ROOT / own.path("point_cloud", take, **numbers))]
        found += [str(ROOT / files.picture(take, "trackercam", "000017"))]
        for modality, collection in (("room_views", own), ("station_views", files)):
            cameras = [camera.name for camera in collection.cameras_of(modality)]
            found += [str(ROOT / collection.picture(take, camera, "000017")) for camera in cameras]
        names = ("masks", "masks_from_annotation")
        found += [str(ROOT / own.path(n, take, time="000017", number=i)) for i in range(3) for n in names]
        for camera in own.labelled_cameras:
            of_camera = own.picture, own.label_mask, own.panoptic_mask
            found += [str(ROOT / (path(take, camera.name, "000017") or "")) for path in of_camera]
            found += [camera.frame, str(ROOT / (own.label_mask(take, camera.name, "17", True) or ""))]
            found += [str(ROOT / own.panoptic_mask(take, camera.name, "17", True))]
    return found


def slots() -> list[Any]:
    """Which picture is shown in which place, with all cameras and with each one missing."""
    found = []
    for take in (mmor().takes[0], mmor().takes[-1]):
        collection = mmor().collection(take)
        rooms = {camera.name: Path(f"room{camera.name}") for camera in collection.cameras_of("room_views")}
        stations = {
            camera.name: Path(f"station{camera.name.removeprefix('simstation')}")
            for camera in collection.cameras_of("station_views")
        }
        lacking = [({}, stations), (rooms, {}), ({}, {})]
        lacking += [({k: v for k, v in rooms.items() if k != camera}, stations) for camera in (None, *rooms)]
        for room, station in lacking:
            for tracker in ({}, {"trackercam": Path("tracker")}):
                seen = {**room, **station, **(tracker if collection.cameras_of("tracker_view") else {})}
                found.append([str(path) for path in collection.training_pictures(seen)])
                found.append([str(path) for path in collection.evaluation_pictures(seen)])
    return found


def names() -> list[Any]:
    options = product((1, 20), (False, True), (False, True), (0.0, 0.5), (False, True))
    found = [SampleOptions(*choice).file_name(split) for choice in options for split in ("train", "val")]
    found += [frequency_file_name(split, count) for split in ("train", "val") for count in (20, 50)]
    choices = product(("train", "val"), (False, True), (0.0, 0.5), (False, True))
    return found + [downstream_file_name(*choice) for choice in choices]


def colors() -> list[Any]:
    labels = mmor().labels
    table = [[str(part) for part in (c.name, c.color, c.label, c.category_id)] for c in labels.categories]
    return [table, [list(map(str, item)) for item in labels.mistakes.items()], labels.count]


def orders() -> list[Any]:
    words = LANGUAGE.entities, LANGUAGE.scored_predicates, LANGUAGE.people, LANGUAGE.levels
    prompted = LANGUAGE.prompted_entities, LANGUAGE.tools, mmor().task("robot_phase").spellings
    splits = {split: [take.sample_name for take in mmor().split_takes(split)] for split in mmor().splits}
    return [
        words,
        prompted,
        {task.name: task.classes for task in mmor().tasks},
        splits,
        LANGUAGE.role_synonyms,
        LANGUAGE.word_synonyms,
    ]


def phrases() -> list[Any]:
    return [sorted(_fixed_phrases(mmor().language)), _closed_language(mmor().language)]


PINS: dict[Callable[[], Any], str] = {
    human_prompts: "2ad787245aeef707",
    downstream_prompts: "07ced471e12b216f",
    targets: "710dac7e4e1b391b",
    memory_texts: "f48bcfe1f68f35c0",
    paths: "264865b6b0134e4c",
    slots: "5e2ab4e9b9040d2f",
    names: "e9b2194c28098abe",
    colors: "fbc58b40ef699a75",
    orders: "c6974dfbb72db192",
    phrases: "17f12bf39613129b",
}


@pytest.mark.parametrize("thing", PINS, ids=lambda thing: thing.__name__)
def test_pinned(thing: Callable[[], Any]) -> None:
    digest = sha256(json.dumps(thing(), ensure_ascii=False).encode()).hexdigest()[:16]
    assert digest == PINS[thing]
