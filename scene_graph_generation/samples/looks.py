"""What pretraining looks at, batch by batch, without the samples that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from operating_room.errors import UserError
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.samples.bad_samples import BAD_IN_A_ROW
from scene_graph_generation.samples.training_data import TrainingSamples


@dataclass(frozen=True)
class Batch:
    """Samples that are looked at together, and whether with views and point clouds."""

    samples: list[int]
    views: bool
    cloud: bool


class Looks(torch.utils.data.Dataset[tuple[list[int], list[Example | None], list[str]]]):
    """The batches of a plan, read by whoever asks; what is drawn for one depends on nothing but its place.

    A sample that cannot be used is replaced by the one in its place in the next batch, and named.
    """

    def __init__(self, samples: TrainingSamples, plan: Sequence[Batch], seed: int) -> None:
        self._samples, self._plan, self._seed = samples, plan, seed

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> tuple[list[int], list[Example | None], list[str]]:
        of, generator = self._plan[index], Random(f"look {self._seed} {index}")
        chosen, examples, bad = list(of.samples), list[Example | None](), list[str]()
        for place in range(len(chosen)):
            example = None
            for other in range(index, index + min(len(self), BAD_IN_A_ROW)):
                chosen[place] = self._plan[other % len(self)].samples[place]
                try:
                    example = self._samples.look(chosen[place], generator, of.views, of.cloud)
                    break
                except UserError as error:
                    bad.append(_named(self._samples, chosen[place], error))
            examples.append(example)
        return chosen, examples, bad


def usable_looks(
    samples: TrainingSamples, chosen: Sequence[int], views: bool = True, cloud: bool = True
) -> tuple[dict[int, Example], list[str]]:
    """Samples as they are, but for bad ones, and a line for each of these; without views or clouds if so asked."""
    found, bad = dict[int, Example](), list[str]()
    for i in chosen:
        try:
            found[i] = samples.look(i, None, views, cloud)
        except UserError as error:
            bad.append(_named(samples, i, error))
    return found, bad


def _named(samples: TrainingSamples, index: int, error: UserError) -> str:
    return f"sample {samples.records[index]['id']}: {error}"
