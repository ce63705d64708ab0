"""The sterility rule: which relations carry germs from unsterile to sterile (data specification, section 10).

The published system answers its third downstream task by this rule, not by its network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from operating_room.graphs.scene_graph import Triplet

_SURGEONS = ("head_surgeon", "assistant_surgeon")
_PATIENT = "patient"
_OPENING = ("drilling", "cutting", "sawing", "hammering")  # by a surgeon: from then on the patient is sterile
_CLOSING = "suturing"  # ends the sterile part of the surgery


@dataclass(frozen=True)
class SterilityRule:
    """The sets of the sterility rule. The published ones were never released; ours are in `downstream_rules.yaml`."""

    predicates: frozenset[str]  # that carry germs
    sterile: frozenset[str]
    unsterile: frozenset[str]


def find_breaches(graphs: Iterable[Iterable[Triplet]], rule: SterilityRule) -> list[tuple[Triplet, ...]]:
    """The relations that break sterility at each timepoint of one take.

    A breach is a relation between something sterile and something unsterile. The patient is sterile from a surgeon's
    first cut on and not considered before; from the first suture on nothing is a breach any more.

    Args:
        graphs: the graphs of a whole take in order of time, entity names with underscores.
        rule: what is sterile, and which predicates carry germs.
    """
    patient_sterile = closed = False
    breaches = []
    for graph in graphs:
        broken = []
        for triplet in graph:
            subject, object_, predicate = triplet
            if subject in _SURGEONS and object_ == _PATIENT and predicate in _OPENING:
                patient_sterile = True
            elif predicate == _CLOSING:
                patient_sterile, closed = False, True
            sterile = rule.sterile | {_PATIENT} if patient_sterile else rule.sterile - {_PATIENT}
            known = {subject, object_} <= sterile | rule.unsterile
            if predicate in rule.predicates and known and (subject in sterile) != (object_ in sterile):
                broken.append(triplet)
        breaches.append(() if closed else tuple(broken))
    return breaches
