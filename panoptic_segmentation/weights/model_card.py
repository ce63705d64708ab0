"""The card inside our own model files: how the model is built and used. Checked: strangers may have written it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import safetensors

from computing.loading import told_by_names
from operating_room.domain.stored import DomainNote
from operating_room.errors import UserError
from operating_room.files.raw_files import utf8_path
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.model.video_models import VideoConfig

Settings = TypeVar("Settings")
Kind = Literal["ctvis", "online", "offline", "encoder_only"]
_LARGEST = 1_000_000  # of any size: a sanity check
_DEEPEST = 1000  # layers: a damaged number must not keep somebody waiting for hours


@dataclass(frozen=True)
class ModelCard:
    """How a model is built, saved inside our own files."""

    kind: str  # one of Kind; of the first three, each contains the ones before
    segmenter: SegmenterConfig
    video: VideoConfig = field(default_factory=VideoConfig)  # of the tracker and the refiner
    preprocessing: dict[str, Any] = field(default_factory=dict)  # whatever inference must repeat, JSON values
    domain: DomainNote | None = None  # whose categories it knows; None: MM-OR's


def has_card(path: Path) -> bool:
    """Whether a file is a model of ours. Others' `.safetensors` say nothing of how they are built.

    Raises:
        UserError: it cannot be read.
    """
    return path.suffix == ".safetensors" and _card_text(path)[0] is not None


def _card_text(path: Path) -> tuple[str | None, list[str]]:
    """The card as it is written, and the names of the file's tensors.

    Raises:
        UserError: it is no such file, or damaged.
    """
    try:
        with utf8_path(path) as opened, safetensors.safe_open(opened, "pt") as file:
            return (file.metadata() or {}).get("card"), list(file.keys())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a reader of strangers' bytes
        raise UserError(f"{path}: damaged, or no model file of this program ({error}); copy it again") from error


def read_card(path: Path) -> ModelCard:
    """The card of a `.safetensors` of ours.

    Raises:
        UserError: no such file, one without a card, or a card that describes no model of this version.
    """
    text, names = _card_text(path)
    if text is None:
        raise UserError(f"{path}: does not say how it is built, and is {told_by_names(names)}; choose another file")
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its card is damaged ({str(error)[:60]}); copy the file again") from error
    if not isinstance(card, dict) or not isinstance(card.get("preprocessing"), dict):
        raise UserError(f"{path}: its card does not describe a segmenter; copy the file again")
    if card.get("kind") not in get_args(Kind):
        raise UserError(f"{path}: its card says {str(card.get('kind'))[:60]!r}, the kinds are {get_args(Kind)}")
    segmenter = typed(SegmenterConfig, card.get("segmenter"), f"{path}: segmenter")
    video = typed(VideoConfig, card.get("video"), f"{path}: video")
    sizes = [size for part in (segmenter, video) for size in _numbers(vars(part).values())]
    depths = (*segmenter.depths, segmenter.encoder_layers, segmenter.decoder_layers, video.depth)
    if not all(1 <= size <= _LARGEST for size in sizes) or max(depths) > _DEEPEST:
        raise UserError(f"{path}: its card has sizes that no model has; copy the file again")
    note = None if card.get("domain") is None else typed(DomainNote, card["domain"], f"{path}: domain")
    return ModelCard(card["kind"], segmenter, video, card["preprocessing"], note)


def typed(kind: type[Settings], values: Any, where: str) -> Settings:
    """The dataclass `kind` from values of JSON; `where` names their source.

    Raises:
        UserError: a name is unknown, as in a file of a later version, or a value is of another type or impossible.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected settings, got {str(values)[:60]!r}; copy the file again")
    hints = get_type_hints(kind)
    if unknown := sorted(values.keys() - hints.keys()):
        raise UserError(
            f"{where}: has the setting {unknown[0]!r}, unknown to this version of the program; install a later one"
        )
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise UserError(f"{where}: {name} is {str(value)[:60]!r}, expected {_told(hints[name])}; copy it again")
    converted = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return kind(**converted)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{where}: describes no model ({error}); copy the file again") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of an annotation's type; numbers must be finite."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments and isinstance(value, str)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and isinstance(value, bool) == (hint is bool)


def _told(hint: Any) -> str:
    return str(hint) if get_origin(hint) else hint.__name__


def _numbers(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if isinstance(value, int):
            yield value
        elif isinstance(value, tuple):
            yield from value
