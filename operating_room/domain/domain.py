"""A domain: everything that the software must know about an operating room, in one object that is handed in.

What is said (`Language`), what is seen (`Labels`), what is asked (`Task`), and how each dataset lies on disk
(`Collection`). It is read from one YAML file; MM-OR with 4D-OR is `mmor()`, the only default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from operating_room.domain.collection import Collection, Take
from operating_room.domain.labels import Labels
from operating_room.domain.language import Language
from operating_room.errors import UserError

OWN = "own"  # where a split is asked for: the takes that are in no published list

_TOLD = 6  # names in one sentence of `differences`


@dataclass(frozen=True)
class Task:
    """A downstream task (data specification, section 10).

    `kind` says how labels and answers look: `class_with_time` is a class and the seconds until then, `class` a class,
    `sterility` a list of relations that are breaches, of which the two classes say whether there is one.
    """

    name: str
    kind: Literal["class_with_time", "class", "sterility"]
    classes: tuple[str, ...]  # in the order of the report, lower case
    words: str  # in the question: "predict the ..."
    spellings: tuple[str, ...] = ()  # of the classes in label files, where it is another
    synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)  # in answers, lower case -> class


@dataclass(frozen=True)
class Domain:
    """An operating room, or several that share a language. Equal if every field is; see `digest` for models."""

    name: str
    language: Language
    labels: Labels
    collections: tuple[Collection, ...]  # in the order of sample files
    tasks: tuple[Task, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Domain:
        """Read a domain from its YAML file.

        Raises:
            UserError: the file is missing, or something in it is wrong; one line with the file and the line in it.
        """
        from operating_room.domain.reading.domains import read_domain  # which needs this module

        return read_domain(path)

    def to_yaml(self) -> str:
        """The text of a file that reads back equal."""
        from operating_room.domain.writing import domain_text

        return domain_text(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what a model learns from: language, labels and tasks, whatever the order of keys in the file.

        Takes, paths and splits are left out: more recordings do not make another room.
        """
        language = asdict(self.language)
        if not self.language.several_predicates:
            del language["several_predicates"]  # which domains had before there was the key
        parts = {
            "language": language,
            "labels": asdict(self.labels),
            "tasks": list(map(asdict, self.tasks)),
        }
        return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def differences(self, other: Domain) -> list[str]:
        """What differs between the two in what a model learns from, one short sentence each; none if the digests agree.

        `here` is this domain, `there` the other one.
        """
        return [
            *_differences(_fields(self.language), _fields(other.language)),
            *_differences(_fields(self.labels), _fields(other.labels)),
            *_differences({"tasks": self.tasks}, {"tasks": other.tasks}),
        ]

    def require_categories(self) -> None:
        """Of whoever segments.

        Raises:
            UserError: there is nothing to segment into.
        """
        if not self.labels.categories:
            raise UserError(
                f"domain {self.name} has no categories (labels: categories), so there is nothing to segment; add those "
                "of its masks to its file"
            )

    # Takes.

    def collection(self, of: Take | str) -> Collection:
        """The dataset of a take, or of that name.

        Raises:
            KeyError: this domain has no such dataset.
        """
        name = of.dataset if isinstance(of, Take) else of
        found = next((collection for collection in self.collections if collection.name == name), None)
        if found is None:
            raise KeyError(f"domain {self.name} has no dataset {name}")
        return found

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the datasets, in the order of sample files."""
        return tuple(collection.name for collection in self.collections)

    @cached_property
    def takes(self) -> tuple[Take, ...]:
        """All published takes, dataset by dataset."""
        return tuple(take for collection in self.collections for take in collection.published)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(dict.fromkeys(split for collection in self.collections for split in collection.splits))

    @property
    def max_views(self) -> int:
        """The most pictures that evaluation shows of a timepoint."""
        return max(collection.max_views for collection in self.collections)

    def split_takes(self, split: str, datasets: Iterable[str] | None = None) -> list[Take]:
        """The takes of a split in published order, dataset by dataset.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.splits:
            raise UserError(f"split {split!r} does not exist; choose one of {', '.join([*self.splits, OWN])}")
        chosen = self.datasets if datasets is None else tuple(datasets)
        return [c.take(name) for c in self.collections if c.name in chosen for name in c.splits.get(split, ())]

    def splits_of(self, take: Take) -> list[str]:
        """The splits that contain `take`."""
        return [split for split in self.splits if take in self.split_takes(split)]

    def find_take(self, name: str) -> Take:
        """The take of a name with or without dataset suffix, also of its folder as a shell completes it (`001_PKA/`,
        `export_holistic_take1_processed/`).

        A name outside the published lists is an own take, of the dataset whose ending or suffix it has, else of the
        one without either; where there is none, of the first whose names have no ending.

        Raises:
            UserError: the name cannot be a take name.
        """
        name = name.rstrip("/")
        name = next((inner for c in self.collections if (inner := c.name_of_folder(name)) is not None), name)
        for collection in self.collections:
            own = collection.own
            if own.ending and name.endswith(own.ending):
                if not collection.can_be_take(name):
                    raise UserError(f"take name {name!r}: {own.rule}")
                return collection.take(name)
        free = [collection for collection in self.collections if not collection.own.ending]
        candidates = [collection for collection in free if collection.suffix and name.endswith(collection.suffix)]
        # A published name may come without its suffix; any other is whole, so of the dataset without one.
        candidates = candidates or sorted(free, key=lambda c: (name not in c.takes, c.suffix != ""))
        for collection in candidates:
            short = name.removesuffix(collection.suffix)
            if self.is_own_name(collection, short):
                return collection.take(short)
        rules = "; ".join(dict.fromkeys(collection.own.rule for collection in candidates or self.collections))
        raise UserError(f"take name {name!r} cannot be one: {rules}")

    def is_own_name(self, collection: Collection, name: str) -> bool:
        """Whether a take of one's own may have this name in a dataset: no other dataset claims it by its ending."""
        claimed = self._endings - {collection.own.ending}
        return collection.can_be_take(name) and not name.endswith(tuple(claimed))

    @cached_property
    def _endings(self) -> frozenset[str]:
        """The suffixes and endings that tell datasets apart."""
        return frozenset({ending for c in self.collections for ending in (c.suffix, c.own.ending)} - {""})

    def own_take(self, collection: Collection, folder: str) -> Take | None:
        """The take that a folder, told below that of the dataset, holds if it may be one's own."""
        name = folder if collection.folder == "{take}" else collection.name_of_folder(folder)
        if name is None:
            return None
        if collection.numbered:
            is_take = collection.take(name).folder == folder and int(name.removesuffix(collection.own.ending))
            return collection.take(name) if is_take else None  # numbers count from 1 and have no leading zeros
        if folder in collection.folders_beside or not self.is_own_name(collection, name):
            return None
        return collection.take(name)

    # Tasks.

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UserError: there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks) or "none"
        raise UserError(f"downstream task {name!r} does not exist; choose one of {known}")

    def tasks_of(self, take: Take) -> tuple[Task, ...]:
        """The tasks that a take has labels for and is evaluated on."""
        collection = self.collection(take)
        return tuple(
            task
            for task in self.tasks
            if task.name in collection.take_files and take.name not in collection.without.get(task.name, ())
        )


@cache
def bundled(name: str) -> Domain:
    """A domain that comes with this software: `mmor` or `egoexor`.

    Raises:
        UserError: there is none of that name.
    """
    folder = Path(__file__).parent
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        what = f"the file of a domain in {name}" if Path(name).is_dir() else "a file"
        raise UserError(f"no domain is called {name!r}; there are {', '.join(known)}, or give {what}")
    return Domain.read(folder / f"{name}.yaml")


def find_domain(given: Path) -> Domain:
    """The domain of a file, or the bundled one of that name, as users give it.

    Raises:
        UserError: there is neither, or something in the file is wrong.
    """
    # A folder is no domain: the root of a checkout of this software has one that is called mmor.
    return Domain.read(given) if given.suffix or given.is_file() else bundled(str(given))


def mmor() -> Domain:
    """MM-OR with 4D-OR, as published."""
    return bundled("mmor")


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    return [_difference(name.replace("_", " "), here[name], there[name]) for name in here if here[name] != there[name]]


def _difference(name: str, here: Any, there: Any) -> str:
    """What differs in one field, in a sentence."""
    if isinstance(here, int):
        return f"{name}: here {here}, there {there}"
    if isinstance(here, str):
        return f"{name}: another text"
    mine, others = _by_name(here), _by_name(there)
    sides = {
        "only here": [item for item in mine if item not in others],
        "only there": [item for item in others if item not in mine],
        "not the same": [item for item in mine if item in others and mine[item] != others[item]],
    }
    told = [f"{side}: {_listed(items)}" for side, items in sides.items() if items]
    return f"{name}: {'; '.join(told) or 'the same in another order'}"


def _by_name(values: Any) -> Mapping[Any, Any]:
    """What a field holds by the names that people know."""
    if isinstance(values, Mapping):
        return values
    if values and isinstance(values[0], tuple):  # levels
        return {name: rank for rank, level in enumerate(values) for name in level}
    return {value if isinstance(value, str) else value.name: value for value in values}


def _listed(items: Sequence[Any]) -> str:
    more = f" and {len(items) - _TOLD} more" if len(items) > _TOLD else ""
    return ", ".join(map(str, items[:_TOLD])) + more


def _fields(part: Language | Labels) -> dict[str, Any]:
    """The fields of a part by name, without what it has computed."""
    return {field.name: getattr(part, field.name) for field in fields(part)}
