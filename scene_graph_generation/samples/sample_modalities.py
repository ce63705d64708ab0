"""Modalities of training samples: which are chosen, which are mixed with those of others, which no record has.

Data specification, section 4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from random import Random

from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.modalities import BY_NAME, TABLE, modalities_of
from operating_room.recordings.timepoint import Timepoint

# By their names in the names of training files, what they are in a `Timepoint`.
MODALITIES = {
    name: tuple(row.name for row in TABLE if row.training == name)
    for name in dict.fromkeys(row.training for row in TABLE if row.training)
}
PUBLISHED = tuple(name for name, rows in MODALITIES.items() if BY_NAME[rows[0]].published)
_MIXED = [name for _, name in sorted((row.mixed, row.name) for row in TABLE if row.mixed is not None)]
_OPTIONAL = [row for row in TABLE if row.of_take is not None and row.optional]  # read when they are asked for


def choose_modalities(names: str | None, domain: Domain) -> tuple[str, ...]:
    """The modalities of a list like `AZURE,PC`, in the order of file names.

    None means all that takes of the domain can have, without what most of them lack; of MM-OR the published ones.

    Raises:
        UserError: takes of the domain have no such modality.
    """
    rows = [row for c in domain.collections for row in modalities_of(domain, c)]
    possible = [name for name in MODALITIES if name in {row.training for row in rows}]
    usual = [name for name in possible if name in {row.training for row in rows if not row.optional}]
    wanted = usual if names is None else [name.strip().upper() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in possible]:
        told = f"modality {unknown[0]!r} does not exist in domain {domain.name}"
        raise UserError(f"{told}; choose from {','.join(possible)}")
    return tuple(name for name in MODALITIES if name in wanted)


def select_modalities(dataset: Dataset, timepoint: Timepoint, modalities: Sequence[str]) -> Timepoint:
    """The timepoint with these modalities only."""
    for row in _OPTIONAL:
        if row.training in modalities:
            timepoint = dataset.take(timepoint.take).with_element(timepoint, row.name)
    return timepoint.without(
        [name for modality, names in MODALITIES.items() if modality not in modalities for name in names]
    )


def mix_modalities(timepoint: Timepoint, similar: Sequence[Timepoint], generator: Random) -> Timepoint:
    """The timepoint with audio, robot screen, tracker and speech of similar timepoints (section 4.4).

    One similar timepoint is drawn for each of these that the timepoint has; if that one lacks it, the own one stays.
    """
    for name in _MIXED:
        if timepoint.has(name):
            timepoint = timepoint.taking(name, generator.choice(similar))
    return timepoint


def shown_modalities(timepoint: Timepoint) -> set[str]:
    """What there is to answer from but the question."""
    return {name for names in MODALITIES.values() for name in names if timepoint.has(name)}


def never_shown(
    dataset: Dataset, samples: Iterable[Sample], modalities: Sequence[str], shown: Collection[str]
) -> list[str]:
    """A line for each of these modalities that no record has, of those that a step makes or that were asked for.

    Optional ones are among `modalities` only if somebody has named them.
    """
    domain = dataset.domain
    datasets = {domain.find_take(name).dataset for name in {sample.take_name for sample in samples}}
    rows = {row.name: (row, c) for c in domain.collections if c.name in datasets for row in modalities_of(domain, c)}
    return [
        f"no record has {row.training}; {row.advice(dataset.root, collection)}"
        for row, collection in rows.values()
        if row.training in modalities and row.input is not None and row.name not in shown
        if row.made_by or row.optional
    ]
