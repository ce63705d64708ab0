"""The predicates of a take over time: when each holds in truth and predictions, where these err or disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmor.viewer.takes import Shown, ViewedTake
from operating_room.domain.language import Language
from operating_room.graphs.scene_graph import Triplet, normalise

Intervals = list[tuple[int, int]]  # positions: first, and the one behind the last


def timeline(shown: Shown, viewed: ViewedTake) -> dict[str, Any]:
    """Predicate -> intervals of each graph source, and the positions of errors and disagreements (JSON values).

    An error is a triplet that is missed or wrong; where nothing is labelled there is none. A disagreement is a triplet
    that one of two predictions has and the other has not.

    Raises:
        UserError: the index of the take is missing or damaged.
    """
    language = shown.domain.language
    truth = _known(viewed.truth, language)
    predicted = {name: _known(viewed.predicted(said), language) for name, said in shown.graphs.items()}
    both = list(predicted.values())
    return {
        "labelled": intervals(truth),
        "truth": by_predicate(truth, language),
        "graphs": {
            name: {
                "said": intervals(graphs),
                "predicates": by_predicate(graphs, language),
                "errors": differences(truth, graphs, language),
            }
            for name, graphs in predicted.items()
        },
        "disagreements": differences(both[0], both[1], language) if len(both) == 2 else {},
    }


def by_predicate(graphs: Mapping[int, frozenset[Triplet]], language: Language) -> dict[str, Intervals]:
    """Predicate -> when any pair of entities has it; predicates that never occur are left out."""
    positions: dict[str, list[int]] = {}
    for position, triplets in sorted(graphs.items()):
        for predicate in {triplet.predicate for triplet in triplets}:
            positions.setdefault(predicate, []).append(position)
    return {name: intervals(positions[name.lower()]) for name in language.predicates if name.lower() in positions}


def differences(
    one: Mapping[int, frozenset[Triplet]], other: Mapping[int, frozenset[Triplet]], language: Language
) -> dict[str, list[int]]:
    """Predicate -> the positions, of those that both have, at which only one has a triplet of it."""
    found: dict[str, list[int]] = {}
    for position in sorted(one.keys() & other.keys()):
        for predicate in {triplet.predicate for triplet in one[position] ^ other[position]}:
            found.setdefault(predicate, []).append(position)
    return {name: found[name.lower()] for name in language.predicates if name.lower() in found}


def intervals(positions: Iterable[int]) -> Intervals:
    """Positions in order as stretches without a gap."""
    found: Intervals = []
    for position in sorted(positions):
        if found and found[-1][1] == position:
            found[-1] = found[-1][0], position + 1
        else:
            found.append((position, position + 1))
    return found


def _known(graphs: Mapping[int, Sequence[Triplet]], language: Language) -> dict[int, frozenset[Triplet]]:
    """The triplets in scoring names; those outside the vocabulary are left out."""
    return {
        position: frozenset(known for triplet in graph if (known := normalise(triplet, language)) is not None)
        for position, graph in graphs.items()
    }
