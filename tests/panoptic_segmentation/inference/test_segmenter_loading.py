"""Which model is used, and how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from panoptic_segmentation.config.settings import save_config
from panoptic_segmentation.data.videos import Video
from panoptic_segmentation.inference.predict import export_masks, load, predict, read_test_config
from panoptic_segmentation.scores.evaluate import predict_and_evaluate
from panoptic_segmentation.weights.checkpoints import build_model, save_published
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.inference.test_predict import new_model
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


def test_published_checkpoints_need_a_configuration(tmp_path: Path, videos: list[Video]) -> None:
    path = tmp_path / "model_final.pth"
    save_published(path, build_model("ctvis", TINY.segmenter, TINY.video))
    with pytest.raises(UserError, match="give the configuration"):
        load(path, mmor())
    predict(*load(path, mmor(), TINY), videos[:1], tmp_path / "out", "train", path)


def test_a_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output_CTVIS: no such model"):
        list(export_masks(tmp_path / "output_CTVIS", None, write_take(tmp_path / "data", 4), tmp_path / "out"))
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor model_final\.pth"):
        load(tmp_path, mmor())
    save_published(tmp_path / "model_final.pth", build_model("ctvis", TINY.segmenter, TINY.video))
    with pytest.raises(UserError, match=r"no config\.yaml beside it"):
        read_test_config(tmp_path, None, ["TEST.RUNNING_MEAN", "true"])


def test_a_model_that_says_how_it_is_built_is_used_as_told(tmp_path: Path) -> None:
    path = new_model(tmp_path / "model.safetensors")
    own = load(path, mmor())[1]
    (tmp_path / "config.yaml").write_text("train: {max_steps: 3}\n")  # of something else, and not looked into
    config = read_test_config(path, None, ["INPUT.MIN_SIZE_TEST", "64", "MODEL.MASK_FORMER.TEST.TASK", "vps"])
    assert load(path, mmor(), config)[1] == replace(own, shortest=64, task="vps")
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITER: .* says itself how it is built; .*INPUT\.MIN_SIZE_TEST"):
        read_test_config(path, None, ["SOLVER.MAX_ITER", "4"])
    with pytest.raises(UserError, match=r"did you mean INPUT\.MIN_SIZE_TEST"):
        read_test_config(path, None, ["INPUT.MINSIZE_TEST", "64"])


def test_a_model_is_not_scored_under_the_name_of_another_kind(tmp_path: Path) -> None:
    """The experiment of a later stage names the model that it starts from, which `--eval-only` must not score."""
    dataset, path = write_take(tmp_path / "data", 4), new_model(tmp_path / "model.safetensors")
    online = replace(TINY, architecture="DVIS_Plus_online", weights=str(path), test_data=("mmor_panoptic_train",))
    told = "holds the ctvis model, but the configuration asks for the online one"
    with pytest.raises(UserError, match=told):
        list(predict_and_evaluate(online, dataset, tmp_path / "out", tmp_path / "prepared"))
    save_config(online, tmp_path / "online.yaml")
    with pytest.raises(UserError, match=told):
        load(path, mmor(), read_test_config(path, tmp_path / "online.yaml"))
    later = new_model(tmp_path / "online.safetensors", "online")
    assert load(later, mmor(), read_test_config(later, None, ["INPUT.MIN_SIZE_TEST", "64"]))[1].shortest == 64
