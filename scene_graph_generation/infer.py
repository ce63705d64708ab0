"""Scene graphs of takes, with the model's own memory or without (stage-2 specification, section 10)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch

from operating_room.dataset import Dataset, Timepoint
from operating_room.errors import UserError
from operating_room.fingerprints import fingerprint
from operating_room.memory import Memory, truncate
from operating_room.progress import track
from operating_room.prompts import conversation, timepoint_prompt
from operating_room.relations import save_predictions
from operating_room.scene_graph import Triplet, parse
from operating_room.takes import Take
from scene_graph_generation.answers import Answer, Answers, open_answers
from scene_graph_generation.collate import Example
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.timepoint import Evidence, ExampleReader
from scene_graph_generation.tokens import Tokens

Predictions = dict[str, list[Triplet]]  # sample id -> triplets as generated
FINGERPRINTED = 8  # numbers of each parameter that identify a model
_ANNOTATIONS = ("label_masks", "annotation")  # files of a timepoint that no model reads


class SceneGraphGenerator:
    """A model with what it needs to read timepoints and to answer.

    Args:
        model: it is moved to the device.
        tokens: its tokenizer.
        device: where it runs.
    """

    def __init__(self, model: MM2SG, tokens: Tokens, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        self._device = device
        self._tokens = tokens
        self._reader = ExampleReader(model.settings, tokens)

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights, whatever file they came from."""
        digest = sha256(repr(self.model.settings).encode())
        for name, value in self.model.state_dict().items():
            flat = value.detach().flatten()
            some = flat[:: max(1, len(flat) // FINGERPRINTED)].cpu().contiguous()
            digest.update(name.encode() + some.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def read(self, timepoint: Timepoint, memory: str | None) -> Example:
        """The question for the scene graph of a timepoint.

        Raises:
            UserError: a file of the timepoint is damaged, or its prompt does not fit the model even without memory.
        """
        known = _only(timepoint, self.model.settings.modalities)
        prompt = conversation(timepoint_prompt(known, memory))
        try:
            return self._reader(Evidence.of_timepoint(known), prompt, reserve=MAX_NEW_TOKENS)
        except UserError as error:
            raise UserError(f"{timepoint.take.sample_name}, timepoint {timepoint.frame_id}: {error}") from error

    def read_text(self, prompt: str) -> Example:
        """A question of text alone.

        Raises:
            UserError: it does not fit the model.
        """
        return self._reader(Evidence(()), conversation(prompt), reserve=MAX_NEW_TOKENS)

    def answer(self, examples: Sequence[Example]) -> list[str]:
        """The texts that the model generates for these questions, as one batch."""
        moved = [example.to(self._device) for example in examples]
        return [self._tokens.decode(ids) for ids in generate(self.model, moved, self._tokens.end_id)]


def infer(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    out: Path,
    memory: bool = True,
    batch_size: int = 8,
) -> Predictions:
    """Predict takes and write the predictions file; what an interrupted run generated is not generated again.

    Args:
        generator: the model.
        dataset: where the takes are.
        frames: take -> frame ids to predict in the order of time; None is every timepoint of the take.
        out: predictions file, sample id -> list of [subject, predicate, object] as generated. The generated texts stay
            in `<out>l` (JSON lines) beside it.
        memory: each prompt has the memory of what was predicted before in its take.
        batch_size: timepoints that are predicted at once; with memory these come from different takes.

    Raises:
        UserError: takes could not be finished (one line for each; the others are in the file), another run is writing
            `out`, or it holds the predictions of another model.
    """
    with open_answers(answers_path(out), {"model": generator.fingerprint, "memory": memory}) as answers:
        texts, problems = answer_takes(generator, dataset, frames, answers, memory, batch_size)
        predictions = {sample_id: parse(text) for sample_id, text in texts.items()}
        save_predictions(out, predictions)
    if problems:
        raise UserError("\n".join(problems))
    return predictions


def answers_path(out: Path) -> Path:
    """Where the generated texts of a results or predictions file are: `x.jsonl` beside `x.json`."""
    return out.with_suffix(".jsonl")


def answer_takes(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    answers: Answers,
    memory: bool = True,
    batch_size: int = 8,
) -> tuple[dict[str, str], list[str]]:
    """Generate the texts of all timepoints that `answers` lacks; for the arguments see `infer`.

    A stored answer holds as long as the memory and the files of its timepoint are those it was generated from.

    Returns:
        sample id -> text, and one line for each take that could not be finished; all others are.
    """
    lanes: dict[Take, Sequence[Timepoint]] = {}
    problems: dict[Take, str] = {}
    for take, wanted in frames.items():
        try:
            lanes[take] = _timepoints(dataset, take, wanted)
        except UserError as error:
            problems[take] = str(error)
    memories = {take: Memory() for take in lanes}
    groups = (_side_by_side if memory else _in_order)(list(lanes.values()), batch_size)
    texts: dict[str, str] = {}
    with shortened_memories(generator, "timepoints") as shortened:
        for group in track(list(groups), "scene graphs"):
            asked: dict[tuple[str, str], Example] = {}
            for timepoint in group:
                if timepoint.take in problems:
                    continue
                past = truncate(memories[timepoint.take].text()) if memory else None
                sample_id, question = _sample_id(timepoint), _fingerprint(timepoint, past)
                known = answers.find(sample_id, question)
                if known is not None:
                    texts[sample_id] = known
                    continue
                try:
                    asked[sample_id, question] = generator.read(timepoint, past)
                except UserError as error:
                    problems[timepoint.take] = str(error)
            if asked:
                shortened.extend(example.dropped_memory > 0 for example in asked.values())
                generated = generator.answer(list(asked.values()))
                new = [Answer(*place, text) for place, text in zip(asked, generated, strict=True)]
                answers.add(new)
                texts |= {answer.key: answer.text for answer in new}
            for timepoint in group if memory else ():
                if timepoint.take not in problems:
                    memories[timepoint.take].add(parse(texts[_sample_id(timepoint)]), int(timepoint.frame_id))
    return texts, [f"{take.sample_name} is not finished: {problem}" for take, problem in problems.items()]


@contextmanager
def shortened_memories(generator: SceneGraphGenerator, questions: str) -> Generator[list[bool]]:
    """Yields a list for whether the memory of each question was shortened; says at the end how many were.

    Args:
        generator: whose model limits the memory.
        questions: what they are called.
    """
    shortened: list[bool] = []
    try:
        yield shortened
    finally:  # also of a run that is interrupted: the next one does not ask these again
        if any(shortened):
            print(
                f"{sum(shortened)} of {len(shortened)} {questions} lost the oldest part of their memory: with it they "
                f"need more than the model's {generator.model.settings.max_length} tokens (max_length)",
                file=sys.stderr,
            )


def _fingerprint(timepoint: Timepoint, memory: str | None) -> str:
    """Of all that a model is shown: memory, tracker, and size and time of the files (their content is not read)."""
    stats = [(name, path.name, path.stat()) for name, path in timepoint.files() if name not in _ANNOTATIONS]
    seen = (f"{name} {file} {stat.st_size} {stat.st_mtime_ns}" for name, file, stat in stats)
    return fingerprint([str(memory), str(timepoint.tracker), *seen])


def _timepoints(dataset: Dataset, take: Take, wanted: Sequence[str] | None) -> Sequence[Timepoint]:
    recorded = dataset.take(take)
    return recorded.timepoints if wanted is None else [recorded.timepoint(frame) for frame in wanted]


def _in_order(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints, one take after the other."""
    everything = [timepoint for lane in lanes for timepoint in lane]
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def _side_by_side(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints of different takes, each take in the order of time; when one ends, the next one begins."""
    waiting = sorted(filter(len, lanes), key=len)
    running: list[deque[Timepoint]] = []
    while waiting or running:
        while waiting and len(running) < size:
            running.append(deque(waiting.pop()))
        yield [lane.popleft() for lane in running]
        running = [lane for lane in running if lane]


def _sample_id(timepoint: Timepoint) -> str:
    return f"{timepoint.take.sample_name}_{timepoint.frame_id}"


def _only(timepoint: Timepoint, modalities: Sequence[str]) -> Timepoint:
    """The timepoint without the text modalities that the model was not made for."""
    fields = {"robot": "robot_screen", "tracker": "tracker", "speech": "transcript"}
    return replace(timepoint, **{field: None for name, field in fields.items() if name not in modalities})
