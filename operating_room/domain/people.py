"""Who is who: the people of each take by role, who stands on both sides of a split, and splits in which nobody does.

The authors of MM-OR published the persons of each take as letters (`mmor_human_names_per_take_anonymized.json`, August
2025): take, or folder that several takes share, -> role -> letter.
"""

from __future__ import annotations

import re
from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from operating_room.domain.collection import SEPARATED_SPLITS, Collection, Take
from operating_room.domain.domain import Domain
from operating_room.domain.reading.nodes import near
from operating_room.errors import UserError
from operating_room.files.readers import read_json

People = Mapping[Take, Mapping[str, str]]  # take -> role as the domain calls it -> person

_TRIED = 10  # groups of takes, largest first, of which every distribution to the splits is tried


def read_people(path: Path, domain: Domain) -> People:
    """The people of each take that the file names.

    Raises:
        UserError: the file is missing, damaged or of another form, or names a take or role that the domain does not
            have, or a person that is no letter.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map takes to their people, take -> role -> letter; copy the file again")
    language, found = domain.language, {}
    for name, roles in content.items():
        takes = [take for take in domain.takes if name in (take.name, take.sample_name, take.folder)]
        if not takes:
            close = near(name, [known for take in domain.takes for known in (take.name, take.folder)])
            raise UserError(f"{path}: {name!r} is no take of {domain.name} and no folder of takes{close}")
        if not isinstance(roles, dict):
            raise UserError(f"{path}: {name} must map roles to letters, not be {str(roles)[:40]!r}")
        people = {}
        for role, person in roles.items():
            known = language.raw_names.get(role, role)
            if known not in language.people:
                raise UserError(f"{path}: {name} has the role {role!r}, which is none{near(role, language.people)}")
            if not isinstance(person, str) or re.fullmatch("[A-Z]", person) is None:
                raise UserError(f"{path}: {name} has {str(person)[:20]!r} as {role}; persons are letters from A to Z")
            if people.setdefault(known, person) != person:
                raise UserError(f"{path}: {name} has {people[known]} and {person} as {known}; leave one of them out")
        for take in takes:
            if found.setdefault(take, people) != people:
                raise UserError(f"{path}: {name} has other people than take {take.name} above; leave one of them out")
    return found


@dataclass(frozen=True)
class Person:
    """A person, and the takes of each split in which they are."""

    name: str
    roles: tuple[str, ...]
    takes: Mapping[str, tuple[str, ...]]  # split -> takes

    @property
    def is_on_both_sides(self) -> bool:
        """Whether the person is in more than one of train, val and test."""
        return len(self.takes) > 1


def people_of_splits(people: People, domain: Domain) -> list[Person]:
    """Everybody, with their takes in train, val and test."""
    persons = []
    for name in sorted({person for roles in people.values() for person in roles.values()}):
        within = {
            split: tuple(take.name for take in domain.split_takes(split) if name in people.get(take, {}).values())
            for split in SEPARATED_SPLITS
            if split in domain.splits
        }
        roles = {role for of_take in people.values() for role, person in of_take.items() if person == name}
        persons.append(Person(name, tuple(sorted(roles)), {split: takes for split, takes in within.items() if takes}))
    return persons


def people_table(persons: Sequence[Person]) -> list[str]:
    """One line for each person: roles, and the number of takes on each side."""
    rows = [["person", *SEPARATED_SPLITS, "roles", ""]]
    for person in persons:
        counts = [str(len(person.takes[split])) if split in person.takes else "-" for split in SEPARATED_SPLITS]
        rows.append([person.name, *counts, ", ".join(person.roles), "on both sides" * person.is_on_both_sides])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


@dataclass(frozen=True)
class Disjoint:
    """Splits in which nobody is on two sides."""

    domain: Domain  # with these splits
    kept: Mapping[str, tuple[str, ...]]  # split -> takes that stay in it
    left_out: Mapping[str, str]  # take -> why
    untold: tuple[str, ...]  # datasets of which the file names nobody: their splits are as they were


def disjoint_splits(people: People, domain: Domain, roles: Names[str] = ()) -> Disjoint:
    """Splits of the datasets that `people` names in which nobody is on two sides; takes only ever leave a split.

    Takes that share a person, directly or by way of others, are a group, which has to be on one side. Of all ways to
    give each group a side, that one is taken which leaves the fewest of train, test and val empty (in this order), and
    of these the one in which most takes stay where they are. Takes with nobody who counts stay; takes that the file
    does not name are left out, since nobody knows who is in them.

    Args:
        people: from `read_people`.
        domain: whose takes these are.
        roles: only the people in these roles count; none are all.

    Raises:
        UserError: there is no such role, or fewer than two splits can have takes.
    """
    for role in roles:
        if role not in domain.language.people:
            raise UserError(f"role {role!r} is none of {domain.name}{near(role, domain.language.people)}")
    collections, kept, left_out, untold = [], {}, {}, []
    for collection in domain.collections:
        splits = [split for split in ("train", "test", "val") if split in collection.splits]
        counted = {
            name: {who for role, who in people[take].items() if not roles or role in roles}
            for split in splits
            for name in collection.splits[split]
            if (take := collection.take(name)) in people
        }
        if not counted:
            untold.append(collection.title)
            collections.append(collection)
            continue
        groups = _groups(counted)
        best = _best(groups, {split: set(collection.splits[split]) for split in splits})
        side = {name: split for group, split in zip(groups, best) for name in group}
        of_split = {
            split: tuple(n for n in collection.splits[split] if n in counted and side.get(n, split) == split)
            for split in splits
        }
        if sum(map(bool, of_split.values())) < 2:
            raise UserError(
                f"{collection.name}: all takes are linked by people whom they share, so only one split could have "
                "takes; count the people of some roles only (--role)"
            )
        kept |= of_split
        for split in splits:
            for name in collection.splits[split]:
                if name not in counted:
                    left_out[name] = "nobody knows who is in it"
                elif name not in of_split[split]:
                    left_out[name] = f"shares people with takes of {side[name]}"
        collections.append(replace(collection, splits=_parts(collection, of_split)))
    return Disjoint(replace(domain, collections=tuple(collections)), kept, left_out, tuple(untold))


def _groups(counted: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The takes that are linked by people, the largest group first; takes without anybody are in none."""
    groups: list[tuple[set[str], set[str]]] = []  # takes, people
    for name, persons in counted.items():
        if not persons:
            continue
        linked = [group for group in groups if group[1] & persons]
        groups = [group for group in groups if group not in linked]
        takes = {name}.union(*(group[0] for group in linked))
        groups.append((takes, persons.union(*(group[1] for group in linked))))
    return sorted((tuple(sorted(takes)) for takes, _ in groups), key=lambda group: (-len(group), group))


def _best(groups: Sequence[tuple[str, ...]], splits: Mapping[str, set[str]]) -> list[str]:
    """The split of each group (see `disjoint_splits`)."""

    def stay(group: tuple[str, ...], split: str) -> int:
        return len(splits[split].intersection(group))

    tried = groups[:_TRIED]
    rest = [max(splits, key=lambda split, group=group: stay(group, split)) for group in groups[_TRIED:]]

    def worth(choice: tuple[str, ...]) -> tuple[object, ...]:
        filled = [any(stay(g, c) for g, c in zip(groups, (*choice, *rest)) if c == split) for split in splits]
        return sum(filled), *filled, sum(stay(g, c) for g, c in zip(tried, choice))

    return [*max(product(splits, repeat=len(tried)), key=worth), *rest]


def _parts(collection: Collection, new: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """All splits of a dataset with some of them replaced; others that are parts of these lose the same takes."""
    gone = {name for split in new for name in collection.splits[split]} - {n for names in new.values() for n in names}
    return {
        split: new.get(split, tuple(name for name in names if name not in gone))
        for split, names in collection.splits.items()
    }
