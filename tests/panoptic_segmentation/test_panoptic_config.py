"""Experiment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from operating_room.errors import UserError
from operating_room.takes import MMOR
from panoptic_segmentation.config import FIXED, KEYS, Config, data_choice, read_config, save_config
from panoptic_segmentation.model.segmenter import SegmenterConfig, small_segmenter

SMALL = Path(__file__).parents[2] / "configs" / "panoptic" / "small.yaml"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_small_configuration_is_the_small_segmenter() -> None:
    config = read_config(SMALL)
    assert config.segmenter == small_segmenter(classes=24)
    assert config.unused == ()
    assert config.kind == "ctvis"


def test_an_empty_file_is_the_published_experiment(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "c.yaml", "# nothing\n")) == Config()
    assert Config().segmenter == SegmenterConfig()


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
    assert (choice.datasets, choice.split, choice.ground_truth_name) == (
        (MMOR,),
        "small_train",
        "mmor_ground_truth_train_small",
    )


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
    with pytest.raises(UserError, match="META_ARCHITECTURE"):
        _ = read_config(SMALL, ["MODEL.META_ARCHITECTURE", "Mask2Former"]).kind


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
