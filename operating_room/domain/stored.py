"""The domain of what was made for one - a model, predictions - stored beside it; with another domain it is refused.

What tells nothing is of MM-OR: published files are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError, one_line
from operating_room.files.atomic import write_text

DOMAIN_FILE = "domain.yaml"


@dataclass(frozen=True)
class DomainNote:
    """Which domain a file was made for, noted inside it."""

    name: str
    digest: str  # `Domain.digest`

    @classmethod
    def of(cls, domain: Domain) -> DomainNote:
        """The note of a domain."""
        return cls(domain.name, domain.digest)


def store_domain(folder: Path, domain: Domain) -> None:
    """Write a copy of the domain into the folder of what is made for it.

    Raises:
        UserError: it cannot be written.
    """
    write_text(folder / DOMAIN_FILE, domain.to_yaml())


def stored_domain(folder: Path) -> Domain:
    """The domain that what lies in a folder was made for: MM-OR's, if the folder holds no copy.

    Raises:
        UserError: the copy is damaged.
    """
    path = folder / DOMAIN_FILE
    there = path.exists() or path.is_symlink()  # a link to nothing, or a folder, is told when it is read
    return Domain.read(path) if there else mmor()


def require_visible(folder: Path, datasets: Iterable[str]) -> None:
    """Before takes of these datasets are put into a folder: commands find those of one domain there.

    Raises:
        UserError: its domain.yaml does not know them; or it has none, and with theirs the takes of MM-OR that are there
            would be found by nothing any more; or it is the folder of a dataset itself, in which another of that name
            would be made.
    """
    there, new = stored_domain(folder), set(datasets)
    name = folder.resolve().name
    if name in {each.root for each in there.collections} and not (folder / name).is_dir():
        raise UserError(f"{folder}: takes would be in {folder / name}; choose the folder that holds {name} as --out")
    if new <= set(there.datasets):
        return
    if os.path.lexists(folder / DOMAIN_FILE):
        told = f"is of {there.name}, beside which nothing finds takes of {', '.join(sorted(new - set(there.datasets)))}"
        raise UserError(f"{folder / DOMAIN_FILE}: {told}; choose another --out, or give this file as --domain")
    hidden = [each.root for each in there.collections if each.name not in new and (folder / each.root).is_dir()]
    if hidden:
        told = (
            f"holds {' and '.join(hidden)}, which nothing would find any more beside the {DOMAIN_FILE} of other takes"
        )
        raise UserError(f"{folder}: {told}; choose another --out")


def require_same(made: Path | str, there: Domain, domain: Domain) -> None:
    """Before what was made for one domain is used with another.

    Args:
        made: what was made, as the message names it.
        there: its domain.
        domain: what it is to be used with.

    Raises:
        UserError: the two differ in what a model learns from; one line says in what.
    """
    if there.digest != domain.digest:
        raise _other_domain(made, there.name, domain, domain.differences(there))


def require_domain(made: Path, domain: Domain, note: DomainNote | None = None) -> None:
    """Before what was made for one domain is used with another.

    Args:
        made: the file or folder that was made.
        domain: what it is to be used with.
        note: of the file, which goes before the copy beside it.

    Raises:
        UserError: it was made for another domain; one line says what differs.
    """
    if note is not None and note.digest == domain.digest:
        return
    folder = made if made.is_dir() else made.parent
    there = stored_domain(folder)
    if note is not None and note.digest != there.digest:  # the copy is not there any more, or of something else
        unknown = [f"its {DOMAIN_FILE} is not beside it, so what differs is not known"]
        raise _other_domain(made, note.name, domain, unknown)
    if note is None and there.digest != domain.digest and not (folder / DOMAIN_FILE).is_file():
        advice = f"or, if it was made for this one and does not say so, put the takes' {DOMAIN_FILE} beside it"
        raise _other_domain(made, there.name, domain, domain.differences(there), advice)
    require_same(made, there, domain)


def _other_domain(
    made: Path | str, there: str, domain: Domain, differences: Sequence[str], advice: str = ""
) -> UserError:
    names = f"{there} (there) instead of {domain.name} (here)" if there != domain.name else f"both are called {there}"
    return UserError(
        one_line(
            f"{made}: was made for another domain than that of the takes, {names}: {'; '.join(differences)}. Choose "
            f"one made for this domain{advice and f', {advice}'}"
        )
    )
