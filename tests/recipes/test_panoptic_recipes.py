"""Stage 1 as published: every experiment file through every published command, and both formats of autocast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmor.cli import main
from panoptic_segmentation.config.config_keys import WHOLE_VIDEO
from panoptic_segmentation.config.settings import read_config
from panoptic_segmentation.inference.predict import segment_video
from panoptic_segmentation.model.matching import Draws
from panoptic_segmentation.weights.checkpoints import build_model, save_published
from tests.operating_room.tiny_dataset import picture, write_dataset
from tests.recipes.small_panoptic import CONFIGS, DATASETS, STAGES, small_config, small_model, smaller, two_clips

FORMATS = (torch.bfloat16, torch.float16)
GUIDED = [(stage, guided) for stage in STAGES for guided in (True, False) if guided or stage != "CTVIS_r50"]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("stage", "guided"), GUIDED)
def test_a_training_step_in_16_bits(stage: str, guided: bool, dtype: torch.dtype) -> None:
    """Forward and backward pass under autocast, close to the losses in float32."""
    config = small_config("HybridOR", stage)
    assert config.solver.mixed_precision
    assert config.solver.amp_type == "auto"
    frames, clips = two_clips(config)
    step = 0 if guided else config.solver.steps // 2
    costs = []
    for chosen in (torch.float32, dtype):
        model = small_model(config)
        draws = [Draws(torch.Generator().manual_seed(seed)) for seed in (1, 2)]
        with torch.autocast("cpu", chosen, enabled=chosen != torch.float32):
            losses = model(frames, clips, draws, step)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        cost = torch.stack(list(losses.values())).sum()
        cost.backward()
        trained = [p for p in model.model.parameters() if p.requires_grad]
        grown = [p.grad for p in trained if p.grad is not None]
        assert grown
        assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grown)
        costs.append(cost.item())
    assert costs[1] == pytest.approx(costs[0], rel=0.1)  # 8 bits of mantissa, and who is assigned to whom may change


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("task", [WHOLE_VIDEO, "causal"])
@pytest.mark.parametrize("stage", STAGES)
def test_prediction_in_16_bits(stage: str, task: str, dtype: torch.dtype) -> None:
    config = read_config(CONFIGS / "HybridOR" / f"{stage}.yaml", [*smaller(stage), "MODEL.MASK_FORMER.TEST.TASK", task])
    model = small_model(config).model.eval()
    frames, _ = two_clips(config)
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        videos = list(segment_video(model, config.test, iter(frames[0].split(2)), 24))
    assert sum(len(video.ids) for video in videos) == len(frames[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Take 001_PKA of MM-OR and take 001 of 4D-OR, both of the training split."""
    root = write_dataset(tmp_path_factory.mktemp("data"))
    labels = np.zeros((48, 64), np.uint8)
    labels[4:20, 8:30], labels[24:40, 10:50] = 5, 10
    for path in root.glob("*/*/*segmentation_export_*/*.png"):
        path.write_bytes(picture("PNG", labels))
    return root


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_published_commands_one_after_the_other(
    dataset: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Frame training from a .pth, online from its checkpoint, offline from that; each resumed, scored and exported."""
    monkeypatch.chdir(tmp_path)
    first = small_config(dataset, STAGES[0])
    save_published(tmp_path / "ctvis_r50_vspw.pth", build_model("ctvis", first.segmenter, first.video), 0, first.losses)
    common = ["--num-gpus", "1", "--data", str(data), "--workers", "1"]
    weights = "ctvis_r50_vspw.pth"
    for stage in STAGES:
        config = small_config(dataset, stage)
        command = ["panoptic", "train", *common, "--config-file", str(CONFIGS / dataset / f"{stage}.yaml")]
        more = ["SOLVER.IMS_PER_BATCH", "1", *smaller(stage), "DATASETS.TEST", f"[{first.train_data[0]}]"]
        for _ in range(2):  # given again it goes on, that is, it is done
            _run(monkeypatch, *command, "--resume", "MODEL.WEIGHTS", weights, *more)
        folder = Path(config.output_folder)
        weights = str(folder / "model_0000001.pth")
        assert Path(weights).is_file()
        capsys.readouterr()
        _run(monkeypatch, *command, "--eval-only", "MODEL.WEIGHTS", weights, *more)
        assert "VPQ" in capsys.readouterr().out
        _run(
            monkeypatch, "panoptic", "export-masks", "--data", str(data), "--model", str(folder), "--out", f"m_{stage}"
        )
        assert list(Path(f"m_{stage}").rglob("pred_train.json"))


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["mmor", *words])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code, words
