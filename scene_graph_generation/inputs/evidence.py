"""The files of one timepoint to tensors: views, audio vector, masks, point cloud (stage-2 specification, section 6).

A modality that a timepoint does not have is None. Views are kept as bytes and normalised last, so that they can be
cached.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from operating_room.errors import UserError
from operating_room.files.readers import read_label_mask, read_picture, read_point_cloud
from operating_room.files.tensors import read_vector
from operating_room.graphs.prompts import IMAGE_MARK, MEMORY_END, MEMORY_START
from operating_room.recordings.masks import SMALL
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.fingerprints import stamp
from operating_room.work.ahead import Ahead
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.example import IMAGE, Example
from scene_graph_generation.inputs.tokens import Tokens

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP
STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOR = tuple(int(255 * mean) for mean in MEAN)
CLOUD_TOKENS = AUDIO_TOKENS = 1  # visual tokens beside those of the views and of the masks
KEPT_BYTES = 1 << 30  # of prepared views that all readers of one training or evaluation keep together
USUAL_POINTS = 20_000  # of a cloud
BLACK_SIZE = (2048, 1536)  # px, of the picture that stands for a missing view (data specification, section 4.1)


@dataclass(frozen=True)
class Evidence:
    """The files of one sample that become tensors."""

    views: tuple[Path | None, ...]  # in slot order; None is a black picture
    cloud: Path | None = None
    audio: Path | None = None  # embedding
    masks: tuple[Path, ...] = ()

    @classmethod
    def of_timepoint(cls, timepoint: Timepoint) -> Evidence:
        """What evaluation shows of a timepoint."""
        masks = tuple(path for _, path in sorted(timepoint.several("masks").items()))
        views = tuple(timepoint.collection.evaluation_pictures(timepoint.views))
        return cls(views, timepoint.one("point_cloud"), timepoint.one("audio_embedding"), masks)

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

        one = {key: next(iter(paths(key)), None) for key in ("pc", "audio")}
        return cls(paths("image"), one["pc"], one["audio"], paths("segmasks"))

    def only(self, modalities: Sequence[str]) -> Evidence:
        """Without the files of other modalities, which a model that was not made for them never opens."""
        return Evidence(
            self.views if "views" in modalities else (),
            self.cloud if "cloud" in modalities else None,
            self.audio if "audio" in modalities else None,
            self.masks if "masks" in modalities else (),
        )

    def files(self) -> list[Path]:
        """All files."""
        return [path for path in (*self.views, self.cloud, self.audio, *self.masks) if path is not None]


_Stamped = tuple[Evidence, tuple[str, ...]]


@dataclass(frozen=True)
class _Read:
    """The files of a sample as tensors."""

    views: Float[Tensor, "views 3 size size"]
    cloud: Float[Tensor, "points 6"] | None
    audio: Float[Tensor, " width"] | None
    masks: UInt8[Tensor, "masks 32 32"] | None


class ExampleReader:
    """Reads samples as the model takes them; modalities that the model was not made for stay unread."""

    def __init__(self, config: MM2SGConfig, tokens: Tokens, keep_views: bool = False, readers: int = 1) -> None:
        """`keep_views` keeps what was read, as one of so many readers in processes of their own."""
        self._config = config
        self._tokens = tokens
        self._views = ViewReader(config.vision.image_size, keep_views, readers)
        self._ahead = Ahead(self._read)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model was made for."""
        return self._config.modalities

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
        found = None if text_only else self._ahead.take(_stamped(known))
        return Example(
            ids=torch.tensor(ids),
            labels=None if answer is None else torch.tensor(labels),
            views=self._views.none() if found is None else found.views,
            cloud=None if found is None else found.cloud,
            audio=None if found is None else found.audio,
            masks=None if found is None else found.masks,
            dropped_memory=dropped,
        )

    def read_ahead(self, evidence: Sequence[Evidence]) -> None:
        """Begin to read the files of the next samples in another thread, while the model is busy with these."""
        self._ahead.begin(_stamped(one.only(self._config.modalities)) for one in evidence)

    def _read(self, stamped: _Stamped) -> _Read:
        evidence = stamped[0]
        width = self._config.pooler.audio_width
        return _Read(
            self._views(evidence.views),
            None if evidence.cloud is None else read_cloud(evidence.cloud),
            None if evidence.audio is None else read_audio_embedding(evidence.audio, width),
            read_masks(evidence.masks, self._config),
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
            raise UserError(
                f"the text needs {needed}, the model has room for {room}; shorten its transcript or raise max_length"
            )
        # The shortest cut that fits; a shorter memory is never longer in tokens but for its first few characters.
        cuts = range(1, len(memory) + 1)
        cut = cuts[bisect_left(cuts, True, key=lambda cut: excess(before + mark + memory[cut:] + end + after) <= 0)]
        return before + mark + memory[cut:] + end + after, cut

    def _visual_tokens(self, evidence: Evidence) -> int:
        """How many tokens stand in the place of the image; with published batching batch mates can add to them."""
        if self._config.batching == "published":
            return self._config.vision.tokens + other_tokens(self._config)
        parts = (evidence.cloud, CLOUD_TOKENS), (evidence.audio, AUDIO_TOKENS), (evidence.masks, self._config.masks)
        return self._config.vision.tokens + sum(tokens for part, tokens in parts if part)


def other_tokens(config: MM2SGConfig) -> int:
    """The most visual tokens of a sample beside those of its views; masks have theirs, however many there are."""
    return CLOUD_TOKENS + AUDIO_TOKENS + config.masks


def _stamped(evidence: Evidence) -> _Stamped:
    """With the state of its files: one that changes after it was read ahead is read again.

    One that is not there has none (reading it says so).
    """
    return evidence, tuple(stamp(path) if path.exists() else "" for path in evidence.files())


def prepare_view(picture: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[Tensor, "3 size size"]:
    """Pad a picture to a square with CLIP's mean colour and resize it (Pillow, bicubic)."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(Image.fromarray(picture), ((side - width) // 2, (side - height) // 2))
    resized = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1).contiguous()


def normalise_views(views: UInt8[Tensor, "views 3 size size"]) -> Float[Tensor, "views 3 size size"]:
    """Scale to 0..1, subtract CLIP's mean, divide by its standard deviation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (views.float() / 255 - mean) / std


class ViewReader:
    """Reads pictures as prepared views; with `keep` each file is read once and stays in memory while there is room."""

    def __init__(self, size: int, keep: bool = False, readers: int = 1) -> None:
        self.size = size
        self._room = KEPT_BYTES // readers if keep else 0
        self._kept: dict[Path, Tensor] = {}

    def __call__(self, paths: Sequence[Path | None]) -> Float[Tensor, "views 3 size size"]:
        """The views of these pictures; None is a black picture, no picture at all is one view of the mean colour.

        Raises:
            UserError: a picture is missing or damaged.
        """
        if not paths:
            return torch.zeros(1, 3, self.size, self.size)
        return normalise_views(torch.stack([self._black if path is None else self._view(path) for path in paths]))

    def none(self) -> Float[Tensor, "0 3 size size"]:
        """No view at all, for a sample that is text only."""
        return torch.zeros(0, 3, self.size, self.size)

    @cached_property
    def _black(self) -> UInt8[Tensor, "3 size size"]:
        width, height = BLACK_SIZE
        return prepare_view(np.zeros((height, width, 3), np.uint8), self.size)

    def _view(self, path: Path) -> UInt8[Tensor, "3 size size"]:
        if path in self._kept:
            return self._kept[path]
        view = prepare_view(read_picture(path), self.size)
        if view.nbytes <= self._room:
            self._room -= view.nbytes
            self._kept[path] = view
        return view


def read_audio_embedding(path: Path, width: int) -> Float[Tensor, " width"]:
    """The stored audio vector.

    Raises:
        UserError: see `operating_room.files.tensors.read_vector`.
    """
    return read_vector(path, width)


def read_masks(paths: Sequence[Path], config: MM2SGConfig) -> UInt8[Tensor, "masks 32 32"] | None:
    """The 32x32 label maps of a timepoint, None if there are none.

    Raises:
        UserError: a file is damaged, of another size, has labels that the model does not know, or there are more than
            the model takes.
    """
    if not paths:
        return None
    if len(paths) > config.masks:
        raise UserError(f"{paths[-1]}: is mask number {len(paths)} of its timepoint, the model takes {config.masks}")
    masks = [read_label_mask(path) for path in paths]
    for path, mask in zip(paths, masks):
        if mask.shape != (SMALL, SMALL) or mask.max() >= config.labels:
            raise UserError(f"{path}: expected {SMALL}x{SMALL} labels below {config.labels}; preprocess masks again")
    return torch.from_numpy(np.stack(masks))


def read_cloud(path: Path) -> Float[Tensor, "points 6"]:
    """Coordinates in metres and colours in 0..1.

    Raises:
        UserError: see `operating_room.files.readers.read_point_cloud`.
    """
    return torch.from_numpy(read_point_cloud(path))
