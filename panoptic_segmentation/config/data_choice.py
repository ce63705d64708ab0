"""What published data set names such as `hybridor_panoptic_train` stand for (stage-1 specification, section 10)."""

from __future__ import annotations

from dataclasses import dataclass

from operating_room.domain.takes import FOURDOR, MMOR, OWN, Take
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset

_DATASETS = {"mmor": (MMOR,), "4dor": (FOURDOR,), "hybridor": (FOURDOR, MMOR)}
# Splits in published file and data set names -> splits of `operating_room.domain.takes`.
_SPLITS = {
    "train": "train",
    "train_small": "small_train",
    "train_mini": "mini_train",
    "val": "val",
    "test": "test",
    OWN: OWN,  # not published
}


@dataclass(frozen=True)
class DataChoice:
    """What a published data set name stands for."""

    name: str  # mmor, 4dor or hybridor
    split_name: str  # as published: train_small
    datasets: tuple[str, ...]
    split: str  # of `operating_room.domain.takes.SPLITS`: small_train

    @property
    def ground_truth_name(self) -> str:
        """The published name of the ground-truth file."""
        return f"{self.name}_ground_truth_{self.split_name}"

    def takes(self, dataset: Dataset) -> list[Take]:
        """The takes that are on disk; `own`: those in no published list."""
        return [take for take in dataset.select(self.split) if take.dataset in self.datasets]


def data_choice(name: str) -> DataChoice:
    """The meaning of a published data set name.

    Raises:
        UserError: there is no such data set.
    """
    dataset, _, split_name = name.partition("_panoptic_")
    if dataset not in _DATASETS or split_name not in _SPLITS:
        names = f"{{{','.join(_DATASETS)}}}_panoptic_{{{','.join(_SPLITS)}}}"
        raise UserError(f"data set {name!r} does not exist; the names are {names}")
    return DataChoice(dataset, split_name, _DATASETS[dataset], _SPLITS[split_name])
