"""The published experiments of stage 1 at a thousandth of their size, by settings alone: every switch is their own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from panoptic_segmentation.config.settings import Config, read_config
from panoptic_segmentation.data.clips import clip_of
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.training.trainer import TrainedModel
from panoptic_segmentation.weights.checkpoints import build_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "panoptic"
DATASETS = ("HybridOR", "MMOR", "4DOR")
STAGES = ("CTVIS_r50", "DVIS_Plus_Online_R50", "DVIS_Plus_Offline_R50")
_SMALLER = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.WIDTHS": "[16,16,32,32]",
    "MODEL.RESNETS.DEPTHS": "[1,1,1,1]",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "32",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "1",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_FEEDFORWARD": "32",
    "MODEL.MASK_FORMER.HIDDEN_DIM": "32",
    "MODEL.MASK_FORMER.REID_HIDDEN_DIM": "32",
    "MODEL.MASK_FORMER.DEC_LAYERS": "3",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "32",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "12",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "48",
    "INPUT.SAMPLING_FRAME_NUM": "3",
    "INPUT.MIN_SIZE_TRAIN": "[32,48]",
    "INPUT.MIN_SIZE_TEST": "48",
    "TEST.CANVAS": "[64,48]",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.CHECKPOINT_PERIOD": "1",
    "DATALOADER.NUM_WORKERS": "0",
}
_SMALLER_LATER = {"MODEL.TRACKER.DECODER_LAYERS": "2", "MODEL.REFINER.DECODER_LAYERS": "2"}


def smaller(stage: str) -> list[str]:
    """KEY VALUE pairs to end a stage's command with."""
    settings = _SMALLER if stage == "CTVIS_r50" else _SMALLER | _SMALLER_LATER
    return [word for pair in settings.items() for word in pair]


def small_config(dataset: str, stage: str) -> Config:
    """A published experiment, small."""
    return read_config(CONFIGS / dataset / f"{stage}.yaml", smaller(stage))


def small_model(config: Config) -> TrainedModel:
    """As `train` builds it, with weights of a seed."""
    torch.manual_seed(config.seed)
    return TrainedModel(build_model(config.kind, config.segmenter, config.video), config).train()


def two_clips(config: Config) -> tuple[Tensor, list[Clip]]:
    """Frames (RGB, 0..255) of two clips and their objects, of which some are absent from some frames."""
    numbers = torch.Generator().manual_seed(3)
    length, height, width = config.clips.frames, 48, 64
    frames = torch.randint(0, 256, (2, length, 3, height, width), generator=numbers).float()
    categories = torch.zeros(2, length, height, width, dtype=torch.uint8)
    for frame in range(length):
        categories[:, frame, 4:20, 4 + 3 * frame : 30] = 5
        categories[:, frame, 24:40, 8:40] = 11
        categories[1, frame, 24:44, 44:60] = 2 if frame else 0
    return frames, [clip_of(ids) for ids in categories]
