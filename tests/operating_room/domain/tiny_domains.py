"""Small domains that no room has: one as the text of a file, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from operating_room.domain.collection import (
    CAMERA_MODALITIES,
    TAKE_FILES,
    TIMEPOINT_FILES,
    Camera,
    Collection,
    OwnTakes,
    Slots,
)
from operating_room.domain.domain import Domain, Task
from operating_room.domain.house import HOUSE_MODALITIES, house_fields
from operating_room.domain.labels import Category, Labels
from operating_room.domain.language import NONE, Language

TEXT = """\
name: dental
language:
  entities: [dentist, helper, chair, patient]
  people: [dentist, helper, patient]
  predicates: [drilling, holding, nextTo]
  levels:
    - [drilling]
    - [holding, nextTo]
  role_synonyms: {doctor: dentist}
  word_synonyms:
    next to: nextto
    seat: chair
  raw_names: {pat: patient}
  prompted_entities: [dentist, seat]
  prompted_predicates: [drilling, next to]
  forgotten: [nextTo]
  tools: {"7": mirror}
labels:
  count: 5
  masks: 2
  categories:
    - {name: background, color: [0, 0, 0], label: 0}
    - {name: pat, color: [255, 0, 0], label: 1}
    - {name: lamp, color: [0, 255, 0], label: 4}
  mistakes: {2: smear}
tasks:
  - name: next_step
    kind: class_with_time
    classes: [drill, none]
  - name: mood
    kind: class
    spellings: [Calm, Afraid]
  - name: breach
    kind: sterility
collections:
  - name: Practice
    root: practice
    suffix: _P
    splits:
      train: [a1, a2]
      small_train: [a1]
      val: [b1]
      test: [c1]
    own: {names: "[a-z0-9]+", rule: small letters and digits only}
    folders: {a2: shared}
    frame_keys: [room, cloud]
    index: ["{folder}/index.json"]
    annotation: ["{folder}/graphs/{frame_id}.json"]
    labels: triplets
    cameras:
      - name: left
        modality: room_views
        frame: room
        picture: "{folder}/left/{room}.jpg"
        masks: "{folder}/left_masks"
      - name: right
        modality: station_views
        frame: room
        picture: "{folder}/right/{room}.jpg"
    slots:
      training: [left, right]
      evaluation: [left]
      also: [right]
    files:
      point_cloud: clouds/{take}/{cloud}.pcd
      masks: masks/{take}/{time}_{number}.png
    take_files:
      tracks: tracks/{take}.json
      mood: moods/{take}.json
    thinned: {a1: 2}
    without: {mood: [b1]}
  - name: Clinic
    root: clinic
    layout: house
    period: 0.5
    cameras:
      - {name: door, modality: room_views}
    modalities: [audio, gaze, label_masks]
"""

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(lambda name: name not in (NONE, "own"))
# What people write in sentences, also what means something else in YAML.
SENTENCES = st.one_of(
    st.text(min_size=1, max_size=20), st.sampled_from(["no", "1", "~", "a: b", "# x", "- y", "'", '"'])
)
WRITABLE = SENTENCES.filter(lambda text: text.isprintable())


def names(least: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(NAMES, min_size=least, max_size=most, unique=True)


def some(draw: Any, values: list[Any] | tuple[Any, ...]) -> tuple[Any, ...]:
    """A few of these, in any order."""
    return tuple(draw(st.permutations(values)))[: draw(st.integers(0, len(values)))]


@st.composite
def languages(draw: Any) -> Language:
    words = draw(names(4, 9))
    split = draw(st.integers(1, len(words) - 1))
    entities, predicates = words[:split], [draw(st.sampled_from((name, name.title()))) for name in words[split:]]
    border = draw(st.integers(0, len(predicates)))
    other = [name for name in draw(names(0, 6)) if name not in words]
    lower = [*entities, *(name.lower() for name in predicates)]
    roles = {name: draw(st.sampled_from(entities)) for name in other[:2]}
    synonyms = {name: draw(st.sampled_from(lower)) for name in other[2:4]}
    raw = {f"{name} {draw(st.integers(0, 9))}": draw(st.sampled_from([*entities, *predicates])) for name in other}
    return Language(
        tuple(entities),
        tuple(predicates),
        people=some(draw, entities),
        levels=(tuple(predicates[:border]), tuple(predicates[border:])),
        role_synonyms=roles,
        word_synonyms=synonyms,
        raw_names=raw,
        prompted_entities=tuple(
            dict.fromkeys(name.replace("_", " ") for name in some(draw, entities) if name[-1] != "_")
        ),
        prompted_predicates=some(draw, predicates),
        instruction=draw(WRITABLE),
        several_predicates=draw(st.booleans()),
        forgotten=some(draw, predicates),
        tools=draw(st.dictionaries(WRITABLE, WRITABLE, max_size=2)),
    )


@st.composite
def labels(draw: Any, language: Language) -> Labels:
    unused = [name for name in draw(names(0, 4)) if name not in language.raw_names.values()]
    numbers = [0, *sorted(draw(st.sets(st.integers(1, 255), min_size=len(unused), max_size=len(unused))))]
    others = max(0, len(unused) - 1)
    color = st.tuples(*[st.integers(0, 255)] * 3).filter(any)
    colors = [(0, 0, 0), *draw(st.lists(color, min_size=others, max_size=others, unique=True))]
    if not unused:
        return Labels(masks=draw(st.integers(0, 3)))
    categories = tuple(
        Category(name, color, label, rank, language.raw_names.get(name, name))
        for rank, (name, color, label) in enumerate(zip(unused, colors, numbers))
    )
    count = draw(st.integers(categories[-1].label + 1, 256))
    free = sorted(set(range(min(count, 20))) - {category.label for category in categories})
    return Labels(categories, {label: draw(WRITABLE) for label in some(draw, free)[:3]}, count, draw(st.integers(0, 3)))


@st.composite
def tasks(draw: Any) -> tuple[Task, ...]:
    found = []
    for name in draw(names(0, 3)):
        if name in (*TAKE_FILES, *TIMEPOINT_FILES):
            continue
        kind = draw(st.sampled_from(("class_with_time", "class", "sterility")))
        classes = draw(names(2, 2 if kind == "sterility" else 4))
        classes = [*classes[1:], NONE] if kind == "class_with_time" else classes
        spellings = [label.title() for label in classes] if draw(st.booleans()) else []
        found.append(Task(name, kind, tuple(classes), draw(WRITABLE), tuple(spellings)))
    return tuple(found)


@st.composite
def collections(draw: Any, name: str, task_names: tuple[str, ...]) -> Collection:
    takes = tuple(f"{name}{number}" for number in range(draw(st.integers(0, 4))))
    splits = {split: some(draw, takes) for split in draw(names(0, 2)) if split not in ("train", "val", "test")}
    splits |= {"train": takes[:1], "val": takes[1:2]}
    cameras = draw(names(0, 4))
    slots = some(draw, cameras)
    border = draw(st.integers(0, len(slots)))
    common: dict[str, Any] = {
        "name": name,
        "title": draw(WRITABLE),
        "root": f"{name}_data",
        "suffix": "" if name == "A" else f"_{name}",
        "takes": takes,
        "splits": splits,
        "own": OwnTakes(rule=draw(WRITABLE), folders=draw(WRITABLE)),
        "slots": Slots(some(draw, cameras), slots[:border], (), slots[border:]),
        "period": draw(st.floats(1e-3, 1e3)),
        "thinned": {take: draw(st.integers(1, 9)) for take in takes[:1]},
        "without": dict.fromkeys(task_names[:1], takes[:1]),
    }
    kinds = {camera: draw(st.sampled_from(CAMERA_MODALITIES)) for camera in cameras}
    if draw(st.booleans()):
        return Collection(**common, **house_fields(kinds.items(), some(draw, HOUSE_MODALITIES)))
    masks = draw(st.sampled_from((None, "{folder}/labels_{camera}")))
    return Collection(
        **common,
        folder=draw(st.sampled_from(("{take}", "takes/{take}"))),
        folders=dict.fromkeys(takes[1:2], "shared"),
        frame_keys=("frame", "other"),
        cameras=tuple(Camera(c, kind, "frame", f"{{folder}}/{c}/{{frame}}.jpg", masks) for c, kind in kinds.items()),
        index=("{folder}/index_{take}.json", "{folder}/index.json"),
        annotation=("{folder}/graphs/{frame_id}.json",),
        labels=draw(st.sampled_from(("mmor", "4dor", "triplets"))),
        files={name: f"{name}/{{take}}/{{time}}_{{other}}{_number(name)}" for name in some(draw, TIMEPOINT_FILES)},
        take_files={name: f"{name}/{{take}}" for name in some(draw, (*TAKE_FILES, *task_names))},
    )


def _number(name: str) -> str:
    return "_{number}" if name.startswith("masks") else ""


@st.composite
def domains(draw: Any) -> Domain:
    language, asked = draw(languages()), draw(tasks())
    called = tuple(task.name for task in asked)
    datasets = tuple(draw(collections(name, called)) for name in ("A", "B")[: draw(st.integers(1, 2))])
    return Domain(draw(NAMES), language, draw(labels(language)), datasets, asked)
