"""The words of EgoExOR's files in the language of its domain, and the domain of recordings that have more words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from operating_room.domain.collection import Collection
from operating_room.domain.domain import Domain, bundled
from operating_room.domain.house import house_fields
from operating_room.domain.language import Language
from operating_room.domain.stored import DOMAIN_FILE, require_visible, store_domain
from operating_room.errors import UserError
from operating_room.importers.egoexor.source import Tables
from operating_room.importers.egoexor.tables import BLANK, NOBODY


@cache
def language() -> Language:
    """Of the bundled domain, which knows the spellings of the files."""
    return bundled("egoexor").language


def domain_there(out: Path) -> Domain:
    """The domain beside takes that were imported before, or the bundled one.

    Raises:
        UserError: the domain that is there cannot be read, or is of another room; or takes of MM-OR are there.
    """
    path, published = out / DOMAIN_FILE, bundled("egoexor")
    domain = Domain.read(path) if path.exists() else published
    if domain.name != published.name:
        raise UserError(f"{path}: is the domain {domain.name}, not {published.name}; import into another folder")
    require_visible(out, domain.datasets)
    return domain


def write_domain(out: Path, before: Domain, tables: Sequence[Tables], cameras: Iterable[str]) -> list[str]:
    """Write the domain beside the takes: that from `domain_there`, and whatever the files know besides.

    Returns:
        What it has that the one before has not, a line for each kind.

    Raises:
        UserError: it cannot be written.
    """
    path = out / DOMAIN_FILE
    entities = {language().entity_name(word) for table in tables for word in table.entities.values()}
    predicates = {language().predicate_name(word) for table in tables for word in table.predicates.values()}
    collection = before.collections[0]
    more = {
        "entities": sorted(entities - set(before.language.entities)),
        "predicates": sorted(predicates - set(before.language.predicates)),
        "cameras": _more_cameras(collection, cameras),
    }
    if not path.exists() or any(more.values()):
        store_domain(out, extended(before, **more))
    return [f"{path}: {kind} that are not published: {', '.join(names)}" for kind, names in more.items() if names]


def places(domain: Domain, table: Tables, cameras: Iterable[str]) -> dict[int, int]:
    """Number of a source in a file -> place of its camera in the domain, once `write_domain` has added these cameras.

    Gaze and hands of the house layout are told by that place; -1 is for what is no camera of the domain.
    """
    collection = domain.collections[0]
    known = [*collection.camera, *_more_cameras(collection, cameras)]
    found = {number: known.index(name) + 1 if name in known else NOBODY for name, number in table.sources.items()}
    return found | {table.sources[BLANK]: NOBODY}


def _more_cameras(collection: Collection, cameras: Iterable[str]) -> list[str]:
    return sorted(set(cameras) - {BLANK, *collection.camera})


def extended(domain: Domain, entities: Sequence[str], predicates: Sequence[str], cameras: Sequence[str]) -> Domain:
    """A domain with more words, which the prompt lists, and more cameras of the room, in the last slots."""
    said, collection = domain.language, domain.collections[0]
    levels = list(said.levels)
    middle = len(levels) // 2  # how much a new predicate tells is for people to say
    levels[middle] += tuple(predicates)
    rows = [(camera.name, camera.modality) for camera in collection.cameras] + [
        (name, "room_views") for name in cameras
    ]
    slots = replace(
        collection.slots,
        training=(*collection.slots.training, *cameras),
        also=(*collection.slots.also, *cameras),
    )
    more = replace(collection, cameras=house_fields(rows, collection.files)["cameras"], slots=slots)
    return replace(
        domain,
        language=replace(
            said,
            entities=(*said.entities, *entities),
            predicates=(*said.predicates, *predicates),
            levels=tuple(levels),
            prompted_entities=(*said.prompted_entities, *(name.replace("_", " ") for name in entities)),
            prompted_predicates=(*said.prompted_predicates, *predicates),
        ),
        collections=(more, *domain.collections[1:]),
    )
