"""Scene graphs of takes, with the model's own memory or without (stage-2 specification, section 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from operating_room.dataset import Dataset, Timepoint
from operating_room.errors import UserError
from operating_room.memory import Memory, truncate
from operating_room.progress import track
from operating_room.prompts import conversation, timepoint_prompt
from operating_room.relations import load_predictions, save_predictions
from operating_room.scene_graph import Triplet, parse
from operating_room.takes import Take
from scene_graph_generation.collate import Example
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.timepoint import Evidence, ExampleReader
from scene_graph_generation.tokens import Tokens

Predictions = dict[str, list[Triplet]]  # sample id -> triplets as generated
SAVE_EVERY = 100  # timepoints between two writes of an unfinished file


class SceneGraphGenerator:
    """A model with what it needs to read timepoints and to answer in triplets."""

    def __init__(self, model: MM2SG, tokens: Tokens) -> None:
        self.model = model.eval()
        self._tokens = tokens
        self._read = ExampleReader(model.settings, tokens)

    def __call__(self, timepoints: Sequence[Timepoint], memories: Sequence[str | None]) -> list[list[Triplet]]:
        """The triplets of these timepoints as generated, each with its memory text.

        Raises:
            UserError: a file of a timepoint is damaged, or its prompt does not fit the model even without memory.
        """
        examples = [self._example(timepoint, memory) for timepoint, memory in zip(timepoints, memories)]
        return [parse(self._tokens.decode(ids)) for ids in generate(self.model, examples, self._tokens.end_id)]

    def _example(self, timepoint: Timepoint, memory: str | None) -> Example:
        known = _only(timepoint, self.model.settings.modalities)
        prompt = conversation(timepoint_prompt(known, memory))
        try:
            return self._read(Evidence.of_timepoint(known), prompt, reserve=MAX_NEW_TOKENS)
        except UserError as error:
            raise UserError(f"{timepoint.take.sample_name}, timepoint {timepoint.frame_id}: {error}") from error


def infer(
    generator: SceneGraphGenerator,
    dataset: Dataset,
    frames: Mapping[Take, Sequence[str] | None],
    out: Path,
    memory: bool = True,
    batch_size: int = 8,
) -> Predictions:
    """Predict takes and write the predictions file; timepoints that it already holds are not predicted again.

    Args:
        generator: the model.
        dataset: where the takes are.
        frames: take -> frame ids to predict in the order of time; None is every timepoint of the take.
        out: predictions file, sample id -> list of [subject, predicate, object] as generated.
        memory: each prompt has the memory of what was predicted before in its take.
        batch_size: timepoints that are predicted at once; with memory these come from different takes.

    Raises:
        UserError: a take or timepoint is not on disk, or a file is damaged.
    """
    predictions = load_predictions(out) if out.exists() else {}
    lanes = [_timepoints(dataset, take, wanted) for take, wanted in frames.items()]
    memories = {take: Memory() for take in frames}
    unsaved = 0
    for group in track(
        list(_side_by_side(lanes, batch_size) if memory else _in_order(lanes, batch_size)), "scene graphs"
    ):
        missing = [timepoint for timepoint in group if _sample_id(timepoint) not in predictions]
        if missing:
            texts = [truncate(memories[timepoint.take].text()) if memory else None for timepoint in missing]
            predictions.update(zip(map(_sample_id, missing), generator(missing, texts)))
            unsaved += len(missing)
        if memory:
            for timepoint in group:
                memories[timepoint.take].add(predictions[_sample_id(timepoint)], int(timepoint.frame_id))
        if unsaved >= SAVE_EVERY:
            save_predictions(out, predictions)
            unsaved = 0
    save_predictions(out, predictions)
    return predictions


def _timepoints(dataset: Dataset, take: Take, wanted: Sequence[str] | None) -> Sequence[Timepoint]:
    recorded = dataset.take(take)
    return recorded.timepoints if wanted is None else [recorded.timepoint(frame) for frame in wanted]


def _in_order(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints, one take after the other."""
    everything = [timepoint for lane in lanes for timepoint in lane]
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def _side_by_side(lanes: Sequence[Sequence[Timepoint]], size: int) -> Iterator[list[Timepoint]]:
    """Groups of timepoints of different takes, each take in the order of time; long takes go together."""
    by_length = sorted(lanes, key=len, reverse=True)
    for start in range(0, len(by_length), size):
        for group in zip_longest(*by_length[start : start + size]):
            yield [timepoint for timepoint in group if timepoint is not None]


def _sample_id(timepoint: Timepoint) -> str:
    return f"{timepoint.take.sample_name}_{timepoint.frame_id}"


def _only(timepoint: Timepoint, modalities: Sequence[str]) -> Timepoint:
    """The timepoint without the text modalities that the model was not made for."""
    fields = {"robot": "robot_screen", "tracker": "tracker", "speech": "transcript"}
    return replace(timepoint, **{field: None for name, field in fields.items() if name not in modalities})
