"""Experiments of stage 1: a YAML file with the published keys becomes one typed, frozen object.

Stage-1 specification, section 10. `_BASE_` names a file that is read first; `KEY VALUE` pairs come last. A published
`config.yaml` can be read as it is: keys that mean nothing here are listed in `Config.unused`. A value that cannot be
had, or a typo on the command line, is an error.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.atomic import write_text
from operating_room.files.readers import parse_yaml, read_bytes
from panoptic_segmentation.config.config_keys import ARCHITECTURES, CAUSAL, FIXED, FLOAT32, KEYS, MULTI_STEP, SAME_AS
from panoptic_segmentation.config.data_choice import DataChoice, data_choice
from panoptic_segmentation.config.setting_limits import check_values
from panoptic_segmentation.model.matching import LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.model.video_models import VideoConfig
from panoptic_segmentation.weights.model_card import typed


@dataclass(frozen=True)
class Rates:
    """Learning rate and weight decays; the defaults are the published ones."""

    base: float = 1e-4
    backbone_multiplier: float = 0.1
    layer_decay: float = 1.0  # of the rate from one block of a vision transformer to the one before
    decay: float = 0.05
    decay_of_normalisation: float = 0.0
    decay_of_embeddings: float = 0.0


@dataclass(frozen=True)
class Solver:
    """Optimiser, schedule and length of a training."""

    batch_size: int = 1  # clips per step, over all processes
    steps: int = 100_000
    checkpoint_every: int = 10_000  # steps
    schedule: str = MULTI_STEP  # or CONSTANT_LINEAR: constant, falling linearly to 0 over the last 30 %; or POLYNOMIAL
    milestones: tuple[int, ...] = (70_000, 90_000)  # steps at which the rate is multiplied by `gamma`
    gamma: float = 0.1
    warmup_steps: int = 10
    warmup_factor: float = 1.0
    encoder_warmup_steps: int = 0  # of a vision transformer, which rests until the others are warm; 0: with them
    clip: bool = True
    clip_norm: float = 0.01  # of the gradient of all parameters together
    mixed_precision: bool = True  # on a GPU
    amp_type: str = "auto"  # of mixed precision; auto: bfloat16 where the GPU has it, else float16 (published)
    average_decay: float = 0.0  # of the averaged weights that are saved; 0: no average


@dataclass(frozen=True)
class ClipSettings:
    """How training clips are drawn and varied (sections 9.1 and 9.2)."""

    frames: int = 10
    reach: int = 20  # frames are drawn within this distance of the first; 2 reach + 1 = frames means consecutive
    reverse: bool = False  # in time, with probability 0.5
    repeat_threshold: float = 0.0  # classes in a smaller share of the frames are drawn more often; 0: all alike
    shortest: tuple[int, ...] = tuple(range(480, 801, 32))  # px, one is drawn
    longest: int = 1333  # px
    crop: bool = False
    crop_size: tuple[int, int] = (608, 608)  # height, width, px
    color_jitter: bool = False  # gain, offset and per-channel gain


@dataclass(frozen=True)
class InferenceSettings:
    """Inference and its post-processing (sections 4.1 and 8)."""

    shortest: int = 720  # px
    longest: int = 1333  # px
    canvas: tuple[int, int] = (2048, 1536)  # width, height of ground truth and predictions, px
    task: str = CAUSAL  # no look into the future; or WHOLE_VIDEO: scores and overlaps over the video, as published
    at_canvas: bool = False  # masks grow smoothly to the canvas; published: to network size, then nearest pixel
    running_mean: bool = False  # causal: scores and overlaps so far, not of the frame; queries must keep their objects
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    window: int = 3  # frames that go through the segmenter together
    dtype: str = FLOAT32  # of products and convolutions; published: float32, also where training is in 16 bits


@dataclass(frozen=True)
class Config:
    """One experiment; the defaults are the published CTVIS values."""

    architecture: str = "CTMinVIS"
    weights: str = ""  # file to start from; empty: from scratch
    output_folder: str = "./output"
    seed: int = 42
    train_data: tuple[str, ...] = ("hybridor_panoptic_train",)
    test_data: tuple[str, ...] = ("hybridor_panoptic_val",)
    workers: int = 8  # processes that read clips
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    video_layers: int = 6  # of the tracker and of the refiner
    losses: LossSettings = field(default_factory=LossSettings)
    solver: Solver = field(default_factory=Solver)
    rates: Rates = field(default_factory=Rates)
    clips: ClipSettings = field(default_factory=ClipSettings)
    test: InferenceSettings = field(default_factory=InferenceSettings)
    unused: tuple[str, ...] = ()  # keys of the file that mean nothing here

    @property
    def kind(self) -> str:
        """The kind of model as `panoptic_segmentation.weights.checkpoints` calls it."""
        return ARCHITECTURES[self.architecture]

    @property
    def video(self) -> VideoConfig:
        """The size of tracker and refiner."""
        return VideoConfig(self.segmenter.heads, self.segmenter.decoder_hidden, self.video_layers)

    @property
    def train_choices(self) -> list[DataChoice]:
        """The training data, one entry per published name."""
        return [data_choice(name) for name in self.train_data]

    @property
    def test_choices(self) -> list[DataChoice]:
        """The data for prediction and evaluation, one entry per published name."""
        return [data_choice(name) for name in self.test_data]


# Values that are called or counted otherwise in the files than in the fields.
_NORMS = {"FrozenBN": "frozen", "BN": "batch"}
_CROP = ("INPUT.CROP.TYPE", "INPUT.CROP.SIZE")  # without INPUT.CROP.ENABLED they are detectron2's, in other units
_PLACES = ("OUTPUT_DIR", "MODEL.WEIGHTS")
_OF_STAGE_2 = ("model.", "start.", "pretrain.", "train.")
_TYPO = 0.93  # from this similarity on, an unknown key in a file is taken for a misspelt one
# Keys whose values the files write in another way than we do:
_DECODER_LAYERS = "MODEL.MASK_FORMER.DEC_LAYERS"  # counts the prediction before the first layer, too
_NORM = "MODEL.RESNETS.NORM"


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment file.

    Args:
        path: YAML with the published keys.
        overrides: `KEY VALUE KEY VALUE ...`, applied last.

    Raises:
        UserError: a file is missing, no YAML or of something else, `_BASE_` goes in circles, a value has the wrong type
            or cannot be had, or an override names a key that does not exist.
    """
    values = _read_file(path, ())
    if values and not {key.split(".")[0] for key in values} & {key.split(".")[0] for key in KEYS}:
        stage_2 = any(key.startswith(_OF_STAGE_2) for key in values)
        advice = "`mmor scene-graph train` reads it" if stage_2 else "give one with keys such as SOLVER.MAX_ITER"
        raise UserError(f"{path}: is no experiment file of a segmenter (it has {next(iter(values))}); {advice}")
    return _build(values | _pairs(overrides, KEYS | FIXED | SAME_AS | values), path)


def override_test(settings: InferenceSettings, overrides: Sequence[str], path: Path) -> InferenceSettings:
    """The settings that a model file brings, with `KEY VALUE KEY VALUE ...` applied.

    Raises:
        UserError: a key does not exist, or is none of inference: how the model in `path` is built cannot be changed.
    """
    values, changes = _file_values(replace(_DEFAULT, test=settings)), {}
    for key, value in _pairs(overrides, KEYS).items():
        group, _, name = KEYS[key].rpartition(".")
        if group != "test":
            free = ", ".join(key for key, name in KEYS.items() if name.startswith("test."))
            raise UserError(f"{key}: {path} says itself how it is built; for prediction these can be changed: {free}")
        values[key] = changes[name] = _convert(value, getattr(_DEFAULT.test, name), key)
    check_values(values, path)
    return replace(settings, **changes)


def read_test(values: Any, path: Path, part: str) -> InferenceSettings:
    """The settings of inference in a file of ours.

    Args:
        values: from its JSON, by the names of fields; what is absent is as published.
        path: of the file, for messages.
        part: of the file that `values` are.

    Raises:
        UserError: a name is unknown, or a value is of another type or cannot be had.
    """
    settings = typed(InferenceSettings, values, f"{path}: {part}")
    check_values(_file_values(replace(_DEFAULT, test=settings)), path)
    return settings


def _pairs(overrides: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `KEY VALUE KEY VALUE ...`."""
    if len(overrides) % 2:
        raise UserError(f"override {overrides[-1]!r} has no value; write KEY VALUE pairs")
    values = {}
    for key, text in zip(overrides[::2], overrides[1::2]):
        if key not in known:
            close = difflib.get_close_matches(key.upper(), KEYS, 1, 0)
            raise UserError(f"key {key!r} does not exist; did you mean {close[0]}?")
        values[key] = parse_yaml(text, f"value of {key}")
    return values


def field_value(config: Config, key: str) -> Any:
    """The value of the field that a published key stands for."""
    value: Any = config
    for name in KEYS[key].split("."):
        value = getattr(value, name)
    return value


def save_config(config: Config, path: Path) -> None:
    """Write `config` under the published keys; `read_config` gives it back."""
    write_text(path, _text(config))


def is_saved(path: Path) -> bool:
    """Whether a file is as `save_config` writes it: then somebody's own notes and keys are not in it."""
    try:
        return read_bytes(path) == _text(read_config(path)).encode()
    except UserError:
        return False


def _text(config: Config) -> str:
    import yaml

    tree: dict[str, Any] = {}
    for key, value in _file_values(config).items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False)


def _read_file(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The flat keys of a file over those of its `_BASE_`."""
    path = Path(os.path.realpath(path))
    if path in below:
        raise UserError(f"{path}: _BASE_ leads back to this file; remove it")
    tree = parse_yaml(read_bytes(path), str(path)) or {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: is no configuration; write KEY: VALUE lines")
    base = tree.pop("_BASE_", None)
    values = _read_file(path.parent / os.path.expanduser(str(base)), (*below, path)) if base else {}
    values |= _flatten(tree)
    homes = {key: os.path.expanduser(values[key]) for key in _PLACES if isinstance(values.get(key), str)}
    return values | homes  # in a file no shell does it


def unused_summary(config: Config) -> str:
    """The keys without meaning here in one line; groups of which nothing has a meaning are counted."""
    known = [*KEYS, *FIXED, *SAME_AS]
    groups: dict[str, list[str]] = {}
    for key in config.unused:
        parts = key.split(".")
        prefixes = [".".join(parts[:n]) + "." for n in range(1, len(parts))]
        group = next((p for p in prefixes if not any(other.startswith(p) for other in known)), key)
        groups.setdefault(group, []).append(key)
    names = [keys[0] if len(keys) == 1 else f"{group}* ({len(keys)})" for group, keys in groups.items()]
    names.sort(key=lambda name: "did you mean" not in name)
    return f"{len(config.unused)} keys without meaning here: {', '.join(names)}"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _build(values: Mapping[str, Any], path: Path) -> Config:
    own: dict[str, Any] = {}  # key -> value, as in the files
    unused = []
    if values.get("INPUT.CROP.ENABLED") is not True:
        values = {key: value for key, value in values.items() if key not in _CROP}
    for key, value in values.items():
        if key in KEYS:
            own[key] = _convert(value, field_value(_DEFAULT, key), f"{path}: {key}")
        elif key in FIXED:
            if _convert(value, FIXED[key], f"{path}: {key}") != FIXED[key]:
                raise UserError(f"{path}: {key} is {value!r}; only {FIXED[key]!r} is supported")
        elif key in SAME_AS:
            other = values.get(SAME_AS[key], field_value(_DEFAULT, SAME_AS[key]))
            if value != other:
                raise UserError(f"{path}: {key} is {value!r}; it must equal {SAME_AS[key]}, {other!r}")
        else:
            close = difflib.get_close_matches(key.upper(), KEYS.keys() - values.keys(), 1, _TYPO)
            unused.append(f"{key} (did you mean {close[0]}?)" if close else key)
    check_values(_file_values(_DEFAULT) | own, path)
    changes: dict[str, dict[str, Any]] = {}  # group of Config ("" for itself) -> field -> value
    for key, value in own.items():
        group, _, name = KEYS[key].rpartition(".")
        changes.setdefault(group, {})[name] = (
            _NORMS[value] if key == _NORM else value - 1 if key == _DECODER_LAYERS else value
        )
    fields = changes.pop("", {})
    groups = {group: replace(getattr(_DEFAULT, group), **values) for group, values in changes.items()}
    return replace(_DEFAULT, **fields, **groups, unused=tuple(unused))


def _file_values(config: Config) -> dict[str, Any]:
    """Key -> value as the files write it."""
    values = {key: field_value(config, key) for key in KEYS}
    norms = {ours: name for name, ours in _NORMS.items()}
    return values | {_DECODER_LAYERS: values[_DECODER_LAYERS] + 1, _NORM: norms[values[_NORM]]}


def _convert(value: Any, default: Any, where: str) -> Any:
    """`value` in the type of `default`."""
    if isinstance(value, str) and value.startswith(("(", "[")):  # "(70000, 90000)", as the published files write tuples
        value = parse_yaml(f"[{value.strip('()[] ,')}]", where)
    if isinstance(default, tuple):
        values = value if isinstance(value, list) else [value]
        return tuple(_convert(item, default[0], where) for item in values)
    if isinstance(default, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    elif type(value) is type(default):
        return value
    elif isinstance(default, str) and value is None:
        return ""
    raise UserError(f"{where}: is {value!r}; expected {type(default).__name__}, such as {default!r}")


_DEFAULT = Config()
