"""The results files that `evaluate` writes, as a report reads them: of scene graphs, masks and downstream tasks."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from operating_room.domain.domain import Domain, bundled
from operating_room.errors import UserError
from operating_room.files.readers import read_json, require
from operating_room.graphs.graph_files import refuse_live
from operating_room.graphs.scene_graph import Sample, Triplet, are_relations, as_triplets, by_take

Kind = Literal["scene_graph", "masks", "downstream"]
KINDS: dict[Kind, str] = {"scene_graph": "Scene graphs", "masks": "Masks", "downstream": "Downstream tasks"}
_EVALUATE: dict[Kind, str] = {
    "scene_graph": "`mmor scene-graph evaluate`",
    "masks": "`mmor panoptic evaluate`",
    "downstream": "`mmor downstream evaluate`",
}
_LARGEST = 1e15  # no count, share or number of seconds is larger


@dataclass(frozen=True)
class Results:
    """One results file."""

    path: Path
    kind: Kind
    label: str  # its name in the page: the shortest end of its path that no other file has
    content: Mapping[str, Any]

    def get(self, *keys: str) -> Any:
        """What stands under these keys.

        Raises:
            UserError: there is nothing.
        """
        value: Any = self.content
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise self.lacks(keys)
            value = value[key]
        return value

    def number(self, *keys: str) -> float:
        """The number under these keys.

        Raises:
            UserError: there is none, or one beyond whatever can be counted, which no axis holds.
        """
        value = self.get(*keys)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
            raise self.lacks(keys)
        return float(value)

    def table(self, *keys: str) -> dict[str, dict[str, Any]]:
        """Those entries under these keys that are tables themselves, as the scores of each name.

        Raises:
            UserError: there is none.
        """
        value = self.get(*keys)
        if not isinstance(value, dict):
            raise self.lacks(keys)
        return {name: entry for name, entry in value.items() if isinstance(entry, dict)}

    def lines(self, key: str) -> list[str]:
        """The lines of text under a key; none where it is not there.

        Raises:
            UserError: there is something else.
        """
        found = self.content.get(key, [])
        if not isinstance(found, list):
            raise self.lacks((key,))
        return list(map(str, found))

    def interval(self, *keys: str) -> tuple[float, float] | None:
        """The interval under these keys; None if there is none, as where nothing has support."""
        value: Any = self.content
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        match value:
            case [int() | float() as low, int() | float() as high]:
                return float(low), float(high)
        return None

    @cached_property
    def samples(self) -> list[Sample]:
        """The truth of each timepoint; empty where the file has none.

        Raises:
            UserError: one is damaged.
        """
        return [Sample.of_id(key, as_triplets(record["truth"])) for key, record in self._graphs.items()]

    @cached_property
    def predictions(self) -> dict[str, tuple[Triplet, ...]]:
        """Sample id -> predicted triplets.

        Raises:
            UserError: one is damaged.
        """
        return {key: as_triplets(record["predicted"]) for key, record in self._graphs.items()}

    @cached_property
    def times(self) -> dict[str, float]:
        """Sample id -> s since its take began, of those of which it is known."""
        found = {key: record.get("at_s") for key, record in self._graphs.items()}
        return {key: float(at) for key, at in found.items() if isinstance(at, int | float) and math.isfinite(at)}

    @cached_property
    def _graphs(self) -> Mapping[str, Any]:
        records = self.content.get("samples") or {}
        if not isinstance(records, dict):
            raise self.lacks(("samples",))
        for key, record in records.items():
            match record:
                case {"truth": truth, "predicted": predicted} if are_relations(truth) and are_relations(predicted):
                    continue
            raise self.lacks(("samples", key))
        return records

    def lacks(self, keys: Sequence[str]) -> UserError:
        """What there is to say of a file without anything usable under these keys."""
        told = ".".join(keys)
        return UserError(
            f"{self.path}: has no usable {told[:100]}; it is damaged or too old, {_EVALUATE[self.kind]} again"
        )


def read_results(paths: Sequence[Path], domain: Domain | None) -> tuple[list[Results], Domain]:
    """Read results files.

    Args:
        paths: the files, in the order of the page.
        domain: whose takes they are about; None is the bundled one that the files name.

    Returns:
        the results, and the domain.

    Raises:
        UserError: one is missing, damaged, no results file, given twice, or of another domain than the others.
    """
    real = [os.path.realpath(path) for path in paths]
    if twice := next((path for path, one in zip(paths, real) if real.count(one) > 1), None):
        raise UserError(f"{twice}: is given twice; give each results file once")
    labels = _labels(paths)
    results = [_read(path, label) for path, label in zip(paths, labels, strict=True)]
    for one in results:
        name = _domain_name(one)
        if domain is None and name is not None:
            try:
                domain = bundled(name)
            except UserError as error:
                raise UserError(f"{one.path}: is about the domain {name}; give its file as --domain") from error
        if domain is not None and name not in (None, domain.name):
            raise UserError(f"{one.path}: is about the domain {name}, not {domain.name}; make a report of its own")
    domain = domain or bundled("mmor")
    for one in results:
        if one.kind == "scene_graph":
            for take_name in by_take(one.samples):
                domain.find_take(take_name)
    return results, domain


def _read(path: Path, label: str) -> Results:
    require(path, "`evaluate`")
    refuse_live(path)
    content = read_json(path)
    match content:
        case {"task": "scene_graph" | "downstream" as kind, "about": dict()}:
            return Results(path, kind, label, content)
        case {"windows": dict(), "vpq": int() | float()}:
            return Results(path, "masks", label, content)
        case {"annotations": list()}:
            raise UserError(f"{path}: holds masks as they were predicted; give the vpq_*.json of {_EVALUATE['masks']}")
        case dict() if content and all(isinstance(value, list) for value in content.values()):
            told = f"{_EVALUATE['scene_graph'][:-1]} --predictions {shlex.quote(str(path))} --out results.json`"
            raise UserError(f"{path}: holds predictions, not results; score them first: {told}")
    raise UserError(f"{path}: is no results file; give what `evaluate` wrote")


def _domain_name(results: Results) -> str | None:
    about = results.content.get("about")
    name = about.get("domain") if isinstance(about, dict) else None
    return name if isinstance(name, str) else None


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    whole = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, whole)) + 1):
        labels = ["/".join(parts[-length:]) for parts in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]
