"""A domain from its YAML file: language, labels, tasks; the datasets are in `collections`.

Every mistake is one line with the file and the line in it. What the software could only take in silence - a synonym to
nowhere, a predicate that is in no level - is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection as Names
from pathlib import Path
from typing import Literal, cast

from operating_room.domain.collection import TAKE_FILES, TIMEPOINT_FILES, Take
from operating_room.domain.domain import Domain, Task
from operating_room.domain.labels import Category, Labels
from operating_room.domain.language import INSTRUCTION, NONE, Language
from operating_room.domain.reading.collections import read_collections
from operating_room.domain.reading.nodes import Value, near, read_yaml, require_known
from operating_room.errors import UserError

_KINDS = ("class_with_time", "class", "sterility")
_MOST_LABELS = 256  # a raw label is a byte
_YES_OR_NO = ("no", "yes")  # whether there is a breach


def read_domain(path: Path) -> Domain:
    """Read a domain from its YAML file.

    Raises:
        UserError: the file is missing, or something in it is wrong; one line with the file and the line in it.
    """
    fields = read_yaml(path).fields(("name", "language", "collections"), ("labels", "tasks"))
    language = _language(fields["language"])
    tasks = _tasks(fields["tasks"]) if "tasks" in fields else ()
    domain = Domain(
        name=_name(fields["name"], "domain"),
        language=language,
        labels=_labels(fields["labels"], language) if "labels" in fields else Labels(),
        collections=read_collections(fields["collections"], tuple(task.name for task in tasks)),
        tasks=tasks,
    )
    for collection, item in zip(domain.collections, fields["collections"].items()):
        for take in collection.published:
            if not _is_found(domain, take):
                raise item.error(
                    f"take {take.name!r} cannot be told by its name in samples, {take.sample_name!r}, which has the "
                    "suffix or ending of another dataset, or the form of another's folders; call it differently"
                )
    return domain


def _is_found(domain: Domain, take: Take) -> bool:
    try:
        return domain.find_take(take.sample_name) == take
    except UserError:
        return False


def _language(value: Value) -> Language:
    optional = (
        *("people", "levels", "role_synonyms", "word_synonyms", "raw_names", "prompted_entities"),
        *("prompted_predicates", "instruction", "several_predicates", "forgotten", "tools"),
    )
    fields = value.fields(("entities", "predicates"), optional)
    entities, predicates = _entities(fields["entities"]), _predicates(fields["predicates"])
    for name, item in predicates.items():
        if name.lower() in entities:
            raise item.error(f"{name!r} is an entity, too (line {entities[name.lower()].line}); call one differently")
    lower = {name.lower() for name in predicates}
    names = {*entities, *predicates}
    roles = _renamed(fields["role_synonyms"], entities) if "role_synonyms" in fields else {}
    words = _renamed(fields["word_synonyms"], {*entities, *lower}) if "word_synonyms" in fields else {}
    for word in words:
        if word != word.lower():
            key, _ = fields["word_synonyms"].named()[word]
            raise key.error(f"{word!r} is never met, since words are compared in lower case; write {word.lower()!r}")
    plain = Language(tuple(entities), tuple(predicates), role_synonyms=roles, word_synonyms=words)
    return Language(
        entities=plain.entities,
        predicates=plain.predicates,
        people=_some(fields, "people", entities, "entity"),
        levels=_levels(fields["levels"], predicates) if "levels" in fields else (tuple(predicates),),
        role_synonyms=roles,
        word_synonyms=words,
        raw_names=_renamed(fields["raw_names"], names) if "raw_names" in fields else {},
        prompted_entities=_prompted_entities(fields, plain),
        prompted_predicates=_prompted_predicates(fields, plain, lower),
        instruction=fields["instruction"].text() if "instruction" in fields else INSTRUCTION,
        several_predicates="several_predicates" in fields and fields["several_predicates"].yes_or_no(),
        forgotten=_some(fields, "forgotten", predicates, "predicate"),
        tools={id_: tool.text() for id_, (_, tool) in fields["tools"].named().items()} if "tools" in fields else {},
    )


def _entities(value: Value) -> dict[str, Value]:
    entities = value.texts()
    for name, item in entities.items():
        if re.fullmatch(r"\w+", name) is None or name != name.lower() or name == NONE:
            raise item.error(f"{name!r} can be no entity: lower-case letters, digits and '_' only, and not {NONE!r}")
    if not entities:
        raise value.error("names no entity; a graph needs some")
    return entities


def _predicates(value: Value) -> dict[str, Value]:
    predicates, lower = value.texts(), {}
    for name, item in predicates.items():
        if re.fullmatch(r"\w+", name) is None or name.lower() == NONE:
            raise item.error(f"{name!r} can be no predicate: letters, digits and '_' only, and not {NONE!r}")
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise item.error(f"{name!r} and {other!r} are one predicate, since answers are read in lower case")
    if not predicates:
        raise value.error("names no predicate; a graph needs some")
    return predicates


def _some(fields: dict[str, Value], key: str, known: Names[str], kind: str) -> tuple[str, ...]:
    """The names under an optional key, each of which must be known."""
    return tuple(require_known(item, known, kind) for item in fields[key].texts().values()) if key in fields else ()


def _renamed(value: Value, known: Names[str]) -> dict[str, str]:
    """Spelling -> name, which must be known."""
    found = {}
    for spelling, (key, name) in value.named().items():
        if spelling in known:
            raise key.error(f"{spelling!r} is itself a name and can stand for no other")
        if name.text() not in known:
            raise name.error(f"{spelling!r} leads nowhere: {name.text()!r} is no name here{near(name.text(), known)}")
        found[spelling] = name.text()
    return found


def _levels(value: Value, predicates: dict[str, Value]) -> tuple[tuple[str, ...], ...]:
    seen: dict[str, Value] = {}
    levels = [level.texts() for level in value.items()]
    for name, item in ((name, item) for level in levels for name, item in level.items()):
        require_known(item, predicates, "predicate")
        if name in seen:
            raise item.error(f"predicate {name!r} is in two levels, first in line {seen[name].line}")
        seen[name] = item
    if lost := [name for name in predicates if name not in seen]:
        raise value.error(f"predicate {lost[0]!r} is in no level; put it in the one that says how much it tells")
    return tuple(map(tuple, levels))


def _prompted_entities(fields: dict[str, Value], language: Language) -> tuple[str, ...]:
    if "prompted_entities" not in fields:
        return tuple(name.replace("_", " ") for name in language.entities)
    prompted = fields["prompted_entities"].texts()
    for name, item in prompted.items():
        if language.entity_name(name) not in language.entities:
            raise item.error(f"{name!r} is prompted, but read as no entity{near(name, language.entities)}")
    return tuple(prompted)


def _prompted_predicates(fields: dict[str, Value], language: Language, lower: set[str]) -> tuple[str, ...]:
    if "prompted_predicates" not in fields:
        return language.predicates
    prompted = fields["prompted_predicates"].texts()
    for name, item in prompted.items():
        if language.predicate_name(name) not in lower:
            raise item.error(f"{name!r} is prompted, but read as no predicate{near(name, language.predicates)}")
    return tuple(prompted)


def _labels(value: Value, language: Language) -> Labels:
    fields = value.fields(("categories",), ("mistakes", "count", "masks"))
    rows = fields["categories"].items()
    if rows and "count" not in fields:
        raise value.error("the key 'count' is missing: labels of masks are below it")
    count = fields["count"].whole(0, _MOST_LABELS) if "count" in fields else 0
    categories = tuple(_category(row, rank, count, language) for rank, row in enumerate(rows))
    for kind in ("name", "color", "label", "entity"):
        seen: dict[object, tuple[str, int]] = {}
        for category, row in zip(categories, rows):
            thing = getattr(category, kind)
            if thing in seen:
                name, line = seen[thing]
                raise row.error(f"{category.name!r} has the {kind} {thing} of {name!r} in line {line}")
            seen[thing] = category.name, row.line
    if categories and categories[0].label:
        raise rows[0].error("the first category is the background, which unknown pixels count as: its label is 0")
    if categories and any(categories[0].color):
        raise rows[0].error("the first category is the background, which means nothing seen: its color is [0, 0, 0]")
    return Labels(
        categories=categories,
        mistakes=_mistakes(fields["mistakes"], categories, count) if "mistakes" in fields else {},
        count=count,
        masks=fields["masks"].whole(0, 99) if "masks" in fields else 0,
    )


def _category(value: Value, rank: int, count: int, language: Language) -> Category:
    fields = value.fields(("name", "color", "label"))
    color = [part.whole(0, 255) for part in fields["color"].items()]
    if len(color) != 3:
        raise fields["color"].error(f"a colour is three numbers from 0 to 255 (red, green, blue), not {len(color)}")
    label = fields["label"].whole(0, _MOST_LABELS - 1)
    if label >= count:
        raise fields["label"].error(f"label {label} is not below count, which is {count}")
    name = _name(fields["name"], "category")
    return Category(name, (color[0], color[1], color[2]), label, rank, language.raw_names.get(name, name))


def _mistakes(value: Value, categories: tuple[Category, ...], count: int) -> dict[int, str]:
    names = {category.label: category.name for category in categories}
    found: dict[int, str] = {}
    for key, what in value.entries():
        label = key.whole(0, max(count - 1, 0))
        if label in names:
            raise key.error(f"label {label} is no mistake but {names[label]!r}")
        if label in found:
            raise key.error(f"label {label} stands twice")
        found[label] = what.text()
    return found


def _tasks(value: Value) -> tuple[Task, ...]:
    tasks = [_task(item) for item in value.items()]
    for place, (task, item) in enumerate(zip(tasks, value.items())):
        if task.name in (other.name for other in tasks[:place]):
            raise item.error(f"there are two tasks {task.name!r}; call one differently")
    return tuple(tasks)


def _task(value: Value) -> Task:
    fields = value.fields(("name", "kind"), ("classes", "words", "spellings", "synonyms"))
    name = _name(fields["name"], "task")
    if name in (*TAKE_FILES, *TIMEPOINT_FILES):
        raise fields["name"].error(f"{name!r} is the name of another file of a take; call the task differently")
    kind = cast(Literal["class_with_time", "class", "sterility"], require_known(fields["kind"], _KINDS, "kind of task"))
    spellings = tuple(fields["spellings"].texts()) if "spellings" in fields else ()
    lower = tuple(spelling.lower() for spelling in spellings)
    if "classes" in fields:
        classes = tuple(fields["classes"].texts())
        for item in fields["classes"].items():
            if item.text() != item.text().lower().strip():
                raise item.error(f"class {item.text()!r} is never met, since answers are read in lower case")
    else:
        classes = lower or (_YES_OR_NO if kind == "sterility" else ())
    if spellings and lower != classes:
        raise fields["spellings"].error("spellings must be the classes in their order, but for upper case")
    if len(set(classes)) < max(len(classes), 2) or (kind == "sterility" and len(classes) != 2):
        raise value.error(f"task {name!r} needs {'two' if kind == 'sterility' else 'two or more different'} classes")
    if kind == "class_with_time" and NONE not in classes:
        raise value.error(f"task {name!r} needs the class {NONE!r}: nothing comes any more")
    words = fields["words"].text() if "words" in fields else name.replace("_", " ")
    synonyms = _renamed(fields["synonyms"], classes) if "synonyms" in fields else {}
    return Task(name, kind, classes, words, spellings, synonyms)


def _name(value: Value, kind: str) -> str:
    if re.fullmatch(r"\w+", value.text()) is None:
        raise value.error(f"{value.text()!r} can be no name of a {kind}: letters, digits and '_' only")
    return value.text()
