"""What the values of an experiment file may be; one that cannot work is refused when the file is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.picture_files import MAX_PIXELS, MAX_SIDE
from panoptic_segmentation.config.config_keys import (
    AMP_TYPES,
    ARCHITECTURES,
    CAUSAL,
    CONSTANT_LINEAR,
    MULTI_STEP,
    POLYNOMIAL,
    TEST_TYPES,
    WHOLE_VIDEO,
)
from panoptic_segmentation.config.data_choice import data_choice
from panoptic_segmentation.model.pixel_decoder import GROUPS

_LARGEST = 1_000_000  # of any size of a model: a typing error must not ask for more memory than there is
_DEEPEST = 1000  # layers
_MOST = 2**31 - 1  # of counts and seeds


def _whole(least: int, most: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number of {least} to {most}", lambda value: least <= value <= most


def _number(least: float, most: float = math.inf) -> tuple[str, Callable[[Any], bool]]:
    told = f"a number of {least:g} or more" if most == math.inf else f"a number of {least:g} to {most:g}"
    return told, lambda value: math.isfinite(value) and least <= value <= most


def _above_zero() -> tuple[str, Callable[[Any], bool]]:
    return "a number above 0", lambda value: math.isfinite(value) and value > 0


def _one_of(*names: Any) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(str, names)), lambda value: value in names


# (what is allowed, whether a value is) -> keys; of a key with several values each is looked at.
_LIMITS: list[tuple[tuple[str, Callable[[Any], bool]], tuple[str, ...]]] = [
    (
        _whole(1, _LARGEST),
        (
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.MASK_FORMER.HIDDEN_DIM", "MODEL.MASK_FORMER.NHEADS"),
            *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_FEEDFORWARD", "MODEL.MASK_FORMER.DIM_FEEDFORWARD"),
            *("MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "MODEL.MASK_FORMER.TEST.WINDOW_SIZE"),
            *("SOLVER.IMS_PER_BATCH", "INPUT.SAMPLING_FRAME_NUM", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"),
            *("MODEL.ENCODER.REGISTERS", "MODEL.ENCODER.GRID"),
            *("INPUT.CROP.SIZE", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
        ),
    ),
    (_whole(1, MAX_SIDE), ("TEST.CANVAS",)),
    (_whole(4, _LARGEST), ("MODEL.RESNETS.WIDTHS",)),
    (
        _whole(1, _DEEPEST),
        ("MODEL.RESNETS.DEPTHS", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "MODEL.TRACKER.DECODER_LAYERS"),
    ),
    (_whole(2, _DEEPEST), ("MODEL.MASK_FORMER.DEC_LAYERS",)),
    (_whole(1, _MOST), ("SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD")),
    (
        _whole(0, _MOST),
        (
            *("SEED", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.ENCODER_WARMUP_ITERS"),
            "INPUT.SAMPLING_FRAME_RANGE",
        ),
    ),
    (_whole(0, 1024), ("DATALOADER.NUM_WORKERS",)),
    (_above_zero(), ("SOLVER.BASE_LR", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE")),
    (
        _number(0.0),
        (
            *("SOLVER.BACKBONE_MULTIPLIER", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.GAMMA"),
            *("SOLVER.WEIGHT_DECAY_EMBED", "MODEL.MASK_FORMER.CLASS_WEIGHT", "MODEL.MASK_FORMER.MASK_WEIGHT"),
            *("MODEL.MASK_FORMER.DICE_WEIGHT", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", "MODEL.CL_PLUGIN.REID_WEIGHT"),
            "MODEL.CL_PLUGIN.AUX_REID_WEIGHT",
        ),
    ),
    (
        _number(0.0, 1.0),
        (
            *(
                "SOLVER.WARMUP_FACTOR",
                "SOLVER.LAYER_DECAY",
                "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO",
                "DATALOADER.REPEAT_THRESHOLD",
            ),
            *("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD"),
        ),
    ),
    (("a number of 0 to less than 1", lambda value: 0 <= value < 1), ("SOLVER.AVERAGE_DECAY",)),
    (_number(1.0, 1000.0), ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO",)),
    (_one_of(*ARCHITECTURES), ("MODEL.META_ARCHITECTURE",)),
    (_one_of(MULTI_STEP, CONSTANT_LINEAR, POLYNOMIAL), ("SOLVER.LR_SCHEDULER_NAME",)),
    (_one_of(*AMP_TYPES), ("SOLVER.AMP.DTYPE",)),
    (_one_of(*TEST_TYPES), ("TEST.DTYPE",)),
    (_one_of(WHOLE_VIDEO, CAUSAL), ("MODEL.MASK_FORMER.TEST.TASK",)),
    (_one_of("FrozenBN", "BN"), ("MODEL.RESNETS.NORM",)),
    (_one_of("bottleneck", "basic"), ("MODEL.RESNETS.BLOCK",)),
    (_one_of(2, 4), ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE",)),
    (_one_of(4, 8, 16, 32), ("MODEL.ENCODER.PATCH",)),
]
_LENGTHS = {
    "MODEL.RESNETS.WIDTHS": 4,
    "MODEL.RESNETS.DEPTHS": 4,
    "MODEL.ENCODER.GRID": 2,
    "TEST.CANVAS": 2,
    "INPUT.CROP.SIZE": 2,
}
_NEVER_EMPTY = ("INPUT.MIN_SIZE_TRAIN", "DATASETS.TRAIN", "DATASETS.TEST")


def check_values(values: Mapping[str, Any], path: Path) -> None:
    """All values of an experiment, each by itself and those that must fit each other.

    Args:
        values: published key -> value as the files write it, of the right type.
        path: of the file, for messages.

    Raises:
        UserError: one cannot be had; it names the key, its value and what is allowed.
    """
    for (expected, is_allowed), keys in _LIMITS:
        for key in keys:
            if not all(map(is_allowed, _each(values[key]))):
                raise _refused(path, key, values[key], expected)
    for key, length in _LENGTHS.items():
        if len(values[key]) != length:
            raise _refused(path, key, values[key], f"{length} numbers")
    if math.prod(values["TEST.CANVAS"]) > MAX_PIXELS:  # no reader would take what is predicted
        raise _refused(path, "TEST.CANVAS", values["TEST.CANVAS"], f"{MAX_PIXELS} px at most")
    for key in _NEVER_EMPTY:
        if not values[key]:
            raise _refused(path, key, values[key], "at least one")
    if not values["OUTPUT_DIR"]:
        raise _refused(path, "OUTPUT_DIR", "", "a folder; the one where you are is .")
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        for name in values[key]:
            try:
                data_choice(name)
            except UserError as error:
                raise UserError(f"{path}: {key}: {error}") from error
    width, heads = values["MODEL.MASK_FORMER.HIDDEN_DIM"], values["MODEL.MASK_FORMER.NHEADS"]
    if width % GROUPS or width % (4 * heads):
        needed = f"a multiple of {GROUPS} and of 4 x MODEL.MASK_FORMER.NHEADS, {4 * heads}"
        raise _refused(path, "MODEL.MASK_FORMER.HIDDEN_DIM", width, needed)
    frames, reach = values["INPUT.SAMPLING_FRAME_NUM"], values["INPUT.SAMPLING_FRAME_RANGE"]
    if frames > 1 and reach < 1:
        needed = f"1 or more: a clip has INPUT.SAMPLING_FRAME_NUM {frames} frames, drawn so far around its first"
        raise _refused(path, "INPUT.SAMPLING_FRAME_RANGE", reach, needed)


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple) else (value,)


def _refused(path: Path, key: str, value: Any, expected: str) -> UserError:
    shown = list(value) if isinstance(value, tuple) else value
    return UserError(f"{path}: {key} is {str(shown)[:60]!r}; expected {expected}")
