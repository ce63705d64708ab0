"""Training runs of a few steps on a take of a few frames."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from computing.training_checkpoints import find_checkpoint
from operating_room.errors import UserError
from operating_room.files.tensors import write_safetensors
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, prepared ground truth and a finished run."""
    root = tmp_path_factory.mktemp("train")
    write_take(root / "data", 7)
    train(TINY, Dataset(root / "data"), root / "run", root / "prepared")
    return root


def test_a_run_leaves_a_model_that_says_what_it_is(trained: Path) -> None:
    model, card = load_model(trained / "run" / "model.safetensors")
    assert card.kind == "ctvis"
    assert card.preprocessing["shortest"] == 32
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert read_config(trained / "run" / "config.yaml") == TINY
    written = [trained / "run" / "config.yaml", *(trained / "run").rglob("*.safetensors")]
    assert len({path.stat().st_mode for path in written}) == 1  # whoever may read the one may read the others
    assert len(written) > 3


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    path = train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    resumed, whole = (published_state(load_model(p)[0]) for p in (path, trained / "run" / "model.safetensors"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


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


def test_the_guided_half_does_not_start_again_after_resuming(trained: Path, tmp_path: Path) -> None:
    """The published switch counts from the start of the process: a resumed run would be guided once more."""
    solver = replace(TINY.solver, batch_size=1, average_decay=0.0, checkpoint_every=3)
    weights = str(trained / "run" / "model.safetensors")
    config = replace(TINY, architecture="DVIS_Plus_online", weights=weights, solver=solver)
    whole = train(config, Dataset(trained / "data"), tmp_path / "whole", trained / "prepared")
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    config = replace(config, weights="not read again.pth")
    resumed = train(config, Dataset(trained / "data"), tmp_path / "resumed", trained / "prepared", resume=True)
    states = [published_state(load_model(path)[0]) for path in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model = TrainedModel(load_model(whole)[0].train(), config)
    calls: list[bool] = []
    model.model.forward = lambda *arguments: calls.append(arguments[-1]) or {}  # ty: ignore[invalid-assignment]
    for step in range(4):
        model(torch.zeros(1, 2, 3, 32, 32), [], [], step)
    assert calls == [True, True, False, False]


def begun(trained: Path, folder: Path) -> Path:
    """A training that was stopped after its last checkpoint."""
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(trained / "run" / name, folder / name)
    shutil.copy(trained / "run" / "config.yaml", folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("optimizer.pt", damage) for damage in (Path.unlink, cut)),
        *(("model.safetensors", damage) for damage in (Path.unlink, cut)),
        *(("scheduler.pt", damage) for damage in (Path.unlink, cut)),
        *(("trainer_state.json", damage) for damage in (Path.unlink, cut)),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    folder = begun(trained, tmp_path / "run")
    damage(folder / "checkpoint-4" / name)
    path = train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    shown = capsys.readouterr()
    assert "checkpoint-4" in shown.err
    assert "left out" in shown.err
    assert f"resuming from {folder / 'checkpoint-2'}" in shown.out
    resumed, whole = (published_state(load_model(p)[0]) for p in (path, trained / "run" / "model.safetensors"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_damaged_scale_of_float16_is_named_and_the_checkpoint_before_taken(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    scale = folder / "checkpoint-4" / "scaler.pt"
    torch.save({"scale": 65536.0}, scale)
    assert find_checkpoint(folder).path == scale.parent
    cut(scale)
    found = find_checkpoint(folder)
    assert found.path == folder / "checkpoint-2"
    assert f"{scale}: damaged" in found.left_out[0]


def test_how_often_a_resumed_training_is_saved_is_as_asked_now(trained: Path, tmp_path: Path) -> None:
    """Trainer would go on as often as the checkpoint says."""
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    often = replace(TINY, solver=replace(TINY.solver, checkpoint_every=1))
    train(often, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    assert (tmp_path / "model_0000002.pth").is_file()


def test_without_any_whole_checkpoint_nothing_begins_anew(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    for checkpoint in folder.glob("checkpoint-*"):
        cut(checkpoint / "optimizer.pt")
    with pytest.raises(UserError, match=r"checkpoint-4/optimizer\.pt: damaged.*choose another folder"):
        train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)


def test_a_trained_model_is_never_overwritten(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "run" / "model_final.pth", tmp_path)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"model_final\.pth: is a trained model"):
            train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=resume)


def test_another_training_is_not_resumed(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"checkpoint-4: is of an earlier training; go on with --resume"):
        train(TINY, Dataset(trained / "data"), folder, trained / "prepared")
    others = {
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES was 6 and is now 9": replace(
            TINY, segmenter=replace(TINY.segmenter, queries=9)
        ),
        "SOLVER.BASE_LR was 0.0001 and is now 0.1": replace(TINY, rates=replace(TINY.rates, base=0.1)),
        "SOLVER.IMS_PER_BATCH was 2 and is now 1": replace(TINY, solver=replace(TINY.solver, batch_size=1)),
        "SEED was 42 and is now 7": replace(TINY, seed=7),
    }
    for told, other in others.items():
        with pytest.raises(UserError, match=f"checkpoint-4: {told}"):
            train(other, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    before = (folder / "config.yaml").read_bytes()
    shorter = replace(TINY, solver=replace(TINY.solver, steps=3))
    with pytest.raises(UserError, match=r"checkpoint-4: has more steps than SOLVER\.MAX_ITER 3; give a larger one"):
        train(shorter, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    assert (folder / "config.yaml").read_bytes() == before
    assert not (folder / "model_final.pth").exists()
    (folder / "config.yaml").write_text("[")
    longer = replace(TINY, solver=replace(TINY.solver, steps=5))
    train(longer, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    assert "whether this is the same training is not checked" in capsys.readouterr().err
    assert (folder / "checkpoint-5").exists()


@pytest.mark.parametrize("other", ["of another program", "with other shapes"])
def test_a_checkpoint_of_another_model_is_refused_without_its_configuration(
    trained: Path, tmp_path: Path, other: str
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    config = replace(TINY, segmenter=replace(TINY.segmenter, queries=9))
    if other == "of another program":
        config = TINY
        weights = {"language.lm_head.weight": torch.zeros(2, 3)}
        write_safetensors(tmp_path / "run" / "checkpoint-2" / "model.safetensors", weights)
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(UserError, match=r"checkpoint-2/model\.safetensors: is of another model.*choose another folder"):
        train(config, Dataset(trained / "data"), tmp_path / "run", tmp_path / "prepared", resume=True)
    assert sorted((tmp_path / "run").rglob("*")) == before
    assert not (tmp_path / "prepared").exists()


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


def test_what_killed_trainings_leave_is_cleared(trained: Path, tmp_path: Path) -> None:
    folder = begun(trained, tmp_path / "run")
    half = folder / "checkpoint-3"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (folder / "checkpoint-best").mkdir()
    train(TINY, Dataset(trained / "data"), folder, trained / "prepared", resume=True)
    assert not half.exists()
    assert (folder / "checkpoint-best").exists()


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


def test_models_whose_checkpoints_are_gone_are_not_written_over(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "run" / "model_0000001.pth", tmp_path)
    with pytest.raises(UserError, match=r"model_0000001\.pth: is a trained model without checkpoint"):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)


@pytest.mark.parametrize("lost", ["model_0000001.pth", "model_0000003.pth"])
def test_a_model_that_was_not_written_after_its_checkpoint_is_when_the_training_goes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    write = trainer.save_published

    def fill(path: Path, *rest: Any) -> None:
        if path.name == lost:
            raise UserError(f"{path}: cannot be written")
        write(path, *rest)

    monkeypatch.setattr(trainer, "save_published", fill)
    with pytest.raises(UserError, match=lost):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared")
    monkeypatch.undo()
    train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)
    assert (tmp_path / lost).exists()
    states = []
    for folder in (tmp_path, trained / "run"):
        model = build_model("ctvis", TINY.segmenter, TINY.video)
        load_checkpoint(folder / lost, model)
        states.append(published_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


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


def test_processes_that_find_other_checkpoints_do_not_begin(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-2", tmp_path / "checkpoint-2")
    monkeypatch.setattr("computing.training_checkpoints.gather", lambda own: [own, None])
    with pytest.raises(UserError, match="checkpoint-2: process 1 does not find it whole on its disk"):
        train(TINY, Dataset(trained / "data"), tmp_path, trained / "prepared", resume=True)


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
