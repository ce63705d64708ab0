"""What a training sample remembers: the truth before it, or a model's own answers, told in a style that is drawn.

Data specification, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.memory import Change, Memory, draw_style, memory_text
from operating_room.graphs.scene_graph import Sample, Triplet, split_sample_id


@dataclass(frozen=True)
class OwnAnswers:
    """What a model answered for takes that it will be trained on, with the memory of its own answers."""

    graphs: Mapping[str, Sequence[Triplet]]  # by sample id, as `graph_files.load_predictions` reads them
    share: float  # of the records of these takes whose memory holds these answers

    def samples(self, truth: Sequence[Sample]) -> list[Sample]:
        """The answers of the takes that there are some of, as graphs in place of the true ones.

        Args:
            truth: all labelled timepoints that are trained on.

        Raises:
            UserError: some are of other takes, or a take has some and not all.
        """
        known = {sample.take_name for sample in truth}
        takes = {split_sample_id(key)[0] for key in self.graphs}
        if others := sorted(takes - known):
            raise UserError(
                f"the answers are of takes that are not trained on: {', '.join(others[:5])}"
                f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}; infer those of the split"
            )
        found = [sample for sample in truth if sample.take_name in takes]
        if missing := [sample for sample in found if sample.sample_id not in self.graphs]:
            raise UserError(
                f"the answers lack {len(missing)} of {len(found)} timepoints of their takes, the first is "
                f"{missing[0].sample_id}; infer whole takes, without --limit"
            )
        return [replace(sample, triplets=tuple(self.graphs[sample.sample_id])) for sample in found]


def change_logs(
    samples: Iterable[Sample],
    remembered: Callable[[tuple[Triplet, ...]], Iterable[Triplet]],
    language: Language,
) -> dict[str, list[Change]]:
    """The change log of each take, its timepoints in order.

    Args:
        samples: graphs.
        remembered: turns a graph into what memory holds of it.
        language: that they are in; it says what memory leaves out.
    """
    memories: dict[str, Memory] = {}
    for sample in sorted(samples, key=lambda sample: sample.position):
        memories.setdefault(sample.take_name, Memory.of(language)).add(remembered(sample.triplets), sample.position)
    return {take_name: memory.log for take_name, memory in memories.items()}


def draw_memory(
    history: Sequence[Change], styles: Sequence[tuple[float, str | None]], drop_history: float, generator: Random | None
) -> str | None:
    """Memory of a style drawn from `styles`, with entries dropped; all of it without a generator."""
    if generator is None:
        return memory_text(history)
    style = draw_style(styles, generator)
    if style is None:
        return None
    return memory_text(history, style, drop_history, generator if drop_history else None)


def drop_ending(drop_history: float) -> str:
    """What file names say about dropped memory entries."""
    return f"_drophistory{drop_history}" if drop_history else ""
