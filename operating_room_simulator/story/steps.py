"""What each person does in each step of a surgery of MM-OR and 4D-OR: the tables from which `story` draws.

Story, stage, sensors and writer of this package are theirs and no other's; `any_room` is for all others. Names
are those of their domain, with which they are compared before a story is told.

An activity is a short text, `object predicate; object predicate`; its subject is the person of the table row. An empty
text is a person who stands aside. Numbers are relative frequencies. Names are those of the domain.
Frequencies follow the published annotations roughly; rare actions are made more frequent, so that minutes of simulated
surgery show what hours of real ones show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.errors import UserError

STEPS = (
    "arrival",
    "preparation",
    "draping",
    "calibration",
    "cutting",
    "drilling",
    "sawing",
    "hammering",
    "cementing",
    "scanning",
    "suturing",
    "cleaning",
    "departure",
)
# Time of one pass through each step, relative to the others; `story` varies it by up to a third.
STEP_WEIGHTS = {
    "arrival": 18.0,
    "preparation": 13.0,
    "draping": 6.0,
    "calibration": 8.0,
    "cutting": 7.0,
    "drilling": 6.0,
    "sawing": 8.0,
    "hammering": 5.0,
    "cementing": 5.0,
    "scanning": 6.0,
    "suturing": 6.0,
    "cleaning": 5.0,
    "departure": 8.0,
}

PEOPLE = (
    *("anaesthetist", "assistant_surgeon", "circulator", "head_surgeon", "mps", "nurse", "patient", "student"),
    "unrelated_person",
)
SURGEONS = ("head_surgeon", "assistant_surgeon")
Choices = tuple[tuple[int, str], ...]
IDLE: Choices = ((1, ""),)


@dataclass(frozen=True)
class Playbook:
    """The people of a dataset and their activities."""

    people: tuple[str, ...]  # staff; the patient comes extra
    background: Mapping[str, Choices]  # from draping to cleaning, where the step says nothing else
    steps: Mapping[str, Mapping[str, Choices]]  # step -> person -> activities
    actions: Mapping[str, tuple[str, str]]  # step -> (what its surgeon does to the patient, with which tool)
    pause: str  # the surgeon between two strokes; the tool in hand is added
    helping: Choices  # the other surgeon; {surgeon} is the one who works
    things: tuple[str, ...]  # what stands in the room from first to last second
    multimodal: bool  # sound, speech, robot, tracker and station cameras; else room cameras and point clouds only
    doers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # deed -> share of each surgeon
    stay: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # person -> s of an activity: least, most


_TOOLS = {"cutting": "instrument", "cementing": "instrument", "suturing": "instrument", "cleaning": "instrument"}

MMOR_PLAYBOOK = Playbook(
    people=("nurse", "circulator", "mps", "anaesthetist", "assistant_surgeon", "head_surgeon"),
    background={
        "nurse": (
            (5, "instrument_table preparing"),
            (3, "instrument_table preparing; instrument holding"),
            (2, "instrument_table closeTo"),
            (3, "patient closeTo; head_surgeon assisting; instrument holding"),
        ),
        "circulator": (
            (6, ""),
            (2, "secondary_table closeTo"),
            (1, "secondary_table touching"),
            (2, "instrument_table closeTo"),
            (1, "monitor closeTo"),
        ),
        "mps": (
            (5, "mps_station manipulating"),
            (2, "mps_station closeTo"),
            (3, ""),
            (1, "monitor closeTo"),
            (1, "tracker closeTo"),
        ),
        "anaesthetist": (
            (5, ""),
            (2, "anesthesia_equipment closeTo"),
            (2, "anesthesia_equipment closeTo; patient closeTo"),
            (1, "anesthesia_equipment manipulating"),
        ),
    },
    steps={
        "arrival": {
            "nurse": (
                (4, "instrument_table preparing"),
                (3, "instrument_table preparing; instrument holding"),
                (2, "instrument_table closeTo"),
            ),
            "circulator": (
                (2, "instrument_table closeTo"),
                (2, "secondary_table closeTo"),
                (2, "secondary_table touching"),
                (1, ""),
            ),
            "mps": ((3, "mps_station manipulating"), (2, "mps_station closeTo"), (2, "mako_robot closeTo")),
            "anaesthetist": ((3, "anesthesia_equipment closeTo"), (1, "anesthesia_equipment manipulating")),
            "assistant_surgeon": ((2, ""), (2, "instrument_table closeTo")),
        },
        "preparation": {
            "nurse": (
                (4, "instrument_table preparing"),
                (3, "instrument_table preparing; instrument holding"),
                (2, "instrument_table closeTo"),
            ),
            "circulator": (
                (3, "patient preparing"),
                (1, "operating_table manipulating"),
                (1, "monitor touching"),
                (1, "secondary_table closeTo"),
            ),
            "anaesthetist": (
                (3, "anesthesia_equipment closeTo; patient closeTo"),
                (1, "anesthesia_equipment closeTo"),
            ),
            "assistant_surgeon": ((4, "patient preparing"), (1, "patient closeTo"), (1, "instrument_table closeTo")),
            "head_surgeon": ((2, "patient preparing"), (2, "patient closeTo"), (1, "")),
        },
        "draping": {
            "assistant_surgeon": ((4, "patient preparing"), (2, "patient touching")),  # once the drape lies
            "head_surgeon": ((3, "patient touching"), (2, "patient closeTo")),
            "nurse": ((3, "patient closeTo; assistant_surgeon assisting"), (2, "instrument_table preparing")),
        },
        "calibration": {
            "head_surgeon": (
                (4, "mako_robot calibrating; instrument holding; patient touching"),
                (1, "patient touching; instrument holding"),
            ),
            "assistant_surgeon": (
                (2, "mako_robot calibrating; patient touching"),
                (3, "patient touching"),
                (1, "patient closeTo"),
            ),
            "mps": ((5, "mps_station manipulating"), (1, "tracker closeTo"), (1, "mps_station closeTo")),
        },
        "scanning": {
            "circulator": ((5, "c_arm manipulating; patient scanning"), (1, "c_arm manipulating")),
            "head_surgeon": ((3, ""), (1, "monitor closeTo")),
            "assistant_surgeon": ((2, "patient closeTo"), (2, "")),
            "nurse": ((3, "instrument_table closeTo"), (1, "instrument_table preparing")),
        },
        "departure": {
            "nurse": ((3, "instrument_table preparing"), (2, "instrument_table closeTo"), (1, "")),
            "circulator": ((3, "operating_table manipulating"), (1, "patient closeTo")),
            "anaesthetist": (
                (3, "anesthesia_equipment closeTo; patient closeTo"),
                (1, "anesthesia_equipment closeTo"),
            ),
            "mps": ((2, "mps_station manipulating"), (2, "mako_robot manipulating"), (1, "mps_station closeTo")),
            "assistant_surgeon": ((2, "patient closeTo"), (1, "")),
            "head_surgeon": ((1, "patient closeTo"), (2, "")),
        },
    },
    actions={
        **{step: (step, tool) for step, tool in _TOOLS.items()},
        "drilling": ("drilling", "drill"),
        "sawing": ("sawing", "saw"),
        "hammering": ("hammering", "hammer"),
    },
    pause="patient touching",
    helping=(
        (2, "patient touching; {surgeon} assisting; instrument holding"),
        (1, "patient touching; {surgeon} assisting"),
        (2, "patient touching; instrument holding"),
        (2, "patient touching"),
        (3, "patient closeTo"),
    ),
    things=(
        *("operating_table", "instrument_table", "secondary_table", "anesthesia_equipment", "monitor"),
        *("mps_station", "mako_robot", "tracker", "instrument", "drill", "saw", "hammer"),
    ),
    multimodal=True,
)

FOURDOR_PLAYBOOK = Playbook(
    people=("circulator", "anaesthetist", "assistant_surgeon", "head_surgeon"),
    background={
        "circulator": (
            (4, "secondary_table touching"),
            (3, "secondary_table closeTo"),
            (2, "instrument_table closeTo"),
            (1, "instrument holding; secondary_table closeTo"),
            (2, ""),
        ),
        "anaesthetist": (
            (3, ""),
            (3, "anesthesia_equipment closeTo; patient closeTo"),
            (2, "anesthesia_equipment closeTo"),
        ),
    },
    steps={
        "arrival": {
            "circulator": (
                (3, "secondary_table touching"),
                (2, "secondary_table closeTo"),
                (2, "instrument_table closeTo"),
            ),
            "anaesthetist": ((3, "anesthesia_equipment closeTo"), (1, "secondary_table closeTo")),
            "assistant_surgeon": ((3, "instrument_table touching"), (3, "instrument_table closeTo"), (1, "")),
        },
        "preparation": {
            "circulator": ((3, "patient preparing"), (1, "operating_table manipulating"), (2, "patient closeTo")),
            "anaesthetist": ((2, "patient preparing"), (3, "patient closeTo"), (1, "operating_table manipulating")),
            "assistant_surgeon": ((4, "patient preparing"), (2, "instrument_table touching")),
            "head_surgeon": ((4, "patient preparing"), (1, "patient closeTo")),
        },
        "departure": {
            "circulator": ((3, "operating_table manipulating"), (2, "secondary_table closeTo")),
            "anaesthetist": ((3, "patient closeTo"), (1, "operating_table manipulating")),
            "assistant_surgeon": ((2, "instrument_table touching"), (1, "patient closeTo"), (1, "")),
            "head_surgeon": ((1, "secondary_table closeTo"), (2, "")),
        },
    },
    actions={
        **{step: (step, tool) for step, tool in _TOOLS.items()},
        **{step: (step, "instrument") for step in ("drilling", "sawing", "hammering")},
    },
    pause="patient closeTo",
    helping=(
        (4, "patient closeTo; instrument_table closeTo"),
        (3, "patient closeTo; instrument_table closeTo; instrument holding"),
        (3, "patient closeTo; {surgeon} assisting; instrument holding"),
        (1, "instrument_table touching"),
    ),
    things=("operating_table", "instrument_table", "secondary_table", "anesthesia_equipment", "instrument"),
    multimodal=False,
)

PLAYBOOKS = {"MMOR": MMOR_PLAYBOOK, "4DOR": FOURDOR_PLAYBOOK}  # by dataset
ROBOTIC = MMOR_PLAYBOOK  # the one with all steps

# The robot is set up by nurse and MPS before the first cut: the published phases in order, with what they do.
ROBOT_PHASES: tuple[tuple[str, dict[str, str]], ...] = (
    ("Turn on", {"mps": "mps_station manipulating"}),
    ("Initial Calibration by MPS", {"mps": "mako_robot calibrating"}),
    ("Dressing the robot, to make it sterile", {"mps": "mako_robot closeTo", "nurse": "mako_robot manipulating"}),
    ("Install the Saw by nurse", {"nurse": "mako_robot manipulating; saw holding"}),
    ("Install base array by nurse", {"nurse": "mako_robot manipulating; instrument holding"}),
    ("Install calibration array", {"nurse": "mako_robot touching; instrument holding"}),
    ("Calibrate the robot by nurse", {"nurse": "mako_robot calibrating", "mps": "mps_station manipulating"}),
    ("Remove calibration array", {"nurse": "mako_robot touching"}),
    ("Install actual Saw tip", {"nurse": "mako_robot touching; saw holding"}),
)

# Who else may come in, and what they do there.
GUESTS: dict[str, Choices] = {
    "student": ((1, ""), (2, "mps_station closeTo"), (2, "secondary_table closeTo"), (1, "monitor closeTo")),
    "unrelated_person": ((1, ""), (2, "instrument_table closeTo"), (1, "anesthesia_equipment closeTo")),
}
# Breaches of sterility: somebody unsterile at the sterile table, or somebody sterile at an unsterile thing.
BREACHES: tuple[tuple[str, str], ...] = (
    ("circulator", "instrument_table touching"),
    ("mps", "instrument_table touching"),
    ("unrelated_person", "instrument_table touching"),
    ("student", "instrument_table touching"),
    ("anaesthetist", "instrument_table touching"),
    ("head_surgeon", "monitor touching"),
    ("assistant_surgeon", "secondary_table touching"),
    ("nurse", "secondary_table touching"),
)


def playbook_of(take: Take) -> Playbook:
    """The people of a take's dataset and their activities."""
    return PLAYBOOKS[take.dataset]


def require_names(domain: Domain) -> None:
    """Before a story is told: its names are those of the domain that labels and files go by.

    Raises:
        UserError: the domain has other people, entities, predicates or phases of the robot.
    """
    language = domain.language
    books = [book for name, book in PLAYBOOKS.items() if name in domain.datasets]
    activities = (
        {
            text
            for book in books
            for choices in (
                *book.background.values(),
                *(c for step in book.steps.values() for c in step.values()),
                book.helping,
            )
            for _, text in choices
        }
        | {text for _, activities in ROBOT_PHASES for text in activities.values()}
        | {text for _, text in BREACHES}
    )
    parts = [part.split() for text in activities for part in text.split("; ") if part]
    entities = {name for part in parts for name in part[:1]} - {"{surgeon}"}
    unknown = [
        *sorted(set(PEOPLE) - set(language.people)),
        *sorted(entities - set(language.entities)),
        *sorted({predicate for _, predicate in parts} - set(language.predicates)),
        *(phase for phase, _ in ROBOT_PHASES if phase not in domain.task("robot_phase").spellings),
    ]
    if unknown:
        raise UserError(f"domain {domain.name}: the simulated surgery has {unknown[0]!r}, which this domain has not")
