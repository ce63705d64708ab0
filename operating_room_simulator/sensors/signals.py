"""What the robot's screen, the tracking camera's tool list and the microphones' transcript say of each second.

Which predicate can be told from which of them is written down in docs/simulator.md.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from operating_room.domain.domain import mmor
from operating_room.files.readers import Subtitle
from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.story.phrases import ANNOUNCED, CHATTER, HAND_OVER, PHRASES
from operating_room_simulator.story.steps import ROBOT_PHASES, STEPS
from operating_room_simulator.story.story import Moment, Surgery

# The page that the robot shows: by phase until it is set up, then by step.
_PHASE_PAGES = dict(
    zip(
        (phase for phase, _ in ROBOT_PHASES),
        (
            *("system start", "arm check", "drape the arm", "mount the saw", "mount base array"),
            *("mount calibration array", "calibration", "remove calibration array", "saw tip check"),
        ),
        strict=True,
    )
)
_STEP_PAGES = {
    "calibration": "bone registration",
    "cutting": "place bone pins",
    "drilling": "place bone pins",
    "sawing": "resection",
    "hammering": "implant trial",
    "cementing": "implant trial",
    "scanning": "image import",
    "suturing": "case review",
    "cleaning": "case review",
    "departure": "shut down",
}
_BASE_ARRAY, _CALIBRATION_ARRAY, _CALIBRATION = (phase for phase, _ in ROBOT_PHASES[4:7])  # what is installed, and used
_SET_UP = ("arrival", "preparation", "draping")  # steps in which the page follows the phase
_DEEDS = ("drilling", "sawing", "hammering")  # said aloud, too, where there is news
_MISSED = 0.04  # of pop-ups are not recognised on the filmed screen, of tools are hidden from the tracking camera


def screen_parts(moment: Moment) -> list[tuple[str, str]]:
    """(type, template name) of everything on the robot's screen: the page first, then pop-ups."""
    page = _PHASE_PAGES[moment.robot_phase] if moment.step in _SET_UP else _STEP_PAGES[moment.step]
    parts = [("main", page)]
    for subject, object_, predicate in moment.triplets:
        if predicate == "calibrating":
            who = {"head_surgeon": "femur points", "assistant_surgeon": "tibia points"}.get(subject, "array points")
            parts.append(("popup", who))
        elif (object_, predicate) == ("mps_station", "manipulating"):
            parts.append(("popup", "operator menu"))
        elif (object_, predicate) == ("mako_robot", "manipulating") and page == _STEP_PAGES["sawing"]:
            parts.append(("popup", "cutting active"))
    return list(dict.fromkeys(parts))


def screen_summaries(surgery: Surgery) -> list[dict[str, dict[str, Any]]]:
    """One robot-screen summary for each moment: numbered parts with type, template name and matching score."""
    rng = _generator(surgery, "screen")
    side = ("popup", f"patient, {rng.choice(('left', 'right'))} knee")
    summaries = []
    for moment in surgery.moments:
        page, *popups = screen_parts(moment)
        seen = [page, *(part for part in popups if rng.random() > _MISSED)]
        if "patient" in moment.people:
            seen.append(side)
        summaries.append(
            {
                str(i): {"type": kind, "template_name": name, "score": round(rng.uniform(0.6, 0.99), 3)}
                for i, (kind, name) in enumerate(seen)
            }
        )
    return summaries


def screen_picture(moment: Moment, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """The robot's screen as its camera films it: a coloured page with progress bar, and a box for each pop-up."""
    from PIL import Image, ImageDraw, ImageFont

    parts = screen_parts(moment)
    pages = [*_PHASE_PAGES.values(), *dict.fromkeys(_STEP_PAGES.values())]
    number = pages.index(parts[0][1])
    hue = number * 255 // len(pages)
    picture = Image.new("RGB", (width, height), (16, 18, 24))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(8, height // 14))
    colors = [tuple(Image.new("HSV", (1, 1), (hue, 150, v)).convert("RGB").tobytes()) for v in (70, 210)]
    margin = min(height // 16, width // 4)  # of a tall picture, too, half is left
    draw.rectangle((margin, margin, width - margin, height - margin), fill=colors[0])
    draw.rectangle((margin, margin, width - margin, 3 * margin), fill=colors[1])
    draw.text((2 * margin, margin), parts[0][1], fill=(10, 10, 10), font=font)
    done = margin + (width - 2 * margin) * (number + 1) // len(pages)
    draw.rectangle((margin, height - 2 * margin, done, height - margin), fill=colors[1])
    _draw_bones(draw, moment, width, height)
    for i, (_, name) in enumerate(parts[1:3]):
        top = (5 + 3 * i) * margin
        draw.rectangle((2 * margin, top, width // 2, top + 5 * margin // 2), fill=(240, 240, 230))
        draw.text((2 * margin + 4, top + 2), name, fill=(150, 20, 20), font=font)
    return np.asarray(picture)


def _draw_bones(draw: Any, moment: Moment, width: int, height: int) -> None:
    """The planned knee: two bones, with the registered points while the robot is calibrated."""
    x, y, size = 3 * width // 4, height // 2, height // 6
    if moment.step in _SET_UP:
        draw.rectangle((x - size, y - size // 3, x + size, y + size // 3), outline=(200, 200, 200), width=2)
        return
    for sign in (-1, 1):
        draw.ellipse(
            (x - size // 2, y + sign * size - size, x + size // 2, y + sign * size + size), fill=(222, 214, 190)
        )
    if any(triplet.predicate == "calibrating" for triplet in moment.triplets):
        for i in range(1 + moment.second % 12):
            px, py = x + size * np.cos(2.4 * i) / 3, y + size * (i / 6 - 1)
            draw.ellipse((px - 2, py - 2, px + 2, py + 2), fill=(20, 190, 60))


@cache
def _tool_ids() -> dict[str, str]:
    """The tracker's id of each tool by name; of two of one name, the first."""
    return {name: tool for tool, name in reversed(list(mmor().language.tools.items()))}


def _spare_calibration_array() -> str:
    """The id of the one that stays on the robot for the MPS's own calibration."""
    return list(mmor().language.tools)[-1]


def tracker_track(surgery: Surgery, start: int = 0) -> list[dict[str, Any]]:
    """The tracked tools of a take, indexed by integer time stamp; the first moment has time stamp `start`.

    The base array is seen once it sits on the robot, the bone trackers once they are pinned, the calibration arrays
    and the probe tips while somebody calibrates. Positions in mm in the frame of the camera, angles in degrees.
    """
    rng = _generator(surgery, "tracker")
    known, ids = mmor().language.tools, _tool_ids()
    home = {tool: [rng.uniform(-300, 300), rng.uniform(-200, 200), rng.uniform(1100, 1700)] for tool in known}
    turn = {tool: [rng.uniform(-170, 170) for _ in range(3)] for tool in known}
    track: list[dict[str, Any]] = [{"unique_id_dicts": [], "timestamp": time} for time in range(start)]
    pinned = False
    for moment in surgery.moments:
        done = {(subject, predicate) for subject, _, predicate in moment.triplets}
        pinned |= bool(done & {("head_surgeon", "drilling"), ("head_surgeon", "calibrating")})
        tools = []
        for tool in _visible_tools(moment, pinned):
            if rng.random() < _MISSED:
                continue
            pressed = tool in (ids["blue_tip"], ids["green_tip"]) or _is_calibrated_by("nurse", moment)
            moved = pressed or (tool == ids["base_array"] and _robot_moves(moment))
            reach = 40.0 if moved else 0.5
            tools.append(
                {
                    "unique_id": tool,
                    "button_state": "pressed" if pressed else "released",
                    "Translation": [round(value + rng.gauss(0, reach), 3) for value in home[tool]],
                    "euler_rot": [round(value + rng.gauss(0, reach / 10), 4) for value in turn[tool]],
                }
            )
        track.append({"unique_id_dicts": tools, "timestamp": start + moment.second})
    return track


def _visible_tools(moment: Moment, pinned: bool) -> list[str]:
    phases = [phase for phase, _ in ROBOT_PHASES]
    phase = phases.index(moment.robot_phase)
    tools = []
    if phase >= phases.index(_BASE_ARRAY):
        tools.append("base_array")
    if phases.index(_CALIBRATION_ARRAY) <= phase <= phases.index(_CALIBRATION):
        tools.append("calibration_array")
    if pinned and STEPS.index(moment.step) < STEPS.index("suturing"):
        tools += ["upper_tracker", "lower_tracker"]
    if _is_calibrated_by("head_surgeon", moment):
        tools.append("green_tip")
    if _is_calibrated_by("assistant_surgeon", moment):
        tools.append("blue_tip")
    ids = [_tool_ids()[name] for name in tools]
    return ids + [_spare_calibration_array()] * _is_calibrated_by("mps", moment)


def _is_calibrated_by(person: str, moment: Moment) -> bool:
    return Triplet(person, "mako_robot", "calibrating") in moment.triplets


def _robot_moves(moment: Moment) -> bool:
    return any(object_ == "mako_robot" and predicate == "manipulating" for _, object_, predicate in moment.triplets)


def subtitles(surgery: Surgery, start: int = 0) -> list[Subtitle]:
    """What is said in a take; the first moment begins `start` seconds into the recording.

    What is going on is announced as it begins and mentioned again every few seconds; tools are asked for when they are
    handed over. In between people chat about other things, now and then also about steps that are not going on.
    """
    rng = _generator(surgery, "speech")
    # Each team has its own words: some of the phrases of each kind.
    words = {kind: rng.sample(phrases, k=max(2, len(phrases) * 2 // 3)) for kind, phrases in PHRASES.items()}
    said: list[Subtitle] = []
    quiet_from, last = 0.0, ""  # s; nobody speaks before quiet_from
    topics = [_topic(moment.triplets, moment.step) for moment in surgery.moments]
    for moment, topic in zip(surgery.moments, [*topics[1:], topics[-1]], strict=True):  # who works speaks first
        announced = topic in ANNOUNCED or (surgery.news is not None and topic in _DEEDS)
        begins = announced and topic != last
        speaks = begins or (moment.second > quiet_from and rng.random() < (0.9 if announced else 0.4))
        if speaks and len(moment.people) > 1:
            tool = _handed_tool(moment)
            if tool and not begins and rng.random() < 0.6:
                text = rng.choice(HAND_OVER).format(tool=tool)
            elif topic in words and (begins or rng.random() < 0.7):
                text = rng.choice(words[topic])
            else:
                text = rng.choice(CHATTER)
            length = min(0.25 + 0.05 * len(text), 2.0)
            begin = max(quiet_from, moment.second - length * rng.uniform(0.2, 0.8), 0.0)
            said.append(Subtitle(round(start + begin, 3), round(start + begin + length, 3), text))
            quiet_from = begin + length + rng.uniform(0.2, 1.5 if announced else 4.0)
        last = topic
    return said


def srt_text(said: Sequence[Subtitle]) -> str:
    """Subtitles in the .srt format."""
    blocks = (f"{i}\n{_clock(s.start_s)} --> {_clock(s.end_s)}\n{s.text}\n" for i, s in enumerate(said, 1))
    return "\n".join(blocks)


def _topic(triplets: Sequence[Triplet], step: str) -> str:
    """What people talk about: the action that is going on, else the step."""
    predicates = {predicate for _, object_, predicate in triplets if object_ in ("patient", "mako_robot")}
    return next((topic for topic in PHRASES if topic in predicates), step)


def _handed_tool(moment: Moment) -> str | None:
    nurse = {predicate: object_ for subject, object_, predicate in moment.triplets if subject == "nurse"}
    return nurse.get("holding") if "assisting" in nurse else None


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def _generator(surgery: Surgery, use: str) -> random.Random:
    return random.Random(f"{use} {surgery.take.sample_name} {surgery.seed}")
