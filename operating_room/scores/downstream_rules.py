"""Labels of the downstream tasks from scene graphs, by a rule file; `downstream_rules.yaml` is ours and documented.

The rules behind the published labels were never released (data specification, section 10).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from operating_room.domain.domain import Domain, Task, mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import parse_yaml, read_bytes, read_json
from operating_room.graphs.scene_graph import Sample, Triplet, by_take
from operating_room.recordings.dataset import Dataset
from operating_room.scores.downstream import check_label_file, label_file
from operating_room.scores.scoring import true_graph
from operating_room.scores.sterility import SterilityRule, find_breaches

SOURCES = "sources.json"  # in a folder of collected labels: take -> task -> `dataset` or `rules`
_SETS = ("predicates", "sterile", "unsterile", "surgeons", "opening", "closing")  # of the sterility rule
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


def load_rules(path: Path = OUR_FILE, domain: Domain | None = None) -> Rules:
    """Read a rule file.

    Args:
        path: ours is about MM-OR.
        domain: whose entities, predicates and tasks the rules are about; None is MM-OR.

    Raises:
        UserError: missing, no YAML, or it names something that does not exist.
    """
    values = parse_yaml(read_bytes(path), str(path))
    try:
        return _rules(values, mmor() if domain is None else domain)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: is no rule file ({error!r}); it needs the fields of {OUR_FILE}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@cache
def our_rules() -> Rules:
    """The rules of `downstream_rules.yaml`."""
    return load_rules()


def next_actions(
    graphs: Sequence[Iterable[Triplet]], rule: ActionRule, times: Sequence[int] | None = None
) -> list[tuple[str, int] | None]:
    """For each timepoint of a take the action that begins next, and in how many seconds.

    Args:
        graphs: in order of time.
        rule: what begins an action.
        times: of the graphs in s; None: one graph a second.
    """
    times = range(len(graphs)) if times is None else times
    starts: list[tuple[int, str]] = []
    last_seen: dict[str, int] = {}
    present = []
    for place, (time, graph) in enumerate(zip(times, graphs, strict=True)):
        triplets = list(graph)
        actions = {rule.begins_with[t.predicate] for t in triplets if _begins(t, rule)}
        starts += [
            (time, action)
            for action in sorted(actions)
            if action not in last_seen or time - last_seen[action] > rule.gap
        ]
        last_seen.update(dict.fromkeys(actions, time))
        if any(rule.object in triplet for triplet in triplets):
            present.append(place)
    if present:
        first, last = present[0], present[-1]
        after = times[last + 1] if last + 1 < len(times) else times[last] + 1
        starts += [(times[first], rule.arrival), (after, rule.departure)]
    starts.sort()
    upcoming = iter(starts)
    current = next(upcoming, None)
    result: list[tuple[str, int] | None] = []
    for time in times:
        while current is not None and current[0] <= time:
            current = next(upcoming, None)
        result.append(None if current is None else (current[1], current[0] - time))
    return result


def robot_phases(graphs: Iterable[Iterable[Triplet]], phases: Sequence[tuple[str, frozenset[Triplet]]]) -> list[str]:
    """The phase of the robot at each timepoint of a take."""
    place, result = 0, []
    for graph in graphs:
        if place + 1 < len(phases) and phases[place + 1][1] <= set(graph):
            place += 1
        result.append(phases[place][0])
    return result


def derive_labels(
    samples: Sequence[Sample], rules: Rules, times: Sequence[int], tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """Task -> frame_id -> label, as the dataset stores them, for all timepoints of one take in order of time.

    Args:
        samples: the true graphs.
        rules: what the labels follow from.
        times: when each was recorded, in s. The position in the index is no time: there are gaps, and other rates.
        tasks: which labels are wanted.
    """
    graphs, frames = [sample.triplets for sample in samples], [sample.frame_id for sample in samples]
    actions = next_actions(graphs, rules.next_action, times)
    breaches = find_breaches(graphs, rules.sterility_breach)
    labels: dict[str, list[Any]] = {
        "class_with_time": [action and list(action) for action in actions],
        "class": robot_phases(graphs, rules.robot_phase),
        "sterility": [[list(triplet) for triplet in broken] for broken in breaches],
    }
    return {task.name: dict(zip(frames, labels[task.kind], strict=True)) for task in tasks}


@dataclass(frozen=True)
class Collected:
    """What `collect_labels` wrote."""

    sources: dict[str, dict[str, str]]  # take -> task -> `dataset` or `rules`
    labels: dict[str, dict[str, dict[str, Any]]]  # task -> take -> frame_id -> label
    problems: list[str]  # one line for each take that is left out


def collect_labels(
    dataset: Dataset, samples: Sequence[Sample], rules: Rules, out: Path, derive_all: bool = False
) -> Collected:
    """Write the labels of all takes with tasks to `out`: the dataset's own, or derived ones where it has none.

    `out` gets the label folders of the tasks and `sources.json`: for each take and task where its labels are from.

    Args:
        dataset: where the takes are.
        samples: the true graphs of whole takes.
        rules: for the derived ones.
        out: folder to write to.
        derive_all: do not take the dataset's own labels.

    Raises:
        UserError: the folder cannot be written, or is the dataset itself.
    """
    domain = dataset.domain
    if os.path.realpath(out) in map(os.path.realpath, dataset.roots.values()):
        raise UserError(f"{out}: holds the dataset's own labels, which these would replace; choose another --out")
    collected = Collected({}, {task.name: {} for task in domain.tasks}, [])
    for name, of_take in by_take(samples).items():
        take = domain.find_take(name)
        if not domain.tasks_of(take):
            continue
        recorded = dataset.take(take)
        tasks = [task for task in domain.tasks if task.name in recorded.collection.take_files]
        try:
            stored = {
                task.name: check_label_file(path, task)
                for task in tasks
                if not derive_all and recorded.has(path := label_file(recorded.root, take, task, domain))
            }
            for sample in of_take if len(stored) < len(tasks) else ():  # else nothing follows from the graphs
                true_graph(sample, domain.language)
            # Checked for stored labels as well: they are looked up by these frame ids.
            times = [int(recorded.timepoint(f"{sample.position:06d}").time) for sample in of_take]
        except UserError as error:
            collected.problems.append(f"{name} is left out: {error}")
            continue
        derived = derive_labels(of_take, rules, times, tasks)
        collected.sources[take.name] = {task: "dataset" if task in stored else "rules" for task in derived}
        for task in tasks:
            collected.labels[task.name][take.name] = stored.get(task.name, derived[task.name])
            write_json(label_file(out, take, task, domain), collected.labels[task.name][take.name])
    known = out / SOURCES
    earlier = read_json(known) if known.exists() else {}
    if not isinstance(earlier, dict):
        raise UserError(f"{known}: must map takes to sources; delete it and collect the labels again")
    write_json(known, earlier | collected.sources, indent=1)
    return collected


def _begins(triplet: Triplet, rule: ActionRule) -> bool:
    return triplet.object == rule.object and triplet.predicate in rule.begins_with


def _rules(values: Any, domain: Domain) -> Rules:
    action, phases, breach = (values[name] for name in ("next_action", "robot_phase", "sterility_breach"))
    breach = {**{name: _ours()[name] for name in ("patient", *_SETS[3:])}, **breach}
    if type(action["gap"]) is not int:
        raise UserError(f"the gap of next_action is {shown(action['gap'])}; it must be whole seconds")
    rules = Rules(
        ActionRule(
            action["object"], action["gap"], dict(action["begins_with"]), action["arrival"], action["departure"]
        ),
        tuple((phase["phase"], frozenset(Triplet(*relation) for relation in phase["relations"])) for phase in phases),
        SterilityRule(patient=breach["patient"], **{name: frozenset(breach[name]) for name in _SETS}),
    )
    if not rules.robot_phase:
        raise UserError("robot_phase is empty; it needs the phases in order, the first of which begins with the take")
    if rules.next_action.gap < 0:
        raise UserError(f"the gap of next_action is {rules.next_action.gap} s; it must not be negative")
    if unbegun := [phase for phase, begins_with in rules.robot_phase[1:] if not begins_with]:
        raise UserError(f"the phase {unbegun[0]!r} needs relations that it begins with")
    relations = [triplet for _, begins_with in rules.robot_phase for triplet in begins_with]
    sets = rules.sterility_breach
    if both := sorted(sets.sterile & sets.unsterile):
        raise UserError(f"{both[0]!r} is sterile and unsterile; leave it in one of both sets")
    entities = {rules.next_action.object, *sets.sterile, *sets.unsterile, sets.patient, *sets.surgeons}
    _check(entities | {name for t in relations for name in t[:2]}, domain.language.entities, "entities")
    predicates = {*rules.next_action.begins_with, *sets.predicates, *sets.opening, *sets.closing}
    _check(predicates | {t.predicate for t in relations}, domain.language.predicates, "predicates")
    actions = {*rules.next_action.begins_with.values(), rules.next_action.arrival, rules.next_action.departure}
    _check(actions, _classes(domain, "class_with_time"), "actions")
    _check({phase.lower() for phase, _ in rules.robot_phase}, _classes(domain, "class"), "phases")
    return rules


@cache
def _ours() -> dict[str, Any]:
    """The sterility rule of our file."""
    return parse_yaml(read_bytes(OUR_FILE), str(OUR_FILE))["sterility_breach"]


def _classes(domain: Domain, kind: str) -> list[str]:
    """The classes of all tasks of a kind."""
    return [name for task in domain.tasks if task.kind == kind for name in task.classes]


def _check(names: Iterable[str], known: Collection[str], what: str) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"{what} has no {unknown[0]!r}; choose among {', '.join(known)}")
