"""What a model is asked: the human prompt with its metadata blocks, the conversation around it, and its pictures.

Data specification, sections 4.1 (pictures), 4.2 and 4.3 (text) and 10 (downstream questions). Training and evaluation
use the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from operating_room import layout
from operating_room.dataset import Timepoint
from operating_room.errors import UserError
from operating_room.layout import ROBOT_SCREEN
from operating_room.readers import read_json
from operating_room.scene_graph import Triplet, target_text
from operating_room.takes import FOURDOR
from operating_room.vocabulary import PREDICATES, PROMPT_ENTITIES, TRACKER_OBJECTS

IMAGE_MARK = "<image>"  # where the visual tokens go
MEMORY_START, MEMORY_END = "<memory_start>: ", "<memory_end>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QUESTION = (
    f"Entities: [{', '.join(PROMPT_ENTITIES)}]. Predicates: [{', '.join(PREDICATES)}]. "
    "Given the following scene graph memory representation, generate a scene graph for timepoint T. "
    'The output should strictly be a list of triplets, each in the format "entity1,entity2,predicate;". '
    "Do not provide a narrative or descriptive text."
)
BLOCKS = ("robot_metadata", "tracker_metadata", "speech_transcript")  # as the markers name them, in prompt order

# Camera numbers in slot order; the picture in the first slot provides the visual tokens that survive the pooler.
FOURDOR_ROOM = (2, 1, 3, 5)
MMOR_ROOM = (1, 4, 5, 2, 3)
STATION_TRAINING = (2, 0, 1, 3)
STATION_EVALUATION = (2, 0, 3)  # stand in for missing room cameras


def human_prompt(
    robot: Mapping[str, Any] | None, tracker: Mapping[str, Any] | None, speech: str | None, memory: str | None
) -> str:
    """The user's turn: image placeholder, memory, metadata, and the question for the scene graph.

    Each block stands once, whatever its text contains; the published code inserts blocks by replacing text and repeats
    them where a transcript happens to hold `Entities: ` or `<image>` (section 11, fix 5).

    Args:
        robot: parts of the robot's screen, key -> part with `type` and `template_name`.
        tracker: one element of a `take_tracks` file, with its `unique_id_dicts`.
        speech: transcript of the last seconds.
        memory: text of `operating_room.memory`. None means no block, as for the others; the question mentions a memory
            anyway (section 11, mirror 5).

    Raises:
        UserError: a tracker id that is in no published list, or a part or tool without one of its fields.
    """
    remembered = "" if memory is None else f"{MEMORY_START}{memory}{MEMORY_END}.\n"
    return f"{IMAGE_MARK}\n{remembered}{''.join(metadata_blocks(robot, tracker, speech))}{QUESTION}"


def metadata_blocks(
    robot: Mapping[str, Any] | None, tracker: Mapping[str, Any] | None, speech: str | None
) -> list[str]:
    """The blocks of a prompt that are present, in its order; an empty block is present."""
    texts = (
        None if robot is None else _robot_text(robot),
        None if tracker is None else _tracker_text(tracker),
        speech,
    )
    return [f"<{name}_start>: {text} <{name}_end>. " for name, text in zip(BLOCKS, texts) if text is not None]


def drop_blocks(prompt: str, probability: float, generator: Random) -> str:
    """Leave out each metadata block with a probability, as in training (section 4.3); the memory always stays.

    One number is drawn per kind of block, whether the prompt has it or not.
    """
    return without_blocks(prompt, [name for name in BLOCKS if generator.random() < probability])


def without_blocks(prompt: str, names: Iterable[str]) -> str:
    """The prompt without these metadata blocks (names of `BLOCKS`)."""
    for name in names:
        prompt = re.sub(rf"<{name}_start>.*?<{name}_end>\. ", "", prompt, flags=re.DOTALL)
    return prompt


def timepoint_prompt(timepoint: Timepoint, memory: str | None, known: dict[Path, Any] | None = None) -> str:
    """The human prompt from the files of a timepoint.

    Args:
        timepoint: what is known.
        memory: see `human_prompt`.
        known: keeps what has been read, for those who ask for many prompts of one timepoint.

    Raises:
        UserError: a file is damaged, or its content cannot be told (see `human_prompt`).
    """
    known = {} if known is None else known
    for path, read in ((timepoint.robot_screen, read_screen), (timepoint.transcript, read_speech)):
        if path is not None and path not in known:
            known[path] = read(path)
    robot = None if timepoint.robot_screen is None else known[timepoint.robot_screen]
    speech = None if timepoint.transcript is None else known[timepoint.transcript]
    try:
        metadata_blocks(robot, None, None)
    except UserError as error:
        raise UserError(f"{timepoint.robot_screen}: {error}") from error
    try:
        return human_prompt(robot, timepoint.tracker, speech, memory)
    except UserError as error:
        file = layout.tracks(Path(), timepoint.take)
        raise UserError(f"{timepoint.sample_id}, second {int(timepoint.time)} of {file}: {error}") from error


def conversation(prompt: str) -> str:
    """The vicuna-v1 conversation up to where the answer begins."""
    return f"{SYSTEM} USER: {prompt} ASSISTANT:"


def downstream_prompt(memory: str | None, triplets: Sequence[Triplet], task: str) -> str:
    """The user's turn of a downstream task: memory, current graph, question; no picture (section 10).

    Args:
        memory: its text; None is told as `None`, as in the published samples (section 11, mirror 4).
        triplets: the current graph.
        task: name of the task, like `next_action`.
    """
    return (
        f"{MEMORY_START}{memory}{MEMORY_END}. {target_text(triplets)}. "
        f"Given the following scene graph memory representation, predict the {task.replace('_', ' ')}. "
        "Do not provide a narrative or descriptive text."
    )


def training_pictures(timepoint: Timepoint) -> list[Path]:
    """The pictures of a training sample that exist: room views; in MM-OR also station views and the tracking camera."""
    if timepoint.take.dataset == FOURDOR:
        slots = [timepoint.room_views.get(camera) for camera in FOURDOR_ROOM]
    else:
        slots = [timepoint.room_views.get(camera) for camera in MMOR_ROOM]
        slots += [timepoint.station_views.get(camera) for camera in STATION_TRAINING]
        slots.append(timepoint.tracker_view)
    return [picture for picture in slots if picture is not None]


def evaluation_pictures(timepoint: Timepoint) -> list[Path | None]:
    """The picture slots at evaluation, at most 7; None stands for a black picture.

    4D-OR: four room views. MM-OR: five room views, or three station views if no room camera recorded, or five black
    pictures if neither did; then robot screen and tracking camera if they exist. A camera that is missing among others
    leaves its own slot black.
    """
    if timepoint.take.dataset == FOURDOR:
        return [timepoint.room_views.get(camera) for camera in FOURDOR_ROOM]
    if timepoint.room_views or not timepoint.station_views:
        slots = [timepoint.room_views.get(camera) for camera in MMOR_ROOM]
    else:
        slots = [timepoint.station_views.get(camera) for camera in STATION_EVALUATION]
    extra = (timepoint.station_views.get(ROBOT_SCREEN), timepoint.tracker_view)
    return slots + [picture for picture in extra if picture is not None]


def read_screen(path: Path) -> dict[str, Any]:
    """The parts of the robot's screen.

    Raises:
        UserError: the file is damaged or no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, not {type(value).__name__}; copy the file again")
    return value


def read_speech(path: Path) -> str:
    """The words before a timepoint.

    Raises:
        UserError: the file is damaged or of another form.
    """
    text = read_screen(path).get("text")
    if not isinstance(text, str):
        raise UserError(f"{path}: a transcript needs a string under 'text'; make the transcripts again")
    try:
        return _told(text)
    except ValueError as error:
        raise UserError(f"{path}: 'text' holds {error}; make the transcripts again") from error


def _robot_text(robot: Mapping[str, Any]) -> str:
    try:
        parts = [f"{_told(robot[key]['type'])}: {_told(robot[key]['template_name'])}, " for key in sorted(robot)]
    except (KeyError, TypeError, ValueError) as error:
        shown = str(robot)[:100]
        raise UserError(f"a screen summary needs named parts with type and template_name; got {shown}") from error
    return "".join(parts).rstrip(", ")


def _tracker_text(tracker: Mapping[str, Any]) -> str:
    try:
        tools = [_tool_text(tool) for tool in _listed(tracker["unique_id_dicts"])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        fields = "unique_id, button_state, Translation (3 numbers) and euler_rot (3 numbers)"
        shown = str(tracker)[:100]
        raise UserError(f"a tracker record needs unique_id_dicts, each with {fields}; got {shown}") from error
    return "".join(tools).rstrip("; ")


def _tool_text(tool: Mapping[str, Any]) -> str:
    name = TRACKER_OBJECTS.get(tool["unique_id"])
    if name is None:
        known = ", ".join(TRACKER_OBJECTS)
        raise UserError(f"tracker id {tool['unique_id']!r} is unknown; take_tracks may name {known}")
    x, y, z = map(_truncated, _listed(tool["Translation"]))
    a, b, c = map(_truncated, _listed(tool["euler_rot"]))
    return f"{name}: state {_told(tool['button_state'])}, translation {x} {y} {z}, euler angles {a} {b} {c}; "


def _listed(value: Any) -> list[Any]:
    """A list as it is; a text would give its characters, an object its keys. Raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _truncated(value: Any) -> int:
    """A number cut off toward zero, as published. Raises TypeError for a text of digits, too."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(value)
    return int(value)


def _told(value: Any) -> str:
    """A value of a metadata file as a prompt has it. Raises TypeError or ValueError for one that no tokenizer takes."""
    if isinstance(value, dict | list):
        raise TypeError(value)
    try:
        return str(value).encode("utf-8").decode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("half a character (a lone surrogate)") from error
