"""Labels of the downstream tasks from scene graphs, by a rule file; `downstream_rules.yaml` is ours and documented.

The rules behind the published labels were never released (data specification, section 10).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from operating_room.downstream import NEXT_ACTIONS, ROBOT_PHASES
from operating_room.errors import UserError
from operating_room.readers import read_bytes
from operating_room.scene_graph import Sample, Triplet
from operating_room.sterility import SterilityRule, find_breaches
from operating_room.vocabulary import ENTITIES, PREDICATES

OUR_FILE = Path(__file__).with_name("downstream_rules.yaml")


@dataclass(frozen=True)
class ActionRule:
    """When an action on the patient begins; see the rule file."""

    object: str
    gap: int  # s
    begins_with: dict[str, str]  # predicate -> action
    arrival: str
    departure: str


@dataclass(frozen=True)
class Rules:
    """The content of a rule file."""

    next_action: ActionRule
    robot_phase: tuple[tuple[str, frozenset[Triplet]], ...]  # phases in order, each with what it begins with
    sterility_breach: SterilityRule


def load_rules(path: Path = OUR_FILE) -> Rules:
    """Read a rule file.

    Raises:
        UserError: missing, no YAML, or it names something that does not exist.
    """
    import yaml

    try:
        values = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no YAML ({str(error).splitlines()[0]}); start from {OUR_FILE}") from error
    try:
        return _rules(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no rule file ({error!r}); it needs the fields of {OUR_FILE}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@cache
def our_rules() -> Rules:
    """The rules of `downstream_rules.yaml`."""
    return load_rules()


def next_actions(graphs: Sequence[Iterable[Triplet]], rule: ActionRule) -> list[tuple[str, int] | None]:
    """For each second of a take the action that begins next, and in how many seconds."""
    starts: list[tuple[int, str]] = []
    last_seen: dict[str, int] = {}
    present = []
    for second, graph in enumerate(graphs):
        triplets = list(graph)
        actions = {rule.begins_with[t.predicate] for t in triplets if _begins(t, rule)}
        starts += [
            (second, action)
            for action in sorted(actions)
            if action not in last_seen or second - last_seen[action] > rule.gap
        ]
        last_seen.update(dict.fromkeys(actions, second))
        if any(rule.object in triplet for triplet in triplets):
            present.append(second)
    if present:
        starts += [(present[0], rule.arrival), (present[-1] + 1, rule.departure)]
    starts.sort()
    upcoming = iter(starts)
    current = next(upcoming, None)
    result: list[tuple[str, int] | None] = []
    for second in range(len(graphs)):
        while current is not None and current[0] <= second:
            current = next(upcoming, None)
        result.append(None if current is None else (current[1], current[0] - second))
    return result


def robot_phases(graphs: Iterable[Iterable[Triplet]], phases: Sequence[tuple[str, frozenset[Triplet]]]) -> list[str]:
    """The phase of the robot at each timepoint of a take."""
    place, result = 0, []
    for graph in graphs:
        if place + 1 < len(phases) and phases[place + 1][1] <= set(graph):
            place += 1
        result.append(phases[place][0])
    return result


def derive_labels(samples: Sequence[Sample], rules: Rules) -> dict[str, dict[str, Any]]:
    """Task -> frame_id -> label, as the dataset stores them, for all timepoints of one take in order of time."""
    graphs = [sample.triplets for sample in samples]
    actions = next_actions(graphs, rules.next_action)
    breaches = find_breaches(graphs, rules.sterility_breach)
    labels = {
        "next_action": [action and list(action) for action in actions],
        "robot_phase": robot_phases(graphs, rules.robot_phase),
        "sterility_breach": [[list(triplet) for triplet in broken] for broken in breaches],
    }
    frames = [sample.frame_id for sample in samples]
    return {task: dict(zip(frames, of_task, strict=True)) for task, of_task in labels.items()}


def _begins(triplet: Triplet, rule: ActionRule) -> bool:
    return triplet.object == rule.object and triplet.predicate in rule.begins_with


def _rules(values: Any) -> Rules:
    action, phases, breach = (values[name] for name in ("next_action", "robot_phase", "sterility_breach"))
    rules = Rules(
        ActionRule(
            action["object"], int(action["gap"]), dict(action["begins_with"]), action["arrival"], action["departure"]
        ),
        tuple((phase["phase"], frozenset(Triplet(*relation) for relation in phase["relations"])) for phase in phases),
        SterilityRule(*(frozenset(breach[name]) for name in ("predicates", "sterile", "unsterile"))),
    )
    relations = [triplet for _, begins_with in rules.robot_phase for triplet in begins_with]
    sets = rules.sterility_breach
    entities = {rules.next_action.object, *sets.sterile, *sets.unsterile, *(n for t in relations for n in t[:2])}
    _check(entities, ENTITIES, "entities")
    predicates = {*rules.next_action.begins_with, *sets.predicates, *(t.predicate for t in relations)}
    _check(predicates, PREDICATES, "predicates")
    actions = {*rules.next_action.begins_with.values(), rules.next_action.arrival, rules.next_action.departure}
    _check(actions, NEXT_ACTIONS, "actions")
    _check({phase.lower() for phase, _ in rules.robot_phase}, ROBOT_PHASES, "phases")
    return rules


def _check(names: Iterable[str], known: Collection[str], what: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"{what} has no {unknown[0]!r}; choose among {', '.join(known)}")
