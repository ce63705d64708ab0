"""A surgery as a sequence of scene graphs, one per second: the scripted kind, and what both kinds share.

Everything else of the simulator (room, sound, signals, files) is made from these moments. Graphs obey the consistency
rules of the data specification, section 3, so that converting the written labels gives the same triplets back.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.raw_labels import complete
from operating_room.scores.downstream_rules import next_actions, our_rules
from operating_room.scores.sterility import find_breaches
from operating_room_simulator.story.habits import habitual
from operating_room_simulator.story.news import News, draw_news
from operating_room_simulator.story.steps import (
    BREACHES,
    GUESTS,
    IDLE,
    PEOPLE,
    ROBOT_PHASES,
    STEP_WEIGHTS,
    STEPS,
    SURGEONS,
    Choices,
    Playbook,
    playbook_of,
    require_names,
)

MIN_SECONDS = 40
_STAY = (3, 12)  # s that an activity is kept, at least and at most
_WAY = 2  # s that somebody walks there before sterility is broken, and away, so that it is seen in each of its seconds
_BONE_WORK = ("calibration", "drilling", "sawing", "hammering")
__all__ = ["MIN_SECONDS", "STEPS", "Moment", "Surgery", "closed", "script_surgery"]


@dataclass(frozen=True)
class Moment:
    """One second of a surgery."""

    second: int  # position in the take, from 0
    step: str  # one of STEPS
    triplets: tuple[Triplet, ...]  # sorted; at most one per ordered pair
    people: tuple[str, ...]  # who is in the room (patient included), also those without a relation
    things: tuple[str, ...]  # what else is in the room
    next_action: tuple[str, int] | None  # label and seconds until it starts; None after the last one
    robot_phase: str  # published phase name; empty in 4D-OR
    breaches: tuple[Triplet, ...]  # relations that break sterility


@dataclass(frozen=True)
class Surgery:
    """A take to be simulated; `seed` also decides room, light, bodies and voices."""

    take: Take
    seed: int
    moments: tuple[Moment, ...]
    news: News | None = None  # which sense tells what; None: every sense tells what it can
    breaches: int | None = None  # how often somebody was to break sterility; None: as often as it is usual


def script_surgery(take: Take, seed: int, seconds: int, news: bool = False, breaches: int | None = None) -> Surgery:
    """Make up a surgery of `seconds` moments; the same take, seed and length give the same surgery.

    Args:
        take: the take to be told.
        seed: decides everything else.
        seconds: how long it is.
        news: in a richer room, where each sense has something of its own to tell and people have real habits.
        breaches: how often somebody breaks sterility for some seconds while the patient is open, to learn from;
            two at once by one person count once. None: about once in two minutes.

    Raises:
        UserError: `seconds` is too short for all steps, or nobody of the take's dataset breaks sterility.
    """
    if seconds < MIN_SECONDS:
        raise UserError(
            f"a surgery of {seconds} s is too short for its {len(STEPS)} steps; ask for {MIN_SECONDS} or more"
        )
    rng = random.Random(f"story {take.sample_name} {seed}")
    playbook = habitual(take) if news else playbook_of(take)
    if breaches is not None and not playbook.multimodal:
        raise UserError(f"nobody breaks sterility in simulated takes of {take.dataset}; leave out take {take.name}")
    require_names(mmor())
    steps = _timetable(rng, playbook.multimodal, seconds)
    first = {step: steps.index(step) for step in reversed(steps)}
    patient_in, patient_out = first["preparation"], seconds - (seconds - first["departure"]) // 2
    tracks = _staff_tracks(rng, playbook, steps, patient_in, patient_out)
    if playbook.multimodal:
        phases = _set_up_robot(rng, tracks, seconds, min(first["cutting"], first["calibration"]))
        _break_sterility(rng, tracks, range(first["cutting"], min(first["suturing"], first["departure"])), breaches)
    else:
        phases = [""] * seconds
    drape = _drape(tracks, steps, first) if "draping" in first else range(0)
    if news:
        _carry(rng, tracks, steps)
    at_table = _BONE_WORK if news else ("calibration", "sawing")  # steps in which the robot stands there

    graphs, people = [], []
    for second, step in enumerate(steps):
        present = [person for person, track in tracks.items() if track[second] is not None]
        relations = [relation for person in present for relation in _activity(person, tracks[person][second] or "")]
        if patient_in <= second < patient_out:
            present.append("patient")
            relations += _standing_relations(playbook.multimodal, step in at_table, relations, second in drape)
        known = {*present, *playbook.things, "drape", "c_arm"}
        if "patient" not in present:
            known.remove("operating_table")  # in the labels, table and patient always occur together
        graphs.append(closed(relation for relation in relations if relation.object in known))
        people.append(tuple(sorted(present)))
    moments = assemble(take, steps, graphs, people, phases)
    return Surgery(take, seed, moments, draw_news(take, seed, seconds) if news else None, breaches)


def closed(relations: Iterable[Triplet]) -> tuple[Triplet, ...]:
    """Sorted graph with the relations that label conversion adds; of several for one ordered pair the first stays."""
    graph: dict[tuple[str, str], str] = {}
    for subject, object_, predicate in relations:
        graph.setdefault((subject, object_), predicate)
    return tuple(sorted(complete({Triplet(*pair, predicate) for pair, predicate in graph.items()})))


def assemble(
    take: Take,
    steps: Sequence[str],
    graphs: Sequence[tuple[Triplet, ...]],
    people: Sequence[tuple[str, ...]],
    phases: Sequence[str],
) -> tuple[Moment, ...]:
    """Moments with their derived labels: what is in the room, next action, breaches."""
    standing = playbook_of(take).things
    rules = our_rules()
    actions, broken = next_actions(graphs, rules.next_action), find_breaches(graphs, rules.sterility_breach)
    derived = zip(graphs, actions, broken, strict=True)
    return tuple(
        Moment(
            second=second,
            step=steps[second],
            triplets=graph,
            people=people[second],
            things=tuple(sorted({*standing, *(name for t in graph for name in t[:2])} - set(PEOPLE))),
            next_action=action,
            robot_phase=phases[second],
            breaches=breaches,
        )
        for second, (graph, action, breaches) in enumerate(derived)
    )


def _timetable(rng: random.Random, multimodal: bool, seconds: int) -> list[str]:
    """The step of each second: order, repetitions and durations vary, every step gets at least 2 s."""
    bone = ["drilling", "sawing", "hammering"]
    if rng.random() < 0.4:
        rng.shuffle(bone)
    if seconds >= 240:  # long surgeries come back to the bone
        bone += rng.sample(bone, k=rng.randint(1, 3))
    core = ["cutting", *(step for step, _ in itertools.groupby(bone)), "cementing"]
    closing = ["suturing", "cleaning"] if rng.random() < 0.6 else ["cleaning", "suturing"]
    opening = ["arrival", "preparation"]
    if multimodal:
        opening.append("draping")
        core.insert(rng.choice((0, 1, 2)), "calibration")
        if rng.random() < 0.85:
            core.insert(rng.choice((0, len(core))), "scanning")
    plan = [*opening, *core, *closing, "departure"]
    weights = [STEP_WEIGHTS[step] * rng.uniform(0.67, 1.33) / plan.count(step) ** 0.5 for step in plan]
    spare = seconds - 2 * len(plan)
    ends = [2 * (i + 1) + round(spare * part / sum(weights)) for i, part in enumerate(itertools.accumulate(weights))]
    lengths = [end - start for start, end in itertools.pairwise((0, *ends))]
    return [step for step, length in zip(plan, lengths, strict=True) for _ in range(length)]


def _staff_tracks(
    rng: random.Random, playbook: Playbook, steps: Sequence[str], patient_in: int, patient_out: int
) -> dict[str, list[str | None]]:
    """Activity of each person in each second; None while the person is not in the room."""
    seconds = len(steps)
    tracks: dict[str, list[str | None]] = {person: [] for person in playbook.people}
    roles = dict.fromkeys(playbook.actions, "head_surgeon")
    for step in ("suturing", "cleaning"):
        roles[step] = rng.choice(SURGEONS)
    for step, shares in playbook.doers.items():
        (roles[step],) = rng.choices(list(shares), list(shares.values()))
    for step, run in itertools.groupby(steps):
        length = len(list(run))
        for person, track in tracks.items():
            if step in playbook.actions and person in SURGEONS:
                track += _surgeon(rng, playbook, step, person, roles[step], length)
            else:
                track += _draw(rng, _choices(playbook, step, person), length, *playbook.stay.get(person, _STAY))
        if step in playbook.actions and length >= 8 and "nurse" in tracks:
            tool = playbook.actions[step][1]  # the tool is handed over before the first stroke
            tracks["nurse"][-length : 2 - length] = [f"patient closeTo; head_surgeon assisting; {tool} holding"] * 2
            if roles[step] == "head_surgeon":
                tracks["head_surgeon"][-length : 2 - length] = [playbook.pause] * 2
    for at in (patient_in, patient_in + 1, patient_out - 2, patient_out - 1):  # the table is rolled in and out
        tracks["circulator"][at] = "operating_table manipulating"
    _come_and_go(rng, tracks, patient_in, patient_out, seconds)
    for guest, choices in GUESTS.items():
        if "mps" in tracks and rng.random() < 0.7:
            start = rng.randint(0, seconds * 2 // 3)
            end = min(seconds, start + rng.randint(8, 8 + seconds // 2))
            tracks[guest] = [None] * start + list(_draw(rng, choices, end - start)) + [None] * (seconds - end)
    return tracks


def _choices(playbook: Playbook, step: str, person: str) -> Choices:
    return playbook.steps.get(step, {}).get(person) or playbook.background.get(person) or IDLE


def _draw(
    rng: random.Random, choices: Choices, length: int, least: int = _STAY[0], most: int = _STAY[1]
) -> list[str | None]:
    """`length` seconds of activities, each kept for `least` to `most` s."""
    weights = [weight for weight, _ in choices]
    activities = [activity for _, activity in choices]
    track: list[str | None] = []
    while len(track) < length:
        track += rng.choices(activities, weights) * rng.randint(least, most)
    return track[:length]


def _surgeon(
    rng: random.Random, playbook: Playbook, step: str, person: str, surgeon: str, length: int
) -> list[str | None]:
    """A surgeon during an action on the patient: the one who works, with short pauses, or the one who helps."""
    if person != surgeon:
        return _draw(rng, tuple((weight, text.format(surgeon=surgeon)) for weight, text in playbook.helping), length)
    predicate, tool = playbook.actions[step]
    work = f"patient {predicate}; {tool} holding"
    if step == "sawing" and "mako_robot" in playbook.things:
        work += "; mako_robot manipulating"
    track: list[str | None] = []
    while len(track) < length:
        track += [work] * rng.randint(7, 20) + [f"{playbook.pause}; {tool} holding"] * rng.randint(1, 4)
    return track[:length]


def _come_and_go(
    rng: random.Random, tracks: Mapping[str, list[str | None]], patient_in: int, patient_out: int, seconds: int
) -> None:
    """Take people out of the room before they arrive and after they leave, the surgeons last and first."""
    after = seconds - patient_out
    for person, track in tracks.items():
        arrival = {"head_surgeon": 0.9, "assistant_surgeon": 0.6, "anaesthetist": 0.4}.get(person, 0.05)
        start = int(patient_in * arrival * rng.uniform(0.5, 1.0))
        end = patient_out + int(after * rng.uniform(0.2, 0.9))
        if person in SURGEONS:
            end = patient_out - rng.randint(1, 1 + after)
        for second in itertools.chain(range(start), range(end, seconds)):
            track[second] = None


def _set_up_robot(rng: random.Random, tracks: Mapping[str, list[str | None]], seconds: int, end: int) -> list[str]:
    """Spread the robot phases over the time until `end`; nurse and MPS work on the robot in most of each."""
    weights = [rng.uniform(0.7, 1.3) for _ in ROBOT_PHASES]
    ends = [round(end * part / sum(weights)) for part in itertools.accumulate(weights)]
    phases: list[str] = []
    for (phase, activities), stop in zip(ROBOT_PHASES, ends, strict=True):
        start = len(phases)
        phases += [phase] * (stop - start)
        busy = start + max(1, round((stop - start) * rng.uniform(0.6, 0.9)))
        for person, activity in activities.items():
            for second in range(start, min(busy, stop)):
                if tracks[person][second] is not None:
                    tracks[person][second] = activity
    return phases + [ROBOT_PHASES[-1][0]] * (seconds - end)


def _drape(tracks: Mapping[str, list[str | None]], steps: Sequence[str], first: Mapping[str, int]) -> range:
    """When the drape lies on the patient; in the first half of the draping step an assistant carries it."""
    start = first["draping"] + steps.count("draping") // 2
    tracks["assistant_surgeon"][first["draping"] : start] = ["drape holding; patient closeTo"] * (
        start - first["draping"]
    )
    return range(start, first["departure"] + 2)


def _break_sterility(
    rng: random.Random, tracks: Mapping[str, list[str | None]], when: range, asked: int | None
) -> None:
    """Let somebody break sterility for 2 to 5 s, as often as asked, or about once in two minutes, sometimes never."""
    activities = {activity for _, activity in BREACHES}
    usual = rng.choices((0, 1, 2), (2, 5, 3))[0] * max(1, len(when) // 120)
    for _ in range(usual if asked is None else asked):
        start = rng.choice(when)
        present = [who for who, track in tracks.items() if track[start] is not None]
        person, activity = rng.choice([(who, what) for who, what in BREACHES if who in present])
        stop = min(start + rng.randint(2, 5), when.stop)
        for second in range(max(start - _WAY, when.start), min(stop + _WAY, when.stop)):
            if start <= second < stop and tracks[person][second] is not None:
                tracks[person][second] = activity
            elif tracks[person][second] not in (None, *activities):
                tracks[person][second] = ""


def _carry(rng: random.Random, tracks: Mapping[str, list[str | None]], steps: Sequence[str]) -> None:
    """Let the circulator take a tool off a table and carry it about, once in 40 s."""
    track = tracks["circulator"]
    robotic = "mps" in tracks
    for _ in range(max(1, len(steps) // 40)):
        start = rng.randrange(len(steps))
        end = min(start + rng.randint(7, 14), len(steps))
        now = set(steps[start:end])
        free = [tool for tool, step in (("drill", "drilling"), ("hammer", "hammering")) if step not in now]
        tool = rng.choice(["instrument", *free] if robotic else ["instrument"])
        for second in range(start, end):
            if (doing := track[second]) is not None and "manipulating" not in doing:
                taking = "secondary_table touching; " if second < start + 2 else ""
                track[second] = f"{taking}{tool} holding"


def _activity(person: str, text: str) -> list[Triplet]:
    return [Triplet(person, *part.split()) for part in text.split("; ") if part]


def _standing_relations(multimodal: bool, robot: bool, relations: Sequence[Triplet], draped: bool) -> list[Triplet]:
    """Relations of things among each other while the patient is in the room."""
    if not multimodal:
        return [Triplet("patient", "anesthesia_equipment", "closeTo")]
    standing = []
    if draped:
        standing += [Triplet("drape", "patient", "lyingOn"), Triplet("drape", "operating_table", "lyingOn")]
    if robot:
        standing.append(Triplet("mako_robot", "patient", "closeTo"))
    if any(relation.predicate == "scanning" for relation in relations):
        standing.append(Triplet("c_arm", "patient", "closeTo"))
    return standing
