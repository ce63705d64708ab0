"""Training runs of a few steps on a take of a few frames."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads
from panoptic_segmentation.config.config_keys import CONSTANT_LINEAR, POLYNOMIAL
from panoptic_segmentation.config.settings import ClipSettings, Config, InferenceSettings, Solver, read_config
from panoptic_segmentation.model.encoder_only import video_model
from panoptic_segmentation.model.matching import LossSettings
from panoptic_segmentation.model.segmenter import SegmenterConfig
from panoptic_segmentation.training import trainer
from panoptic_segmentation.training.dry_run import dry_run
from panoptic_segmentation.training.train import train
from panoptic_segmentation.training.trainer import TrainedModel, rate_factor, readers
from panoptic_segmentation.weights.checkpoints import build_model, load_checkpoint, load_model, published_state
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.strange_weights import FITTING, write_dinov2, write_eomt

TINY = Config(
    train_data=("mmor_panoptic_train",),
    workers=0,
    segmenter=SegmenterConfig(
        classes=24, queries=6, block="basic", stem_width=8, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), norm="batch",
        mask_stride=2, width=32, heads=2, encoder_layers=1, encoder_hidden=32, decoder_layers=1, decoder_hidden=32,
    ),
    video_layers=1,
    losses=LossSettings(points=40),
    solver=Solver(
        batch_size=2, steps=4, checkpoint_every=2, schedule=CONSTANT_LINEAR, warmup_steps=1, average_decay=0.9
    ),
    clips=ClipSettings(frames=2, reach=2, shortest=(32,)),
    test=InferenceSettings(shortest=32, canvas=(16, 12), at_canvas=True, score_threshold=0.0, overlap_threshold=0.0),
)  # fmt: skip


def test_a_run_leaves_a_model_that_says_what_it_is(trained: Path) -> None:
    model, card = load_model(trained / "run" / "model.safetensors")
    assert card.kind == "ctvis"
    assert card.preprocessing["shortest"] == 32
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert read_config(trained / "run" / "config.yaml") == TINY
    written = [trained / "run" / "config.yaml", *(trained / "run").rglob("*.safetensors")]
    assert len({path.stat().st_mode for path in written}) == 1  # whoever may read the one may read the others
    assert len(written) > 3


@pytest.mark.parametrize("architecture", ["DVIS_Plus_online", "DVIS_Plus_offline"])
def test_later_stages_start_from_the_one_before(trained: Path, tmp_path: Path, architecture: str) -> None:
    solver = replace(TINY.solver, steps=2, batch_size=1, average_decay=0.0)
    weights = str(trained / "run" / "model.safetensors")
    config = replace(TINY, architecture=architecture, weights=weights, solver=solver)
    model, card = load_model(train(config, Dataset(trained / "data"), tmp_path, trained / "prepared"))
    assert card.kind == config.kind
    start = published_state(load_model(Path(weights))[0])
    end = published_state(model)
    assert all(torch.equal(start[name], end[name]) for name in start)  # the segmenter is frozen


def test_the_encoder_only_segmenter_is_trained_resumed_and_scored_with_its_average(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, architecture="EncoderOnly")
    told: list[float] = []
    shares = video_model.masking
    monkeypatch.setattr(video_model, "masking", lambda blocks, done: told.append(done) or shares(blocks, done))
    whole = train(config, Dataset(trained / "data"), tmp_path / "whole", trained / "prepared")
    assert sorted(set(told)) == [0.0, 0.25, 0.5, 0.75]  # masked attention follows the training's length
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = train(config, Dataset(trained / "data"), tmp_path / "resumed", trained / "prepared", resume=True)
    states = [published_state(load_model(path)[0]) for path in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert load_model(whole)[1].kind == "encoder_only"
    final = build_model("encoder_only", TINY.segmenter, TINY.video)
    assert load_checkpoint(whole.parent / "model_final.pth", final).missing == []
    further = replace(config, weights=str(whole), segmenter=replace(TINY.segmenter, classes=30, grid=(2, 3)))
    train(further, Dataset(trained / "data"), tmp_path / "further", trained / "prepared")
    with pytest.raises(UserError, match="holds the encoder_only model, but the configuration asks for the ctvis one"):
        train(replace(TINY, weights=str(whole)), Dataset(trained / "data"), tmp_path / "other", trained / "prepared")


@pytest.mark.parametrize("architecture", ["CTMinVIS", "DVIS_Plus_online", "DVIS_Plus_offline", "EncoderOnly"])
def test_a_training_that_diverges_is_an_error(trained: Path, tmp_path: Path, architecture: str) -> None:
    config = replace(TINY, architecture=architecture, solver=replace(TINY.solver, clip=False, batch_size=1, steps=8))
    config = replace(config, rates=replace(TINY.rates, base=1e30))
    with pytest.raises(UserError, match=r"diverged.*lower the learning rate"):
        train(config, Dataset(trained / "data"), tmp_path, trained / "prepared")
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "model_final.pth").exists()


def test_weights_that_are_no_numbers_are_not_saved(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step spoils them: no loss comes after it that would tell."""
    update = TrainedModel.update_average

    def spoil(self: TrainedModel, steps: int) -> None:
        update(self, steps)
        if steps == 3:
            with torch.no_grad():
                next(self.result.parameters()).fill_(float("nan"))

    monkeypatch.setattr(TrainedModel, "update_average", spoil)
    config = replace(TINY, solver=replace(TINY.solver, steps=3))
    with pytest.raises(UserError, match=r"at step 4?.*no finite numbers any more.*checkpoint-2 is from before"):
        train(config, Dataset(trained / "data"), tmp_path, trained / "prepared")
    assert not (tmp_path / "model_final.pth").exists()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_gpus_of_several_kinds_do_not_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_take(tmp_path / "data", 2)
    monkeypatch.setattr("computing.meeting.gather", lambda own: [own, "float16"])
    with pytest.raises(UserError, match=r"float32 \(process 0\), float16 \(process 1\); .*SOLVER.AMP.DTYPE float16"):
        train(TINY, dataset, tmp_path / "run", tmp_path / "prepared")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt", "model_0000001.pth"])
def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(trained: Path, tmp_path: Path, part: str) -> None:
    """A limit on file size, just below that of one file of a checkpoint, stands for the full disk."""
    there = trained / "run" / part if part.endswith(".pth") else trained / "run" / "checkpoint-2" / part
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (there.stat().st_size - 1, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*check free space") as caught:
            train(TINY, Dataset(trained / "data"), tmp_path / "full", trained / "prepared")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "full").rglob("*.partial*"))
    assert all((path / "trainer_state.json").exists() for path in (tmp_path / "full").glob("checkpoint-*"))


def test_readers_are_no_more_than_processors(
    trained: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, workers=64, solver=replace(TINY.solver, steps=1))
    assert readers(config) == cpu_threads()
    train(config, Dataset(trained / "data"), tmp_path, trained / "prepared")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # of two processes on this machine
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert readers(config) == max(1, cpu_threads() // 2)
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]


def test_published_files_are_left_on_the_way(trained: Path) -> None:
    files = sorted(path.name for path in (trained / "run").glob("*.pth"))
    assert files == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]
    model = build_model("ctvis", TINY.segmenter, TINY.video)
    assert load_checkpoint(trained / "run" / "model_final.pth", model).missing == []
    ours = published_state(load_model(trained / "run" / "model.safetensors")[0])
    assert all(torch.equal(ours[name], tensor) for name, tensor in published_state(model).items())


def test_a_full_disk_and_a_bad_frame_are_one_line(trained: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*check free space") as caught:
            train(TINY, Dataset(trained / "data"), tmp_path / "full", trained / "prepared")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    shutil.copytree(trained / "data", tmp_path / "data")
    for picture in (tmp_path / "data").rglob("*.jpg"):
        picture.write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match=r"jpg: is not a readable") as caught:
        train(replace(TINY, workers=1), Dataset(tmp_path / "data"), tmp_path / "bad", tmp_path / "prepared")
    assert "\n" not in str(caught.value)


def test_wrong_weights_are_refused_before_anything_is_written(trained: Path, tmp_path: Path) -> None:
    larger = replace(
        TINY, segmenter=replace(TINY.segmenter, width=64), weights=str(trained / "run" / "model.safetensors")
    )
    with pytest.raises(UserError, match="another architecture"):
        train(larger, Dataset(trained / "data"), tmp_path / "run", trained / "prepared")
    with pytest.raises(UserError, match="no annotated frame"):
        train(
            replace(TINY, train_data=("mmor_panoptic_val",)),
            Dataset(trained / "data"),
            tmp_path / "run",
            trained / "prepared",
        )
    assert not (tmp_path / "run").exists()


def test_the_rate_warms_up_and_falls() -> None:
    linear = rate_factor(Solver(steps=100, schedule=CONSTANT_LINEAR, warmup_steps=10, warmup_factor=0.0))
    assert [round(linear(step), 3) for step in (0, 5, 10, 70, 85, 100)] == [0, 0.5, 1, 1, 0.5, 0]
    published = rate_factor(Solver())
    assert [published(step) for step in (0, 69_999, 70_000, 90_000)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_polynomial_rate_falls_all_the_way() -> None:
    factor = rate_factor(Solver(steps=100, schedule=POLYNOMIAL, warmup_steps=10, warmup_factor=0.0))
    assert [factor(step) for step in (0, 50, 100)] == pytest.approx([0, 0.5**0.9, 0])


def test_the_transformer_rests_until_what_is_new_is_warm() -> None:
    solver = Solver(steps=100, schedule=POLYNOMIAL, warmup_steps=10, warmup_factor=0.0, encoder_warmup_steps=20)
    heads, encoder = rate_factor(solver), rate_factor(solver, of_encoder=True)
    assert [encoder(step) for step in (0, 9, 10)] == [0, 0, 0]
    assert encoder(20) == pytest.approx(0.5 * heads(20))
    assert [encoder(step) for step in (30, 70)] == [heads(step) for step in (30, 70)]
    together = rate_factor(replace(solver, encoder_warmup_steps=0), of_encoder=True)
    assert [together(step) for step in (5, 50)] == [heads(step) for step in (5, 50)]


def test_averaged_weights_follow() -> None:
    model = TrainedModel(build_model("ctvis", TINY.segmenter, TINY.video), TINY)
    start = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += 1
    model.update_average(1000)
    for name, mean in model.result.named_parameters():
        assert torch.allclose(mean, start[name] + 0.1, atol=1e-5)


@pytest.mark.parametrize("write", [write_eomt, write_dinov2])
def test_a_training_starts_from_a_file_of_the_hub(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "hub")
    solver = replace(TINY.solver, steps=1, checkpoint_every=1)
    fitting = replace(FITTING, classes=24)
    config = replace(TINY, architecture="EncoderOnly", segmenter=fitting, solver=solver, weights=str(tmp_path / "hub"))
    assert dry_run(config, trained / "data", tmp_path / "run").problems == []
    assert train(config, Dataset(trained / "data"), tmp_path / "run", trained / "prepared").exists()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: str(tmp_path / "hub" / file))
    by_name = replace(config, weights="facebook/dinov2-with-registers-small")
    assert train(by_name, Dataset(trained / "data"), tmp_path / "by_name", trained / "prepared").exists()


def test_a_gpu_that_others_fill_is_told_before_anything_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other call.")

    monkeypatch.setattr(trainer, "TrainingArguments", full)
    with pytest.raises(UserError, match=r"^the GPU's memory is full \(CUDA error: out of memory\)"):
        train(TINY, Dataset(trained / "data"), tmp_path / "run", trained / "prepared")
    assert not (tmp_path / "run").exists()


def test_a_disk_without_permissions_takes_checkpoints(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.chmod

    def refuse(path: Path, *rest: Any) -> None:
        if path.parent.name.startswith("checkpoint-"):
            raise PermissionError(1, "Operation not permitted", str(path))
        usual(path, *rest)

    monkeypatch.setattr(Path, "chmod", refuse)
    once = replace(TINY, solver=replace(TINY.solver, steps=1, checkpoint_every=1))
    assert train(once, Dataset(trained / "data"), tmp_path, trained / "prepared").exists()


def test_who_waits_for_masks_of_a_process_that_ends_says_so_in_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def left_alone(*_: Any, **__: Any) -> Generator[None]:
        raise RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:25472")
        yield

    monkeypatch.setattr(trainer.TrainingArguments, "main_process_first", left_alone)
    with pytest.raises(UserError, match=r"^another process of this start has ended"):
        train(TINY, Dataset(trained / "data"), tmp_path / "run", trained / "prepared")
