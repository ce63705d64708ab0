"""Model files: published checkpoints in, our models out, and back under the same names.

Every file holds the published (detectron2) parameter names (stage-1 specification, section 11); they are translated
here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from computing.loading import LoadReport, told_by_names
from operating_room.errors import UserError
from operating_room.files.tensors import check_numbers, write_pickle, write_safetensors
from panoptic_segmentation.model.encoder_only.video_model import EncoderOnly
from panoptic_segmentation.model.matching import LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS, OnlineDVIS, VideoConfig
from panoptic_segmentation.weights.checkpoint_files import read_checkpoint
from panoptic_segmentation.weights.encoder_files import fitted
from panoptic_segmentation.weights.model_card import Kind, ModelCard, read_card

VideoModel = CTVIS | OnlineDVIS | OfflineDVIS | EncoderOnly
KINDS = get_args(Kind)

_PREFIXES = {  # published -> ours
    "backbone.": "segmenter.backbone.",
    "sem_seg_head.pixel_decoder.": "segmenter.pixel_decoder.",
    "sem_seg_head.predictor.": "segmenter.decoder.",
    "tracker.": "tracker.",
    "refiner.": "refiner.",
    "encoder.": "segmenter.encoder.",  # ours, as the next
    "heads.": "segmenter.heads.",
}
_CLASS_WEIGHTS = "criterion.empty_weight"  # in every published checkpoint; here it follows from the settings
# Entries that depend on the number of classes or queries: another training may start without them.
_REPLACEABLE = re.compile(
    r".*\.(class_embed\.(weight|bias)|query_feat\.weight|query_embed\.weight|query\.weight|"
    r"class_predictor\.(weight|bias))"
)


def build_model(kind: str, segmenter: SegmenterConfig, video: VideoConfig) -> VideoModel:
    """A new model of one of the `KINDS`."""
    if kind == "ctvis":
        return CTVIS(segmenter)
    if kind == "encoder_only":
        return EncoderOnly(segmenter)
    return OnlineDVIS(segmenter, video) if kind == "online" else OfflineDVIS(segmenter, video)


def kind_of(model: VideoModel) -> str:
    """The kind of a model: of those with a ResNet, it has a refiner, a tracker, or only a segmenter."""
    if isinstance(model, EncoderOnly):
        return "encoder_only"
    return "offline" if hasattr(model, "refiner") else "online" if hasattr(model, "tracker") else "ctvis"


def published_state(model: VideoModel) -> dict[str, Tensor]:
    """The state dict of a video model under published names."""
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def published_name(name: str) -> str:
    """The published name of a parameter of a video model."""
    for theirs, ours in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"{name}: no published name")


def load_checkpoint(path: Path, model: VideoModel, complete: bool = True) -> LoadReport:
    """Load a checkpoint file into a video model.

    Args:
        complete: every parameter must be in the file, as for evaluation. Otherwise a model may start from a smaller
            kind's checkpoint (online from CTVIS, offline from online), from one with other classes or queries, or from
            a backbone alone.

    Raises:
        UserError: the file is missing, damaged, unsafe, of another kind of model or of another architecture, or a value
            is no number.
    """
    return load_state(path, read_for(path, model), model, complete)


def read_for(path: Path, model: VideoModel) -> dict[str, Tensor]:
    """The entries of a file; those of a vision transformer resampled for patches and grid of the model.

    Raises:
        UserError: see `read_checkpoint`.
    """
    state = read_checkpoint(path)
    return fitted(state, model.segmenter.config) if isinstance(model, EncoderOnly) else state


def load_state(path: Path, state: Mapping[str, Tensor], model: VideoModel, complete: bool = True) -> LoadReport:
    """`load_checkpoint` with the file already read; `path` is for messages."""
    report = check_weights(path, state, model, complete)
    ours = published_state(model)
    with torch.no_grad():
        for name in report.matched:
            ours[name].copy_(state[name])
    return report


def check_weights(path: Path, state: Mapping[str, Tensor], model: VideoModel, complete: bool = True) -> LoadReport:
    """All that `load_state` checks; the model may be without data."""
    report = check_architecture(path, state, model, complete)
    ours = published_state(model)
    chosen = {name: state[name] for name in report.matched}
    for name, tensor in chosen.items():
        if ours[name].is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{path}: {name} is stored as {tensor.dtype}, no form of a model's weights; copy it again")
    check_numbers(chosen, path)
    return report


def check_architecture(path: Path, state: Mapping[str, Tensor], model: VideoModel, complete: bool = True) -> LoadReport:
    """What of a file fits a model, of which the shapes are enough; arguments as of `load_state`.

    Raises:
        UserError: it is of another kind or architecture.
    """
    _check_kind(path, state, model, complete)
    ours = published_state(model)
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    matched = [name for name in ours if name in state and state[name].shape == ours[name].shape]
    reshaped = [name for name in ours if name in state and state[name].shape != ours[name].shape]
    missing = [name for name in ours if name not in state and name not in counters]
    unexpected = [name for name in state if name not in ours and name != _CLASS_WEIGHTS]
    blocking = [name for name in reshaped if complete or not _REPLACEABLE.fullmatch(name)]
    blocking += [name for name in missing if name.startswith("encoder.layers.")]  # half a transformer sees nothing
    if not blocking and not any(name.startswith(("backbone.", "encoder.")) for name in matched):
        blocking = missing[:1]
    if blocking:
        name = blocking[0]
        there = tuple(state[name].shape) if name in state else "absent"
        raise UserError(
            f"{path}: another architecture than the configured one ({name} is {there} there, "
            f"{tuple(ours[name].shape)} here); use the configuration it was trained with"
        )
    if complete and missing:
        raise UserError(
            f"{path}: {len(missing)} entries are missing, the first is {missing[0]}; use a whole checkpoint"
        )
    return LoadReport(path, matched, missing, unexpected, reshaped)


def _check_kind(path: Path, state: Mapping[str, Tensor], model: VideoModel, complete: bool) -> None:
    parts = {name.split(".")[0] for name in state}
    if not parts & {"backbone", "encoder"}:
        raise UserError(f"{path}: holds no segmenter, but {told_by_names(state)}; choose another file")
    theirs = "offline" if "refiner" in parts else "online" if "tracker" in parts else "ctvis"
    theirs = "encoder_only" if "encoder" in parts else theirs
    wanted = kind_of(model)
    alone = "encoder_only" in (theirs, wanted)  # no other kind contains it or is in it
    if KINDS.index(theirs) > KINDS.index(wanted) or ((complete or alone) and theirs != wanted):
        raise _other_kind(path, theirs, wanted)


def _other_kind(path: Path, theirs: str, wanted: str) -> UserError:
    return UserError(
        f"{path}: holds the {theirs} model, but the configuration asks for the {wanted} one; "
        "choose the configuration of the same model"
    )


def save_published(path: Path, model: VideoModel, iteration: int = 0, settings: LossSettings | None = None) -> None:
    """Write a `.pth` as the published training does: `model` with all entries under published names, `iteration`."""
    state = {name: tensor.detach().cpu() for name, tensor in published_state(model).items()}
    weights = torch.ones(model.segmenter.config.classes + 1)
    weights[-1] = (settings or LossSettings()).no_object_weight
    write_pickle(path, {"model": state | {_CLASS_WEIGHTS: weights}, "iteration": iteration})


def save_model(path: Path, model: VideoModel, card: ModelCard, half: bool = False) -> None:
    """Write a `.safetensors` with the model and how to build it; `half` stores floats in 16 bits."""
    state = {}
    for name, tensor in published_state(model).items():
        tensor = tensor.detach().cpu().contiguous()
        state[name] = tensor.half() if half and tensor.is_floating_point() else tensor
    write_safetensors(path, state, {"card": json.dumps(asdict(card))})


def load_model(path: Path, wanted: str | None = None) -> tuple[VideoModel, ModelCard]:
    """Build the model of a `.safetensors` of ours, with its weights, in evaluation mode.

    Args:
        path: of the file.
        wanted: the kind of model that a configuration asks for; None: whichever it is.

    Raises:
        UserError: the file is missing, damaged or of another kind, or its card is of another model than its weights.
    """
    card = read_card(path)
    if wanted not in (None, card.kind):
        raise _other_kind(path, card.kind, wanted)
    state = read_checkpoint(path)
    with torch.device("meta"):  # costs no memory whatever the card says
        planned = build_model(card.kind, card.segmenter, card.video)
    check_architecture(path, state, planned)
    model = build_model(card.kind, card.segmenter, card.video)
    load_state(path, state, model)
    return model.eval(), card
