"""When the samples of a dataset are: their frame ids are positions in an index, which has the time stamps."""

from __future__ import annotations

from collections.abc import Iterable

from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, by_take
from operating_room.recordings.dataset import Dataset


def times_of(dataset: Dataset, samples: Iterable[Sample]) -> dict[str, float]:
    """Sample id -> s since its take began; nothing of takes that are not on disk or whose index cannot be read.

    Raises:
        UserError: the name of a take is none.
    """
    found: dict[str, float] = {}
    for name, of_take in by_take(samples).items():
        take = dataset.domain.find_take(name)
        try:
            recorded = dataset.take(take)
            times = [recorded.at(element.time) for element in recorded.index]
            found |= {s.sample_id: times[s.position] for s in of_take if s.position < len(times)}
        except UserError:  # whoever needs the recording itself tells what is wrong with it
            continue
    return found
