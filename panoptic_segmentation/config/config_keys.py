"""The published keys of experiment files, and what each is here (stage-1 specification, section 10)."""

from __future__ import annotations

from typing import Any

from panoptic_segmentation.model.segmenter import PIXEL_MEAN, PIXEL_STD

# META_ARCHITECTURE -> kind of model.
ARCHITECTURES = {
    "CTMinVIS": "ctvis",
    "DVIS_Plus_online": "online",
    "DVIS_Plus_offline": "offline",
    "EncoderOnly": "encoder_only",  # ours
}
ARCHITECTURE_OF = {kind: name for name, kind in ARCHITECTURES.items()}
# LR_SCHEDULER_NAME; the second is ours
MULTI_STEP, CONSTANT_LINEAR, POLYNOMIAL = "WarmupMultiStepLR", "WarmupConstantLinear", "WarmupPolyLR"
CAUSAL, WHOLE_VIDEO = "causal", "vps"  # TASK; the first is ours
AMP_TYPES = ("auto", "bfloat16", "float16")  # AMP.DTYPE, ours
FLOAT32 = "float32"
TEST_TYPES = (FLOAT32, "bfloat16", "float16")  # TEST.DTYPE, ours
# Published key -> field of Config. Keys marked "ours" are not published.
KEYS = {
    "MODEL.META_ARCHITECTURE": "architecture",
    "MODEL.WEIGHTS": "weights",
    "OUTPUT_DIR": "output_folder",
    "SEED": "seed",
    "DATASETS.TRAIN": "train_data",
    "DATASETS.TEST": "test_data",
    "DATALOADER.NUM_WORKERS": "workers",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "segmenter.classes",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "segmenter.queries",
    "MODEL.RESNETS.BLOCK": "segmenter.block",  # ours
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "segmenter.stem_width",
    "MODEL.RESNETS.WIDTHS": "segmenter.widths",  # ours
    "MODEL.RESNETS.DEPTHS": "segmenter.depths",  # ours
    "MODEL.RESNETS.NORM": "segmenter.norm",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": "segmenter.mask_stride",
    "MODEL.MASK_FORMER.HIDDEN_DIM": "segmenter.width",
    "MODEL.MASK_FORMER.NHEADS": "segmenter.heads",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "segmenter.encoder_layers",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_FEEDFORWARD": "segmenter.encoder_hidden",  # ours
    "MODEL.MASK_FORMER.DEC_LAYERS": "segmenter.decoder_layers",  # published: one more, the learnable queries
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "segmenter.decoder_hidden",
    "MODEL.ENCODER.PATCH": "segmenter.patch",  # ours, as the next two
    "MODEL.ENCODER.REGISTERS": "segmenter.registers",
    "MODEL.ENCODER.GRID": "segmenter.grid",
    "MODEL.TRACKER.DECODER_LAYERS": "video_layers",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": "losses.points",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": "losses.oversample",
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": "losses.uncertain",
    "MODEL.MASK_FORMER.CLASS_WEIGHT": "losses.class_weight",
    "MODEL.MASK_FORMER.MASK_WEIGHT": "losses.mask_weight",
    "MODEL.MASK_FORMER.DICE_WEIGHT": "losses.dice_weight",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": "losses.no_object_weight",
    "MODEL.CL_PLUGIN.REID_WEIGHT": "losses.reid_weight",
    "MODEL.CL_PLUGIN.AUX_REID_WEIGHT": "losses.reid_cosine_weight",
    "SOLVER.IMS_PER_BATCH": "solver.batch_size",
    "SOLVER.MAX_ITER": "solver.steps",
    "SOLVER.CHECKPOINT_PERIOD": "solver.checkpoint_every",
    "SOLVER.LR_SCHEDULER_NAME": "solver.schedule",
    "SOLVER.STEPS": "solver.milestones",
    "SOLVER.GAMMA": "solver.gamma",
    "SOLVER.WARMUP_ITERS": "solver.warmup_steps",
    "SOLVER.WARMUP_FACTOR": "solver.warmup_factor",
    "SOLVER.ENCODER_WARMUP_ITERS": "solver.encoder_warmup_steps",  # ours
    "SOLVER.BASE_LR": "rates.base",
    "SOLVER.BACKBONE_MULTIPLIER": "rates.backbone_multiplier",
    "SOLVER.LAYER_DECAY": "rates.layer_decay",  # ours
    "SOLVER.WEIGHT_DECAY": "rates.decay",
    "SOLVER.WEIGHT_DECAY_NORM": "rates.decay_of_normalisation",
    "SOLVER.WEIGHT_DECAY_EMBED": "rates.decay_of_embeddings",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "solver.clip",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "solver.clip_norm",
    "SOLVER.AMP.ENABLED": "solver.mixed_precision",
    "SOLVER.AMP.DTYPE": "solver.amp_type",  # ours
    "SOLVER.AVERAGE_DECAY": "solver.average_decay",  # ours
    "INPUT.SAMPLING_FRAME_NUM": "clips.frames",
    "INPUT.SAMPLING_FRAME_RANGE": "clips.reach",
    "INPUT.REVERSE_AGU": "clips.reverse",
    "DATALOADER.REPEAT_THRESHOLD": "clips.repeat_threshold",
    "INPUT.MIN_SIZE_TRAIN": "clips.shortest",
    "INPUT.MAX_SIZE_TRAIN": "clips.longest",
    "INPUT.CROP.ENABLED": "clips.crop",
    "INPUT.CROP.SIZE": "clips.crop_size",
    "INPUT.COLOR_JITTER": "clips.color_jitter",  # ours
    "INPUT.MIN_SIZE_TEST": "test.shortest",
    "INPUT.MAX_SIZE_TEST": "test.longest",
    "TEST.CANVAS": "test.canvas",  # ours
    "TEST.AT_CANVAS": "test.at_canvas",  # ours
    "TEST.RUNNING_MEAN": "test.running_mean",  # ours
    "TEST.DTYPE": "test.dtype",  # ours
    "MODEL.MASK_FORMER.TEST.TASK": "test.task",  # "causal" is ours
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": "test.score_threshold",
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": "test.overlap_threshold",
    "MODEL.MASK_FORMER.TEST.WINDOW_SIZE": "test.window",
}
# Published keys that have only this value here.
FIXED: dict[str, Any] = {
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.SAMPLING_FRAME_SHUFFLE": False,
    "INPUT.CROP.TYPE": "absolute",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.PIXEL_MEAN": PIXEL_MEAN,
    "MODEL.PIXEL_STD": PIXEL_STD,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.REID_BRANCH": True,
    "MODEL.MASK_FORMER.NUM_REID_HEAD_LAYERS": 3,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
}
# Published keys that repeat another one.
SAME_AS = {
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": "MODEL.MASK_FORMER.HIDDEN_DIM",
    "MODEL.SEM_SEG_HEAD.MASK_DIM": "MODEL.MASK_FORMER.HIDDEN_DIM",
    "MODEL.MASK_FORMER.REID_HIDDEN_DIM": "MODEL.MASK_FORMER.HIDDEN_DIM",
    "MODEL.REFINER.DECODER_LAYERS": "MODEL.TRACKER.DECODER_LAYERS",
}
# What makes a model; a checkpoint fits no other.
MODEL_KEYS = [
    "MODEL.META_ARCHITECTURE",
    "SOLVER.AVERAGE_DECAY",
    *(key for key, name in KEYS.items() if name.startswith(("segmenter.", "video_"))),
]
# What the optimiser's state in a checkpoint brings back, and what decides which clips come next.
STAY_KEYS = ["SEED", "SOLVER.IMS_PER_BATCH", *(key for key, name in KEYS.items() if name.startswith("rates."))]
