"""What a training of a segmenter would do, and the memory that it would take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from computing import machine
from computing.machine import autocast
from mmor import cli
from panoptic_segmentation.config.settings import Config, save_config
from panoptic_segmentation.model.losses import Clip
from panoptic_segmentation.model.matching import Draws
from panoptic_segmentation.training import dry_run as dry_run_module
from panoptic_segmentation.training.dry_run import dry_run
from panoptic_segmentation.training.training_memory import LiveBytes, Step, step_memory
from panoptic_segmentation.weights.checkpoints import build_model, save_published
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

CPU = torch.device("cpu")
STEP = Step(clips=1, frames=3, height=96, width=128, objects=4)
NO_AVERAGE = replace(TINY, solver=replace(TINY.solver, average_decay=0.0))


def test_live_bytes_are_those_of_tensors_that_are_there() -> None:
    kept: list[Tensor] = []
    with LiveBytes() as live:
        for _ in range(5):
            large = torch.zeros(1000)
            kept.append(large[:10].clone())
            view = large.view(10, 100)
            del large, view
        assert live.now() == 5 * 40
    assert live.peak == 4000 + 5 * 40  # the last large one, and all small ones


def measured(config: Config, step: Step, dtype: torch.dtype | None) -> int:
    """Bytes at the worst moment of a real step: forward, matching, losses, backward."""
    model = build_model(config.kind, config.segmenter, config.video)
    draws = [Draws(torch.Generator().manual_seed(i)) for i in range(step.clips)]
    further: dict[str, tuple[bool | float, ...]] = {"ctvis": (), "encoder_only": (0.0,)}
    with LiveBytes() as live, autocast(CPU, dtype):
        frames = 255 * torch.rand(step.clips, step.frames, 3, step.height, step.width)
        masks = torch.rand(step.objects, step.frames, step.height, step.width) > 0.5
        present = torch.ones(step.objects, step.frames, dtype=torch.bool)
        clips = [Clip(torch.arange(step.objects), masks, present)] * step.clips
        losses = model(frames, clips, config.losses, draws, *further.get(config.kind, (True,)))
        torch.stack(list(losses.values())).sum().backward()
    return live.peak


@pytest.mark.parametrize("architecture", ["CTMinVIS", "EncoderOnly"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("step", [STEP, replace(STEP, clips=2), replace(STEP, frames=6, height=64)])
def test_the_estimate_is_what_a_real_step_takes(step: Step, dtype: torch.dtype | None, architecture: str) -> None:
    config = replace(NO_AVERAGE, architecture=architecture)
    expected = measured(config, step, dtype)
    assert step_memory(config, step, dtype).step == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("architecture", ["DVIS_Plus_online", "DVIS_Plus_offline"])
def test_later_stages_take_about_as_much(architecture: str) -> None:
    """Tracker and refiner are not run on shapes: what they predict, and the segmenter before them, decide."""
    config = replace(NO_AVERAGE, architecture=architecture)
    expected = measured(config, STEP, None)
    assert step_memory(config, STEP, None).step == pytest.approx(expected, rel=0.5)


def test_weights_optimiser_and_copies_are_counted() -> None:
    model = build_model(TINY.kind, TINY.segmenter, TINY.video)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(parameter.numel() for parameter in model.parameters())
    alone = step_memory(NO_AVERAGE, STEP, None)
    assert (alone.weights, alone.optimiser) == (weights, 8 * trained)
    assert step_memory(TINY, STEP, None).weights == 2 * weights
    assert step_memory(NO_AVERAGE, STEP, None, processes=2).step == alone.step + 4 * trained


def test_the_published_clip_at_its_largest() -> None:
    """20 GB for 10 frames of 800 px; twice that when the encoder's layers were kept."""
    published = Config()
    one, two = (step_memory(published, Step(1, n, 800, 1067, 12), torch.bfloat16).step / 1e9 for n in (1, 2))
    assert one + 9 * (two - one) == pytest.approx(20.3, rel=0.05)


def test_a_report_without_problems(tmp_path: Path) -> None:
    write_take(tmp_path / "data", 9)
    save_published(tmp_path / "start.pth", build_model("ctvis", TINY.segmenter, TINY.video))
    config = replace(TINY, weights=str(tmp_path / "start.pth"))
    report = dry_run(config, tmp_path / "data", tmp_path / "out")
    assert report.problems == []
    for told in (
        "1 takes on disk (001_PKA_MMOR), 1 videos, 8 annotated frames",
        "4 steps of 2 clips over 1 processes, each video 8.0 times; a clip is 2 frames, shortest edge 32 px",
        "not known before the first ones",
        "starts from",
        "every 2 steps and at the end, 2 times",
        "every step 0.0 GB",
        "2 clips of 2 frames of 32x43 px",
        "INPUT.SAMPLING_FRAME_NUM 1: ",
        "inputs: all there",
    ):
        assert told in report.text, report.text
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way_is_told_all_at_once(tmp_path: Path) -> None:
    write_take(tmp_path / "data", 4)
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    config = replace(
        TINY, train_data=("mmor_panoptic_train", "4dor_panoptic_train"), weights="gone.pth",
        solver=replace(TINY.solver, batch_size=3),
    )  # fmt: skip
    problems = dry_run(config, tmp_path / "data", tmp_path / "out", processes=2).problems
    for told in ("4dor_panoptic_train: none of its takes", "SOLVER.IMS_PER_BATCH 3", "checkpoint-2: is of an earlier"):
        assert any(told in problem for problem in problems), problems
    (tmp_path / "file").touch()
    problems = dry_run(config, tmp_path / "nothing", tmp_path / "file" / "out", processes=2).problems
    for told in (
        f"{tmp_path / 'file'}: is no folder; choose another output",
        *("gone.pth: not found", "checkpoints download segmenter-initial", str(tmp_path / "nothing")),
    ):
        assert any(told in problem for problem in problems), problems


def test_weights_and_options_that_the_training_refuses_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_take(tmp_path / "data", 4)
    spoilt = build_model("ctvis", TINY.segmenter, TINY.video)
    torch.nn.init.constant_(next(spoilt.parameters()), torch.nan)
    save_published(tmp_path / "start.pth", spoilt)
    names = ("a_panoptic_train", "b_panoptic_train", "mmor_panoptic_train")
    config = replace(TINY, train_data=names, weights=str(tmp_path / "start.pth"))
    monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu(0, "Card", 80 << 30, (9, 0), True)])
    folders = tmp_path / "data", tmp_path / "out"
    problems = dry_run(config, *folders, processes=4, report_to="tensorboard", machines=2).problems
    for told in (
        "'a_panoptic_train' does not exist", "'b_panoptic_train' does not exist", "holds values that are no numbers",
        "--report-to tensorboard: expected one of none, wandb", "2 GPUs were asked for, this machine has 1",
    ):  # fmt: skip
        assert any(told in problem for problem in problems), problems


def test_a_training_that_goes_on_needs_room_for_the_rest_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_take(tmp_path / "data", 4)
    out = tmp_path / "out"
    for step in (6, 8):
        (out / f"checkpoint-{step}").mkdir(parents=True)
    found: list[Path | None] = [None]
    monkeypatch.setattr(dry_run_module, "begin_folder", lambda *_, **__: found[0])
    config = replace(TINY, solver=replace(TINY.solver, steps=9))
    weights = 4 * sum(
        tensor.numel() for tensor in build_model("ctvis", TINY.segmenter, TINY.video).state_dict().values()
    )
    trained = sum(parameter.numel() for parameter in build_model("ctvis", TINY.segmenter, TINY.video).parameters())
    whole, rest = (n * weights + m * (2 * weights + 8 * trained) for n, m in ((5 + 2, 3), (1 + 2, 1)))
    free = rest
    monkeypatch.setattr(dry_run_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    report = dry_run(config, tmp_path / "data", out)
    assert any(f"training needs up to {whole / 1e9:.1f} GB" in problem for problem in report.problems), report.problems
    found[0] = out / "checkpoint-8"
    report = dry_run(config, tmp_path / "data", out, resume=True)
    assert report.problems == []
    assert "at the end, 1 times" in report.text
    free = rest - 1
    assert len(dry_run(config, tmp_path / "data", out, resume=True).problems) == 1


def test_the_command(tmp_path: Path) -> None:
    write_take(tmp_path / "data", 4)
    save_config(TINY, tmp_path / "c.yaml")
    command = ["panoptic", "train", "--dry-run", "--config-file", str(tmp_path / "c.yaml")]
    command += ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "inputs: all there" in result.output
    result = CliRunner().invoke(cli.app, [*command, "MODEL.WEIGHTS", "gone.pth"])
    assert result.exit_code != 0
    assert "gone.pth: not found" in result.output
    assert "training would not start: 1 problems" in str(result.exception), result.output
