"""A surgery from published scene graphs, so that real label statistics can be rendered.

The graphs are taken as they are. What they do not say is inferred: the step from the actions, who is in the room from
who was mentioned shortly before and after. The robot's phases are spread evenly over the time before the first cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, by_take
from operating_room_simulator.story.news import draw_news
from operating_room_simulator.story.steps import PEOPLE, ROBOT_PHASES, ROBOTIC, STEPS, SURGEONS, playbook_of
from operating_room_simulator.story.story import Surgery, assemble, closed

_STAY = 15  # s; who is mentioned again within this time has not left the room in between
_PATIENT_STAY = 3  # s; a patient is mentioned in every annotated second
_ACTION_STEPS = {
    **{predicate: step for step, (predicate, _) in ROBOTIC.actions.items()},
    "scanning": "scanning",
}


def annotated_surgery(
    take: Take, samples: Sequence[Sample], seed: int, seconds: int | None = None, news: bool = False
) -> Surgery:
    """The surgery whose moments are the samples of `take` in the order of time, one second each.

    Args:
        take: the take that the samples belong to and whose name the surgery gets.
        samples: a whole label file; samples of other takes are ignored.
        seed: decides everything that graphs do not tell.
        seconds: only the stretch of this length that shows most predicates; None is the whole take.
        news: in the richer room, where each sense has something of its own to tell; the graphs stay as they are.

    Raises:
        UserError: there is no sample of this take, or `seconds` is less than one.
    """
    if seconds is not None and seconds < 1:
        raise UserError(f"a take of {seconds} s has no timepoint; ask for 1 or more")
    chosen = by_take(samples).get(take.sample_name, [])
    if not chosen:
        known = sorted({sample.take_name for sample in samples})
        raise UserError(f"no sample of take {take.sample_name}; the label file has {', '.join(known) or 'no samples'}")
    graphs = [closed(sample.triplets) for sample in chosen]
    steps = _steps(graphs)
    people = _people(graphs)
    phases = [""] * len(graphs)
    if playbook_of(take).multimodal:
        last = len(ROBOT_PHASES) - 1
        set_up = next(
            (i for i, step in enumerate(steps) if STEPS.index(step) >= STEPS.index("calibration")), len(steps)
        )
        phases = [ROBOT_PHASES[min(last, i * len(ROBOT_PHASES) // max(1, set_up))][0] for i in range(len(graphs))]
    moments = assemble(take, steps, graphs, people, phases)
    if seconds is not None and seconds < len(moments):
        start = _richest(graphs, seconds)
        cut = moments[start : start + seconds]
        moments = tuple(replace(moment, second=second) for second, moment in enumerate(cut))
    return Surgery(take, seed, moments, draw_news(take, seed, len(moments)) if news else None)


def _richest(graphs: Sequence[Sequence[Triplet]], seconds: int) -> int:
    """Where the first stretch of `seconds` graphs with most predicates, then most different triplets, begins."""

    def riches(start: int) -> tuple[int, int]:
        shown = {triplet for graph in graphs[start : start + seconds] for triplet in graph}
        return len({triplet.predicate for triplet in shown}), len(shown)

    return max(range(len(graphs) - seconds + 1), key=riches)


def _steps(graphs: Sequence[Sequence[Triplet]]) -> list[str]:
    """The step of each second: the latest action on the patient goes on until the next, or until the patient leaves."""
    steps: list[str] = []
    action = ""
    for graph in graphs:
        names = {name for triplet in graph for name in triplet[:2]}
        for subject, object_, predicate in graph:
            if object_ == "patient" and predicate in _ACTION_STEPS:
                action = _ACTION_STEPS[predicate]
            elif predicate == "calibrating" and subject in SURGEONS:
                action = "calibration"
        if action:
            steps.append(action if "patient" in names else "departure")
        elif "patient" in names:
            steps.append("draping" if "drape" in names else "preparation")
        else:
            steps.append("arrival")
    return steps


def _people(graphs: Sequence[Sequence[Triplet]]) -> list[tuple[str, ...]]:
    """Who is in the room in each second: mentioned now, or both shortly before and shortly after."""
    present: list[set[str]] = [set() for _ in graphs]
    for person in PEOPLE:
        stay = _PATIENT_STAY if person == "patient" else _STAY
        seen = [i for i, graph in enumerate(graphs) if any(person in triplet[:2] for triplet in graph)]
        for i, following in zip(seen, [*seen[1:], *seen[-1:]], strict=True):
            for second in range(i, following if following - i <= stay else i + 1):
                present[second].add(person)
            present[i].add(person)
    return [tuple(sorted(people)) for people in present]
