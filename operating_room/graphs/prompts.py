"""What a model is asked: the human prompt with its metadata blocks, and the conversation around it.

Data specification, sections 4.2 and 4.3 (text) and 10 (downstream questions). Training and evaluation use one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from operating_room.domain.domain import Task
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet, target_text

IMAGE_MARK = "<image>"  # where the visual tokens go
MEMORY_START, MEMORY_END = "<memory_start>: ", "<memory_end>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ROLES = ("USER", "ASSISTANT")
BLOCKS = ("robot_metadata", "tracker_metadata", "speech_transcript")  # as the markers name them, in prompt order
ROBOT_LOG = "robot_log"  # the block behind them where samples are asked to have it; no published prompt has
LOG_CHARACTERS = 400  # how much of it, from its end: some seconds log pages


def human_prompt(
    language: Language,
    robot: Mapping[str, Any] | None,
    tracker: Mapping[str, Any] | None,
    speech: str | None,
    memory: str | None,
    robot_log: str | None = None,
) -> str:
    """The user's turn: image placeholder, memory, metadata, and the question for the scene graph.

    Each block stands once, whatever its text contains; the published code inserts blocks by replacing text and repeats
    them where a transcript happens to hold `Entities: ` or `<image>` (section 11, fix 5).

    Args:
        language: what the question lists, and which tools the tracker may name.
        robot: parts of the robot's screen, key -> part with `type` and `template_name`.
        tracker: one element of a `take_tracks` file, with its `unique_id_dicts`.
        speech: transcript of the last seconds.
        memory: text of `graphs.memory`. None means no block, as for the others; the question mentions a memory anyway
            (section 11, mirror 5).
        robot_log: lines of the robot's low-level log, of which the last characters are told.

    Raises:
        UserError: a tracker id that is in no published list, or a part or tool without one of its fields.
    """
    remembered = "" if memory is None else f"{MEMORY_START}{memory}{MEMORY_END}.\n"
    blocks = metadata_blocks(language, robot, tracker, speech)
    if robot_log is not None:
        blocks.append(_block(ROBOT_LOG, robot_log[-LOG_CHARACTERS:]))
    return f"{IMAGE_MARK}\n{remembered}{''.join(blocks)}{language.question}"


def metadata_blocks(
    language: Language, robot: Mapping[str, Any] | None, tracker: Mapping[str, Any] | None, speech: str | None
) -> list[str]:
    """The blocks of a prompt that are present, in its order; an empty block is present."""
    texts = (
        None if robot is None else _robot_text(robot),
        None if tracker is None else _tracker_text(tracker, language.tools),
        speech,
    )
    return [_block(name, text) for name, text in zip(BLOCKS, texts) if text is not None]


def _block(name: str, text: str) -> str:
    return f"<{name}_start>: {text} <{name}_end>. "


def drop_blocks(prompt: str, probability: float, generator: Random) -> str:
    """Leave out each metadata block with a probability, as in training (section 4.3); the memory always stays.

    One number is drawn per kind of published block, there or not; one more for a log if there is one.
    """
    names = [*BLOCKS, *([ROBOT_LOG] if f"<{ROBOT_LOG}_start>" in prompt else [])]
    return without_blocks(prompt, [name for name in names if generator.random() < probability])


def without_blocks(prompt: str, names: Iterable[str]) -> str:
    """The prompt without these metadata blocks (names of `BLOCKS`, `ROBOT_LOG`)."""
    for name in names:
        prompt = re.sub(rf"<{name}_start>.*?<{name}_end>\. ", "", prompt, flags=re.DOTALL)
    return prompt


def conversation(prompt: str, roles: tuple[str, str] = ROLES) -> str:
    """The vicuna-v1 conversation up to where the answer begins; `roles` ask and answer."""
    return f"{SYSTEM} {roles[0]}: {prompt} {roles[1]}:"


def downstream_prompt(memory: str | None, triplets: Sequence[Triplet], task: Task) -> str:
    """The user's turn of a downstream task: memory, current graph, question; no picture (section 10).

    Args:
        memory: its text; None is told as `None`, as in the published samples (section 11, mirror 4).
        triplets: the current graph.
        task: in the words of the domain.
    """
    return (
        f"{MEMORY_START}{memory}{MEMORY_END}. {target_text(triplets)}. "
        f"Given the following scene graph memory representation, predict the {task.words}. "
        "Do not provide a narrative or descriptive text."
    )


def _robot_text(robot: Mapping[str, Any]) -> str:
    try:
        parts = [f"{told(robot[key]['type'])}: {told(robot[key]['template_name'])}, " for key in sorted(robot)]
    except (KeyError, TypeError, ValueError) as error:
        shown = str(robot)[:100]
        raise UserError(f"a screen summary needs named parts with type and template_name; got {shown}") from error
    return "".join(parts).rstrip(", ")


def _tracker_text(tracker: Mapping[str, Any], names: Mapping[str, str]) -> str:
    try:
        tools = [_tool_text(tool, names) for tool in _listed(tracker["unique_id_dicts"])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        fields = "unique_id, button_state, Translation (3 numbers) and euler_rot (3 numbers)"
        shown = str(tracker)[:100]
        raise UserError(f"a tracker record needs unique_id_dicts, each with {fields}; got {shown}") from error
    return "".join(tools).rstrip("; ")


def _tool_text(tool: Mapping[str, Any], names: Mapping[str, str]) -> str:
    name = names.get(tool["unique_id"])
    if name is None:
        known = ", ".join(names)
        raise UserError(f"tracker id {tool['unique_id']!r} is unknown; take_tracks may name {known}")
    x, y, z = map(_truncated, _listed(tool["Translation"]))
    a, b, c = map(_truncated, _listed(tool["euler_rot"]))
    return f"{name}: state {told(tool['button_state'])}, translation {x} {y} {z}, euler angles {a} {b} {c}; "


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


def told(value: Any) -> str:
    """A value of a metadata file as a prompt has it. Raises TypeError or ValueError for one that no tokenizer takes."""
    if isinstance(value, dict | list):
        raise TypeError(value)
    try:
        return str(value).encode("utf-8").decode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("half a character (a lone surrogate)") from error
