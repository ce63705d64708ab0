"""The sterility rule: which relations carry germs from unsterile to sterile (data specification, section 10).

The published system answers its third downstream task by this rule, not by its network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from operating_room.graphs.scene_graph import Triplet


@dataclass(frozen=True)
class SterilityRule:
    """The sets of the sterility rule, in `downstream_rules.yaml`. The first three were never released: ours."""

    predicates: frozenset[str]  # that carry germs
    sterile: frozenset[str]
    unsterile: frozenset[str]
    patient: str
    surgeons: frozenset[str]
    opening: frozenset[str]  # predicates by a surgeon to the patient, who is sterile from then on
    closing: frozenset[str]  # predicates that end the sterile part of the surgery


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
            if subject in rule.surgeons and object_ == rule.patient and predicate in rule.opening:
                patient_sterile = True
            elif predicate in rule.closing:
                patient_sterile, closed = False, True
            sterile = rule.sterile | {rule.patient} if patient_sterile else rule.sterile - {rule.patient}
            known = {subject, object_} <= sterile | rule.unsterile - {rule.patient}
            if predicate in rule.predicates and known and (subject in sterile) != (object_ in sterile):
                broken.append(triplet)
        breaches.append(() if closed else tuple(broken))
    return breaches
