"""The playbook as people really go by it: `habits.yaml`, counted from annotations, in place of our own frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from operating_room.domain.collection import Take
from operating_room_simulator.story.steps import SURGEONS, Choices, Playbook, playbook_of

_ENOUGH = 60  # s of annotation; of less, our own table is better
_SELDOM = 0.1  # share that a surgeon has at least of a deed
# Told beside what people do in the calibration step: a hand on the robot that does not calibrate it.
_AT_THE_ROBOT: Mapping[str, Choices] = {
    "head_surgeon": ((400, "mako_robot touching; instrument holding; patient touching"),),
    "assistant_surgeon": ((300, "mako_robot touching; patient touching"),),
}


@cache
def habitual(take: Take) -> Playbook:
    """The playbook of a take's dataset with counted activities, durations and surgeons; events stay as scripted."""
    ours = playbook_of(take)
    table = yaml.safe_load(Path(__file__).with_name("habits.yaml").read_text())[take.dataset]
    people: Mapping[str, Mapping[str, Any]] = table["activities"]
    background = {
        person: choices for person in people if person not in SURGEONS and (choices := _counted(people, person))
    }
    steps = {step: dict(persons) for step, persons in ours.steps.items()}
    for step in ("arrival", "preparation", "departure", "calibration"):
        for person in people:
            if step in steps and (choices := _counted(people, person, step)):
                steps[step][person] = choices
    if ours.multimodal:  # the script says when the robot is calibrated
        for person, choices in _AT_THE_ROBOT.items():
            calibrating = tuple((400 * n, text) for n, text in ours.steps["calibration"][person] if "calib" in text)
            steps["calibration"][person] = (*calibrating, *choices, *steps["calibration"][person])
    helping = tuple(choice for person in SURGEONS for choice in _counted(people, person, "helping"))
    doers = {
        deed: {person: max(_SELDOM, shares.get(person, 0.0)) for person in SURGEONS}
        for deed, shares in table["doers"].items()
    }
    stay = {person: (max(1, times["stay_s"][0]), max(4, 2 * times["stay_s"][2])) for person, times in people.items()}
    return replace(
        ours,
        background={**ours.background, **background},
        steps=steps,
        helping=helping or ours.helping,
        doers=doers,
        stay=stay,
    )


def _counted(people: Mapping[str, Mapping[str, Any]], person: str, part: str = "background") -> Choices:
    """Activities with their shares in thousandths; none where too little was annotated."""
    shares = people[person].get(part, {"seconds": 0})
    if shares["seconds"] < _ENOUGH:
        return ()
    return tuple((round(1000 * share), text) for text, share in shares.items() if text != "seconds")
