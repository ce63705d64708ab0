"""What published data set names such as `hybridor_panoptic_train` stand for (stage-1 specification, section 10)."""

from __future__ import annotations

from dataclasses import dataclass

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset

ALL = "hybridor"  # published name of MM-OR and 4D-OR together; here of all datasets of a domain, whichever it is
_MARK = "_panoptic_"
_SPLITS = {"train_small": "small_train", "train_mini": "mini_train"}  # published -> of the domain, where they differ


@dataclass(frozen=True)
class DataChoice:
    """What a data set name stands for: `mmor_panoptic_train_small` is the split `small_train` of the dataset MMOR."""

    name: str  # of a dataset in lower case, or `ALL`
    split_name: str  # as published: train_small

    def split(self, domain: Domain) -> str:
        """The split of the domain, or `own`; one that people have called as the published ones goes before these."""
        return self.split_name if self.split_name in domain.splits else _SPLITS.get(self.split_name, self.split_name)

    @property
    def ground_truth_name(self) -> str:
        """The published name of the ground-truth file."""
        return f"{self.name}_ground_truth_{self.split_name}"

    def datasets(self, domain: Domain) -> tuple[str, ...]:
        """The datasets of the domain that are meant.

        Raises:
            UserError: it has none of this name.
        """
        found = tuple(name for name in domain.datasets if self.name in (name.lower(), ALL))
        if not found:
            names = ",".join([*(name.lower() for name in domain.datasets), ALL])
            raise UserError(
                f"data set {self.name + _MARK + self.split_name!r} does not exist in domain {domain.name}; the names "
                f"are {{{names}}}{_MARK}SPLIT"
            )
        return found

    def takes(self, dataset: Dataset) -> list[Take]:
        """The takes that are on disk; `own`: those in no published list.

        Raises:
            UserError: the domain has no such dataset or split.
        """
        datasets = self.datasets(dataset.domain)
        return [take for take in dataset.select(self.split(dataset.domain)) if take.dataset in datasets]


def data_choice(name: str) -> DataChoice:
    """The meaning of a data set name; whether the domain has it shows when takes are asked for.

    Raises:
        UserError: the name has another form.
    """
    dataset, _, split_name = name.partition(_MARK)
    if not dataset or not split_name:
        raise UserError(f"data set {name!r} does not exist; the names are DATASET{_MARK}SPLIT, as {ALL}{_MARK}train")
    return DataChoice(dataset, split_name)
