"""Experiment files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.config import setting_limits
from panoptic_segmentation.config.config_keys import FIXED, KEYS, WHOLE_VIDEO
from panoptic_segmentation.config.data_choice import data_choice
from panoptic_segmentation.config.settings import (
    Config,
    InferenceSettings,
    field_value,
    override_test,
    read_config,
    save_config,
    unused_summary,
)
from panoptic_segmentation.model.encoder_only.segmenter import published_encoder_only
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter

SMALL = Path(__file__).parents[3] / "configs" / "panoptic" / "small.yaml"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((SMALL.parents[1] / "scene_graph").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_of_the_other_stage_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment file of a segmenter .*`mmor scene-graph train` reads it"):
        read_config(path, ["SOLVER.MAX_ITER", "3"])


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"splits\.yaml: is no experiment file .*has train.; give one with keys such"):
        read_config(write(tmp_path / "splits.yaml", "train: [day_1]\nval: [day_2]"))


def test_the_small_configuration_is_the_small_segmenter() -> None:
    config = read_config(SMALL)
    assert config.segmenter == small_segmenter(classes=24)
    assert config.unused == ()
    assert config.kind == "ctvis"


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_the_later_small_stages_build_on_the_small_segmenter(kind: str) -> None:
    config = read_config(SMALL.with_stem(f"small_{kind}"))
    assert config.kind == kind
    assert config.segmenter == read_config(SMALL).segmenter
    assert (config.video.depth, config.unused) == (2, ())


def test_the_small_encoder_only_experiment_differs_in_its_model_alone() -> None:
    config, small = read_config(SMALL.with_stem("small_encoder_only")), read_config(SMALL)
    assert (config.kind, config.unused) == ("encoder_only", ())
    assert (config.clips, config.losses, config.test, config.train_data) == (
        small.clips,
        small.losses,
        small.test,
        small.train_data,
    )


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_encoder_only_experiments_are_of_the_published_sizes(size: Literal["small", "base", "large"]) -> None:
    config = read_config(SMALL.with_stem(f"encoder_only_{size}"))
    assert config.segmenter == replace(published_encoder_only(size), grid=(45, 60))
    assert (config.kind, config.unused, config.rates.layer_decay) == ("encoder_only", (), 0.6)
    assert size in config.weights


def test_an_empty_file_is_the_published_experiment(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "c.yaml", "# nothing\n")) == Config()
    assert Config().segmenter == SegmenterConfig()


def test_places_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = read_config(write(tmp_path / "c.yaml", "OUTPUT_DIR: ~/out\nMODEL: {WEIGHTS: ~/a.pth}\n"))
    assert (config.output_folder, config.weights) == ("/home/me/out", "/home/me/a.pth")


def test_bases_overrides_and_what_is_not_used(tmp_path: Path) -> None:
    base = "SOLVER:\n  BASE_LR: 1e-4\n  STEPS: (70000, 90000)\nMODEL: {RPN: {NMS: 0.7}}\nVERSION: 2\n"
    write(tmp_path / "base.yaml", base)
    own = "_BASE_: base.yaml\nMODEL:\n  META_ARCHITECTURE: DVIS_Plus_online\n  MASK_FORMER: {DEC_LAYERS: 4}\n"
    path = write(tmp_path / "c.yaml", own + 'DATASETS:\n  TRAIN: ("mmor_panoptic_train_small",)\n')
    config = read_config(path, ["SOLVER.IMS_PER_BATCH", "8", "INPUT.MIN_SIZE_TRAIN", "96", "MODEL.WEIGHTS", "a/b.pth"])
    assert config.kind == "online"
    assert config.rates.base == 1e-4
    assert config.solver.milestones == (70000, 90000)
    assert config.solver.batch_size == 8
    assert config.clips.shortest == (96,)
    assert config.segmenter.decoder_layers == 3
    assert config.weights == "a/b.pth"
    assert config.unused == ("MODEL.RPN.NMS", "VERSION")
    (choice,) = config.train_choices
    assert (choice.datasets(mmor()), choice.split(mmor()), choice.ground_truth_name) == (
        ("MMOR",),
        "small_train",
        "mmor_ground_truth_train_small",
    )


DUMP = """
CUDNN_BENCHMARK: false
DATALOADER: {ASPECT_RATIO_GROUPING: true, NUM_WORKERS: 8, SAMPLER_TRAIN: TrainingSampler}
DATASETS: {PROPOSAL_FILES_TRAIN: [], TEST: [hybridor_panoptic_test], TRAIN: [hybridor_panoptic_train]}
INPUT:
  CROP: {ENABLED: false, SIZE: [0.9, 0.9], TYPE: relative_range}
  FORMAT: RGB
  MAX_SIZE_TRAIN: 1333
  MIN_SIZE_TEST: 720
  MIN_SIZE_TRAIN: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
  MIN_SIZE_TRAIN_SAMPLING: choice
  RANDOM_FLIP: flip_by_clip
  REVERSE_AGU: false
  SAMPLING_FRAME_NUM: 10
  SAMPLING_FRAME_RANGE: 20
MODEL:
  ANCHOR_GENERATOR: {ANGLES: [[-90, 0, 90]], OFFSET: 0.0}
  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}
  DEVICE: cuda
  MASK_FORMER:
    DEC_LAYERS: 10
    REID_BRANCH: true
    TEST: {OBJECT_MASK_THRESHOLD: 0.8, OVERLAP_THRESHOLD: 0.8, TASK: vps, WINDOW_INFERENCE: true, WINDOW_SIZE: 3}
    TRAIN_NUM_POINTS: 12544
  META_ARCHITECTURE: CTMinVIS
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  RESNETS: {DEPTH: 50, NORM: FrozenBN, RES5_DILATION: 1, STEM_OUT_CHANNELS: 64, STRIDE_IN_1X1: false}
  RPN: {BATCH_SIZE_PER_IMAGE: 256, IN_FEATURES: [res4], NMS_THRESH: 0.7}
  WEIGHTS: ./output/model_0099999.pth
OUTPUT_DIR: ./output_CTVIS
SEED: 42
SOLVER:
  AMP: {ENABLED: true}
  BASE_LR: 0.0001
  CLIP_GRADIENTS: {CLIP_TYPE: full_model, CLIP_VALUE: 0.01, ENABLED: true, NORM_TYPE: 2.0}
  IMS_PER_BATCH: 1
  LR_SCHEDULER_NAME: WarmupMultiStepLR
  MAX_ITER: 100000
  MOMENTUM: 0.9
  OPTIMIZER: ADAMW
  STEPS: [70000, 90000]
  WEIGHT_DECAY_NORM: 0.0
TEST: {DETECTIONS_PER_IMAGE: 100, EVAL_PERIOD: 10000}
VERSION: 2
"""


def test_a_published_dump_is_accepted_and_its_foreign_keys_are_listed_by_group(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "config.yaml", DUMP))
    assert config.clips == Config().clips
    assert config.test.task == WHOLE_VIDEO
    assert config.solver == Config().solver
    assert config.weights == "./output/model_0099999.pth"
    summary = unused_summary(config)
    assert "MODEL.RPN.* (3)" in summary
    assert "SOLVER.MOMENTUM" in summary
    assert "INPUT.CROP" not in summary
    assert read_config(tmp_path / "config.yaml", ["SOLVER.MOMENTUM", "0.8"]).solver == config.solver


def test_a_misspelt_key_of_a_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "SOLVER: {IMS_PER_BACH: 4}\nTEST: {EVAL_PERIOD: 3}\n")
    summary = unused_summary(read_config(path))
    expected = "2 keys without meaning here: SOLVER.IMS_PER_BACH (did you mean SOLVER.IMS_PER_BATCH?), TEST.EVAL_PERIOD"
    assert summary == expected


def test_a_key_in_small_letters_is_told_the_one_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"solver\.max_iter' does not exist; did you mean SOLVER\.MAX_ITER\?"):
        read_config(SMALL, ["solver.max_iter", "3"])
    summary = unused_summary(read_config(write(tmp_path / "c.yaml", "SOLVER: {max_iter: 4}\n")))
    assert summary == "1 keys without meaning here: SOLVER.max_iter (did you mean SOLVER.MAX_ITER?)"


def test_a_saved_configuration_comes_back(tmp_path: Path) -> None:
    config = read_config(SMALL, ["INPUT.CROP.ENABLED", "true", "SOLVER.STEPS", "[3]"])
    save_config(config, tmp_path / "c.yaml")
    assert read_config(tmp_path / "c.yaml") == config


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SOLVER\.IMS_PER_BACH' does not exist; did you mean SOLVER\.IMS_PER_BATCH"):
        read_config(SMALL, ["SOLVER.IMS_PER_BACH", "2"])
    with pytest.raises(UserError, match="has no value"):
        read_config(SMALL, ["SOLVER.STEPS"])
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER: is 'many'; expected int"):
        read_config(SMALL, ["SOLVER.MAX_ITER", "many"])
    with pytest.raises(UserError, match="only 'RGB' is supported"):
        read_config(SMALL, ["INPUT.FORMAT", "BGR"])
    with pytest.raises(UserError, match="it must equal"):
        read_config(SMALL, ["MODEL.SEM_SEG_HEAD.MASK_DIM", "128"])
    with pytest.raises(UserError, match=r"missing\.yaml: no such file"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="is not valid YAML"):
        read_config(write(tmp_path / "broken.yaml", "A: [1"))
    with pytest.raises(UserError, match="is no configuration"):
        read_config(write(tmp_path / "text.yaml", "just words"))
    with pytest.raises(UserError, match="_BASE_ leads back"):
        read_config(write(tmp_path / "circle.yaml", "_BASE_: circle.yaml"))
    with pytest.raises(UserError, match="is not valid YAML"):
        read_config(write(tmp_path / "evil.yaml", '!!python/object/apply:os.system ["true"]'))
    with pytest.raises(UserError, match="does not exist; the names are"):
        data_choice("coco_2017_train")
    with pytest.raises(UserError, match="only 50 is supported"):
        read_config(SMALL, ["MODEL.RESNETS.DEPTH", "101"])
    with pytest.raises(UserError, match="META_ARCHITECTURE"):
        _ = read_config(SMALL, ["MODEL.META_ARCHITECTURE", "Mask2Former"]).kind


REFUSED = [
    ("MODEL.RESNETS.NORM", "SyncBN", "FrozenBN or BN"),
    ("MODEL.RESNETS.NORM", "FrozenBn", "FrozenBN or BN"),
    ("MODEL.RESNETS.NORM", "batch", "FrozenBN or BN"),
    ("MODEL.RESNETS.BLOCK", "Bottleneck", "bottleneck or basic"),
    ("MODEL.RESNETS.WIDTHS", "[24, 48, 96]", "4 numbers"),
    ("MODEL.RESNETS.WIDTHS", "[2, 48, 96, 128]", "4 to"),
    ("MODEL.RESNETS.DEPTHS", "[1, 1, 0, 1]", "1 to 1000"),
    ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8", "2 or 4"),
    ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "10000000", "1 to 1000000"),
    ("MODEL.MASK_FORMER.HIDDEN_DIM", "100", "multiple of 32 and of 4 x"),
    ("MODEL.MASK_FORMER.NHEADS", "6", "multiple of 32 and of 4 x"),
    ("MODEL.MASK_FORMER.NHEADS", "0", "1 to"),
    ("MODEL.MASK_FORMER.DEC_LAYERS", "1", "2 to 1000"),
    ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5", "1 to 1000"),
    ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", "1.5", "0 to 1"),
    ("MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", "-0.1", "0 or more"),
    ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", ".nan", "0 to 1"),
    ("SOLVER.BASE_LR", "-1e-4", "above 0"),
    ("SOLVER.BASE_LR", "nan", "above 0"),
    ("SOLVER.BASE_LR", "inf", "above 0"),
    ("SOLVER.BASE_LR", "1e999", "above 0"),
    ("SOLVER.WEIGHT_DECAY", "-1", "0 or more"),
    ("SOLVER.BACKBONE_MULTIPLIER", ".inf", "0 or more"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0", "above 0"),
    ("SOLVER.AVERAGE_DECAY", "1.0", "less than 1"),
    ("SOLVER.IMS_PER_BATCH", "0", "1 to"),
    ("SOLVER.MAX_ITER", "99999999999", "1 to"),
    ("SOLVER.STEPS", "[-1]", "0 to"),
    ("SOLVER.WARMUP_ITERS", "-5", "0 to"),
    ("SEED", "-1", "0 to"),
    ("DATALOADER.NUM_WORKERS", "-1", "0 to"),
    ("DATALOADER.REPEAT_THRESHOLD", "2", "0 to 1"),
    ("INPUT.SAMPLING_FRAME_RANGE", "0", "1 or more"),
    ("INPUT.SAMPLING_FRAME_NUM", "0", "1 to"),
    ("INPUT.MIN_SIZE_TRAIN", "[]", "at least one"),
    ("INPUT.MIN_SIZE_TRAIN", "[480, 0]", "1 to"),
    ("TEST.CANVAS", "[320]", "2 numbers"),
    ("TEST.CANVAS", "[204800, 153600]", "1 to 16384"),
    ("TEST.CANVAS", "[10240, 7680]", "64000000 px at most"),
    ("TEST.CANVAS", "[[], 240]", "expected int"),
    ("TEST.CANVAS", "[[320, 240]]", "expected int"),
    ("TEST.CANVAS", "[320, true]", "expected int"),
    ("TEST.CANVAS", "{width: 320}", "expected int"),
    ("OUTPUT_DIR", "", "a folder"),  # as of a shell variable that is not set: the working folder
    ("DATASETS.TRAIN", "[]", "at least one"),
    ("DATASETS.TRAIN", "[coco_2017]", "the names are"),
    ("MODEL.META_ARCHITECTURE", "MaskFormer", "CTMinVIS or DVIS_Plus_online"),
    ("MODEL.MASK_FORMER.TEST.TASK", "vis", "vps or causal"),
    ("SOLVER.AMP.DTYPE", "half", "auto or bfloat16 or float16"),
    ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "WarmupMultiStepLR or"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_what_cannot_work_is_refused_when_the_file_is_read(key: str, value: str, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config(SMALL, [key, value])
    told = str(caught.value)
    assert "small.yaml" in told or "value of" in told
    assert key in told or "HIDDEN_DIM" in told
    assert allowed in told


def test_what_cannot_work_is_refused_for_a_model_that_says_how_it_is_built(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert override_test(InferenceSettings(), ["TEST.CANVAS", "[64, 48]"], path).canvas == (64, 48)
    with pytest.raises(UserError, match=r"TEST\.CANVAS is '\[64\]'; expected 2 numbers"):
        override_test(InferenceSettings(), ["TEST.CANVAS", "[64]"], path)
    with pytest.raises(UserError, match=r"OVERLAP_THRESHOLD is 'nan'; expected a number of 0 to 1"):
        override_test(InferenceSettings(), ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", ".nan"], path)


def test_a_clip_of_one_frame_needs_no_reach() -> None:
    assert read_config(SMALL, ["INPUT.SAMPLING_FRAME_RANGE", "0", "INPUT.SAMPLING_FRAME_NUM", "1"]).clips.reach == 0


def test_the_defaults_and_every_limit_belong_to_known_keys() -> None:
    limited = {key for _, keys in setting_limits._LIMITS for key in keys}
    assert limited <= KEYS.keys()
    free = {"MODEL.WEIGHTS", "OUTPUT_DIR", "DATASETS.TRAIN", "DATASETS.TEST"}  # text, looked at elsewhere
    switches = {key for key in KEYS if isinstance(field_value(Config(), key), bool)}
    assert KEYS.keys() - limited == free | switches


def test_no_key_stands_twice() -> None:
    assert not KEYS.keys() & FIXED.keys()


@pytest.mark.parametrize(
    "path", sorted(SMALL.parent.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_published_experiment_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert config.unused == ()
    assert config.segmenter == SegmenterConfig()
    assert config.rates == Config().rates
    assert {choice.name for choice in config.train_choices + config.test_choices} == {path.parent.name.lower()}
    clip = config.clips.frames, config.clips.reach, config.clips.reverse, config.clips.crop
    expected = {"ctvis": (10, 20, False, False), "online": (5, 2, False, False), "offline": (5, 2, True, True)}
    assert clip == expected[config.kind]
    assert config.solver.steps == (100_000 if config.kind == "ctvis" else 40_000)
