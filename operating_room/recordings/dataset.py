"""Which takes are on disk, and which of them a user names (data specification, section 1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN, Domain
from operating_room.domain.slips import nearly
from operating_room.domain.stored import DOMAIN_FILE, stored_domain
from operating_room.errors import UserError
from operating_room.recordings.folders import find_roots, refuse_other_name, takes_of_root, with_splits
from operating_room.recordings.take import RecordedTake


def _stored_domain(root: Path) -> Domain:
    """What domain.yaml in a folder says; where that is the folder of one dataset, what is beside it.

    Raises:
        UserError: it is damaged, or there under another name.
    """
    own = Path(os.path.abspath(root))
    if not os.path.lexists(root / DOMAIN_FILE) and os.path.isfile(own.parent / DOMAIN_FILE):
        domain = stored_domain(own.parent)
        if own.name in (collection.root for collection in domain.collections):
            return domain
    # The way to a dataset may be open where what lies beside it is not to be listed.
    if not os.path.lexists(root / DOMAIN_FILE) and os.access(root, os.R_OK):
        refuse_other_name(root / DOMAIN_FILE)
    return stored_domain(root)


class Dataset:
    """The datasets of a domain on disk, or some of them."""

    def __init__(self, root: Path, domain: Domain | None = None, positional_views: bool = False) -> None:
        """Find the datasets.

        Args:
            root: the folder that holds those of the datasets (MM-OR_data, 4D-OR_data), or one of these itself.
            domain: what is recorded there; None is what domain.yaml in the folder that holds the datasets says, and
                without it MM-OR with 4D-OR.
            positional_views: number the views of a timepoint as the published code does: the n-th picture that exists
                is camera n, so that a missing camera shifts those after it (fix 1 of section 11).

        Raises:
            UserError: there is no dataset, or its domain or splits are wrong.
        """
        domain = _stored_domain(root) if domain is None else domain
        self.roots = find_roots(root, domain)
        self.domain = with_splits(domain, self.roots)
        # Datasets whose splits are told by a file beside their takes, and not by the domain.
        self.splits_beside: set[str] = {c.name for c in domain.collections if c.layout == "house" and not c.splits}
        name, first = next(iter(self.roots.items()))
        collection = self.domain.collection(name)
        # The folder that holds them, where files of all of them are written. What is recorded in the house layout is
        # mostly a folder by itself, with any name; what is made of it stays in there.
        alone = collection.layout == "house" and first != root / collection.root
        self.root = first if alone else first.parent
        self._positional_views = positional_views
        self._recorded: dict[Take, RecordedTake] = {}

    def takes(self) -> list[Take]:
        """The takes on disk, in the order of datasets: the published ones, then the user's own.

        Raises:
            UserError: two of them have one name, which videos, masks and exports are called after.
        """
        takes = [take for name, root in self.roots.items() for take in takes_of_root(root, name, self.domain)]
        first: dict[str, Take] = {}
        for take in takes:
            if (other := first.setdefault(take.name, take)) is not take:
                here, there = (self.roots[one.dataset] / one.folder for one in (take, other))
                raise UserError(f"{here}: take {take.name} is in {there}, too; take names are unique in a domain")
        return takes

    def take(self, take: Take) -> RecordedTake:
        """The take of that name; what it holds is looked up when asked for.

        Raises:
            UserError: its dataset is not there.
        """
        if take.dataset not in self.roots:
            wanted = self.domain.collection(take).root
            raise UserError(f"{self.root}: no {wanted}, which holds the take {take.name}; put or link it there")
        if take not in self._recorded:
            self._recorded[take] = self.unkept(take)
        return self._recorded[take]

    def unkept(self, take: Take) -> RecordedTake:
        """As `take`, for who goes through the takes one after the other: what it holds goes with it."""
        return RecordedTake(self.roots[take.dataset], take, self.domain, self._positional_views)

    def named(self, name: str, on_disk: Sequence[Take] | None = None) -> Take:
        """The take on disk of that name, with or without suffix; the name of a split is no take, unless one has it.

        Who asks for many gives what `takes` says as `on_disk`: it looks into the folder of each.

        Raises:
            UserError: it is not on disk, or no take can have this name.
        """
        on_disk = self.takes() if on_disk is None else on_disk
        there = [take.name for take in on_disk]
        try:
            take = self.domain.find_take(name)
        except UserError as error:
            raise UserError(f"{error}{nearly(name, there)}") from error
        if take not in on_disk:
            told = f"no take {take.name}{nearly(take.name, there)}"
            raise UserError(f"{self.root}: {told}; there are {', '.join(there) or 'none'}")
        return take

    def select(self, split: str, on_disk: Sequence[Take] | None = None) -> list[Take]:
        """The takes of a split that are on disk, in published order; of `own`, those in no published list.

        For `on_disk` see `named`.

        Raises:
            UserError: there is no such split.
        """
        on_disk = self.takes() if on_disk is None else on_disk
        if split == OWN:
            return [take for take in on_disk if take not in self.domain.takes]
        return [take for take in self.domain.split_takes(split) if take in on_disk]

    def choose(self, names: Sequence[str] | None) -> list[Take]:
        """The takes that a user names, each once: a take's name, or a split (also `own`) for its takes on disk.

        Args:
            names: None means all takes on disk.

        Raises:
            UserError: a named take is not on disk, or nothing is left.
        """
        on_disk = self.takes()
        chosen: list[Take] = []
        for name in names if names is not None else ():
            if name in (*self.domain.splits, OWN):
                chosen += self.select(name, on_disk)
            else:
                chosen.append(self.named(name, on_disk))
        if not (chosen := on_disk if names is None else list(dict.fromkeys(chosen))):
            raise UserError(f"{self.root}: none of the takes of {', '.join(names or ['the dataset'])} is there")
        return chosen
