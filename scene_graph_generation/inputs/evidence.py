"""The files of one timepoint to tensors: views, and what there is besides (stage-2 specification, section 6).

Views are kept as bytes and normalised last, see `inputs/views.py`.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from operating_room.errors import UserError
from operating_room.graphs.prompts import IMAGE_MARK, MEMORY_END, MEMORY_START
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.fingerprints import stamp
from operating_room.work.ahead import Ahead
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.example import IMAGE, Example
from scene_graph_generation.inputs.modalities import BRANCHES, MODALITIES, other_tokens
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.inputs.views import ViewReader

HELD = 32  # timepoints that were read ahead, 2 to 4 MB each
_DIGITS = 10  # of the number of a camera; Python refuses to read thousands
USUAL_POINTS = 20_000  # of a cloud
EGO_KEY = "ego_image"  # of training records: number of the camera -> which of `image` are of glasses


@dataclass(frozen=True)
class Evidence:
    """The files of one sample that become tensors."""

    views: tuple[Path | None, ...]  # in slot order; None is a black picture
    # By the names of `inputs.modalities`. Mappings are no part of the hash, only of equality.
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict, hash=False)
    ego: Mapping[int, Path] = field(
        default_factory=dict, hash=False
    )  # camera of the domain -> which views are glasses'

    @property
    def cloud(self) -> Path | None:
        """The point cloud."""
        return next(iter(self.others.get("cloud", ())), None)

    @property
    def audio(self) -> Path | None:
        """The embedding of the sound."""
        return next(iter(self.others.get("audio", ())), None)

    @property
    def masks(self) -> tuple[Path, ...]:
        """Label maps."""
        return self.others.get("masks", ())

    @classmethod
    def of_timepoint(cls, timepoint: Timepoint) -> Evidence:
        """What evaluation shows of a timepoint."""
        found = {row.name: timepoint.several(row.recorded.name) for row in MODALITIES}
        others = {name: tuple(path for _, path in sorted(files.items())) for name, files in found.items() if files}
        return cls(tuple(timepoint.collection.evaluation_pictures(timepoint.views)), others, ego_pictures(timepoint))

    @classmethod
    def of_record(cls, record: Mapping[str, Any], root: Path) -> Evidence:
        """The files that a training record names, absolute or relative to `root`.

        Raises:
            UserError: the record holds something else where file names belong.
        """

        def paths(key: str) -> tuple[Path, ...]:
            value = record.get(key) or ()  # published files also write null for what is not there
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{key!r} must name files, got {str(value)[:60]!r}; make the training file again")
            return tuple(root / name for name in names)

        ego = record.get(EGO_KEY) or {}
        if not isinstance(ego, dict) or not all(
            n.isdecimal() and len(n) < _DIGITS and isinstance(name, str) for n, name in ego.items()
        ):
            told = f"{EGO_KEY!r} must name a file for each camera's number, got {str(ego)[:60]!r}"
            raise UserError(f"{told}; make the training file again")
        others = {row.name: files for row in MODALITIES if (files := paths(row.key))}
        return cls(paths("image"), others, {int(number): root / name for number, name in ego.items()})

    def only(self, modalities: Sequence[str]) -> Evidence:
        """Without the files of other modalities, which a model that was not made for them never opens."""
        seen = "views" in modalities
        others = {name: files for name, files in self.others.items() if name in modalities}
        return Evidence(self.views if seen else (), others, self.ego if seen else {})

    def files(self) -> list[Path]:
        """All files."""
        return [path for path in self.views if path is not None] + [p for files in self.others.values() for p in files]


def ego_pictures(timepoint: Timepoint) -> dict[int, Path]:
    """The pictures of glasses by the number of the camera, which is its place, from 1, among those of the domain.

    In the order of the take: the first one provides the visual tokens of its branch.
    """
    numbers = {camera.name: number for number, camera in enumerate(timepoint.collection.cameras, 1)}
    return {numbers[name]: path for name, path in timepoint.several("ego_views").items()}


@dataclass(frozen=True)
class _Read:
    """The files of a sample as tensors, and their state before they were read."""

    state: tuple[str, ...]
    views: UInt8[Tensor, "views 3 size size"]
    ego: int
    others: Mapping[str, Tensor]


class ExampleReader:
    """Reads samples as the model takes them; modalities that the model was not made for stay unread."""

    def __init__(self, config: MM2SGConfig, tokens: Tokens, keep_views: bool = False, readers: int = 1) -> None:
        """`keep_views` keeps what was read, as one of so many readers in processes of their own."""
        self._config = config
        self._tokens = tokens
        self._views = ViewReader(config.vision.image_size, keep_views, readers)
        self._ahead = Ahead(self._read, HELD)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model was made for."""
        return self._config.modalities

    @property
    def two_branches(self) -> bool:
        """Whether the model looks at views of glasses and of the room apart."""
        return self._config.pooler.branches == "ego_exo"

    @property
    def max_views(self) -> int:
        """How many views the model has places for."""
        return self._config.pooler.max_views

    def conversation(self, prompt: str) -> str:
        """The conversation of the model around a question, up to where its answer begins."""
        return self._tokens.conversation(prompt)

    def __call__(self, evidence: Evidence, prompt: str, answer: str | None = None, reserve: int = 0) -> Example:
        """The tensors of a sample.

        A prompt without image placeholder is text only and has no files. Text that is longer than the model's context
        loses the oldest part of its memory, and never anything else; `Example.dropped_memory` says how much.

        Args:
            evidence: the sample's files.
            prompt: the conversation up to where the answer begins, see `conversation`.
            answer: what is to be said after it.
            reserve: tokens that the answer, which is still to be generated, will have at most. They need no room within
                `max_length`, which limits the prompt as published, but positions of the language model.

        Raises:
            UserError: a file is missing or damaged, there is more than one image placeholder or none for the files, or
                the text is too long even without memory.
        """
        known = evidence.only(self._config.modalities)
        prompt, dropped = self._fit(prompt, answer, reserve, known)
        ids, labels = self._tokens.encode(prompt, answer)
        text_only = IMAGE not in ids
        if text_only and evidence != Evidence(()):
            raise UserError(f"the prompt has no {IMAGE_MARK}, so its files would not be seen; make the sample again")
        found = None if text_only else self._files(known)
        return Example(
            ids=torch.tensor(ids),
            labels=None if answer is None else torch.tensor(labels),
            views=self._views.none() if found is None else self._views.shown(found.views),
            others={} if found is None else found.others,
            ego=0 if found is None else found.ego,
            dropped_memory=dropped,
        )

    def read_ahead(self, evidence: Sequence[Evidence]) -> None:
        """Begin to read the files of these samples in other threads, while the model is busy.

        What was begun before goes on if it is among them, and is given up if not.
        """
        self._ahead.begin(one.only(self._config.modalities) for one in evidence)

    def _files(self, evidence: Evidence) -> _Read:
        """What was read ahead, if the files are still the same."""
        found = self._ahead.take(evidence)
        return found if found.state == _state(evidence) else self._read(evidence)

    def _read(self, evidence: Evidence) -> _Read:
        config, state = self._config, _state(evidence)
        views, ego = evidence.views, {n: path for n, path in evidence.ego.items() if path in evidence.views}
        if self.two_branches:
            views = (*ego.values(), *(path for path in views if path is None or path not in ego.values()))
        self._check_views(len(views), len(ego), evidence)
        given = [(row, evidence.others[row.name]) for row in MODALITIES if row.name in evidence.others]
        return _Read(
            state, self._views(views), len(ego), {row.name: row.read(paths, ego, config) for row, paths in given}
        )

    def _check_views(self, views: int, ego: int, evidence: Evidence) -> None:
        """The pooler has places for so many views; what is pooled with them takes some, too.

        Raises:
            UserError: there are more.
        """
        config, of_room = self._config, [row for row in MODALITIES if row.name in BRANCHES["exo"]]
        parts = {"": (views, 0)}
        if self.two_branches:
            beside = sum(row.tokens(config) for row in of_room if row.name in evidence.others)
            parts = {" of glasses": (ego, 2 * ego), " of the room": (views - ego, beside)}  # gaze and hands of each
        for which, (count, beside) in parts.items():
            if count and count * config.vision.tokens + beside > config.pooler.max_views * config.vision.tokens:
                path = next(path for path in evidence.views if path)
                raise UserError(
                    f"{path}: is one of {count} views{which}, more than the model has places for (pooler.max_views is "
                    f"{config.pooler.max_views}); train one with more"
                )

    def _fit(self, prompt: str, answer: str | None, reserve: int, evidence: Evidence) -> tuple[str, int]:
        """The prompt with as much of its memory as the context has room for, and how many characters that cost."""
        shown = IMAGE_MARK in prompt
        visual = self._visual_tokens(evidence) - 1 if shown else 0  # they stand in the place of one token
        room = min(self._config.max_length, self._config.language.positions - reserve) - visual

        def excess(text: str) -> int:
            return len(self._tokens.encode(text, answer)[0]) - room

        if excess(prompt) <= 0:
            return prompt, 0
        before, mark, rest = prompt.partition(MEMORY_START)
        memory, end, after = rest.partition(MEMORY_END)
        without = before + mark + end + after
        if (too_many := excess(without)) > 0:
            needed = f"{too_many + room} tokens{' without its memory' if mark else ''}"
            advice = "shorten its transcript or raise max_length"
            if self._config.language.positions - reserve < self._config.max_length:
                advice = f"lower --max-new-tokens: {reserve} are kept for the answer"
            raise UserError(f"the text needs {needed}, the model has room for {max(room, 0)}; {advice}")
        # The shortest cut that fits; a shorter memory is never longer in tokens but for its first few characters.
        cuts = range(1, len(memory) + 1)
        cut = cuts[bisect_left(cuts, True, key=lambda cut: excess(before + mark + memory[cut:] + end + after) <= 0)]
        return before + mark + memory[cut:] + end + after, cut

    def _visual_tokens(self, evidence: Evidence) -> int:
        """How many tokens stand in the place of the image; with published batching batch mates can add to them."""
        config = self._config
        if self.two_branches:
            ego = len({*evidence.ego.values()} & {*evidence.views})
            return config.vision.tokens * (bool(ego) + (ego < len(evidence.views) or not evidence.views))
        if config.batching == "published":
            return config.vision.tokens + other_tokens(config)
        return config.vision.tokens + sum(row.tokens(config) for row in MODALITIES if row.name in evidence.others)


def _state(evidence: Evidence) -> tuple[str, ...]:
    """Of its files; one that is not there, or may not be looked at, has none (reading it says so)."""
    return tuple(stamp(path) if os.path.exists(path) else "" for path in evidence.files())
