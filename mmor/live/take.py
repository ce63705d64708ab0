"""The take that a folder is of."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from operating_room.domain.domain import Domain, mmor
from operating_room.domain.stored import DOMAIN_FILE, stored_domain
from operating_room.errors import UserError
from operating_room.recordings.take import RecordedTake


def take_of_folder(folder: Path, domain: Domain | None = None) -> RecordedTake:
    """The take that is being recorded into a folder: `MM-OR_data/TAKE`, or `ROOT/takes/TAKE` in the house layout.

    Args:
        folder: of the take.
        domain: of what is recorded; None is what domain.yaml above the folder says, else MM-OR.

    Raises:
        UserError: no dataset of the domain has its takes in such a folder, or none of that name.
    """
    folder = Path(os.path.abspath(folder))  # also of `../TAKE`
    above = [place for place in folder.parents if (place / DOMAIN_FILE).is_file()][:1]
    chosen = domain or (stored_domain(above[0]) if above else mmor())
    for collection in chosen.collections:
        depth = len(PurePath(collection.folder).parts)
        if len(folder.parents) < depth:
            continue
        root = folder.parents[depth - 1]
        if root.name != collection.root and collection.layout != "house":
            continue
        place = folder.relative_to(root).as_posix()
        published = [take for take in collection.published if take.folder == place]
        take = published[0] if len(published) == 1 else chosen.own_take(collection, place)
        if take is not None:
            return RecordedTake(root, take, chosen)
        pattern = PurePath(collection.folder)
        is_there = pattern.name == "{take}" and PurePath(place).parent == pattern.parent
        if is_there and not collection.own.allows(folder.name):
            raise UserError(f"{folder}: is not read because of its name: {collection.own.rule}; rename it")
    # The house layout is known by its folder `takes`: the one above may have any name.
    places = " or ".join(
        collection.folder if collection.layout == "house" else f"{collection.root}/{collection.folder}"
        for collection in chosen.collections
    )
    raise UserError(f"{folder}: is no folder of a take; takes of domain {chosen.name} lie in {places}")
