"""Verdicts: what of the truth of a second was said, what was missed, and what was said beyond it."""

from __future__ import annotations

from collections.abc import Iterable

from operating_room.domain.language import Language
from operating_room.graphs.scene_graph import Triplet, normalise

Verdict = tuple[str, str, str, str]  # subject, object, predicate, and right, missed or wrong


def compare_graphs(truth: Iterable[Triplet], predicted: Iterable[Triplet], language: Language) -> list[Verdict]:
    """Every true or predicted triplet with its verdict: right, missed (true only) or wrong (predicted only)."""
    true = {known for triplet in truth if (known := normalise(triplet, language)) is not None}
    found = {known for triplet in predicted if (known := normalise(triplet, language)) is not None}
    spelling = {predicate.lower(): predicate for predicate in language.predicates}
    verdicts = {triplet: "right" if triplet in found else "missed" for triplet in true}
    verdicts |= dict.fromkeys(found - true, "wrong")
    return [(s, o, spelling.get(p, p), verdict) for (s, o, p), verdict in sorted(verdicts.items())]
