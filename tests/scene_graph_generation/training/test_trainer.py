"""The engine of training: killed and resumed, on two processes, with bad samples, in the published order."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import yaml

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import Experiment, TrainConfig, to_mapping, with_vocabulary
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.sampler import length_grouped_order
from scene_graph_generation.samples.survey import survey
from scene_graph_generation.training.loss import loss_weights
from scene_graph_generation.training.train import train
from scene_graph_generation.training.trainer import ModelFolder, SceneGraphTrainer, readers, training_arguments
from tests.dying import dies_in, require_killed
from tests.number_formats import Formats
from tests.scene_graph_generation.tiny_training import SHORT, losses, with_settings

ROOT = Path(__file__).parents[3]
PROGRAM = ("-m", "tests.scene_graph_generation.tiny_training")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    run(SHORT, data, out)
    return out


def run(experiment: Experiment, data: Path, out: Path) -> None:
    train(experiment, [data / "samples.json"], Dataset(data), out)


def start(*words: str | Path, **place: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **place}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    code = dies_in("scene_graph_generation.training.trainer", "SceneGraphTrainer.compute_loss", 8)
    run_it = "import sys; from tests.scene_graph_generation.tiny_training import main; main(*sys.argv[1:])"
    require_killed(start("-c", code + run_it, data, tmp_path))
    assert (tmp_path / "checkpoint-6").is_dir()
    assert not (tmp_path / "model.safetensors").exists()
    run(SHORT, data, tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)
    assert sorted(losses(tmp_path)) == list(range(1, 11))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path, uninterrupted)]
    assert weights[0] == weights[1]


def test_a_killed_training_with_muon_goes_on_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    code = dies_in("scene_graph_generation.training.trainer", "SceneGraphTrainer.compute_loss", 8)
    run_it = "import sys; from tests.scene_graph_generation.tiny_training import main; main(*sys.argv[1:])"
    muon = ("train.matrix_learning_rate=0.02", "train.visual_learning_rate=1e-3")
    settings = tuple(f"train.{name}={getattr(SHORT.train, name)}" for name in ("batch_size", "max_steps", "save_steps"))
    chosen = (*settings, "train.log_steps=1", *muon)
    require_killed(start("-c", code + run_it, data, tmp_path / "killed", *chosen))
    assert (tmp_path / "killed" / "checkpoint-6").is_dir()
    for out in ("killed", "whole"):
        finish(start(*PROGRAM, data, tmp_path / out, *chosen))
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_the_log_tells_rate_and_wait_for_data(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 10
    assert all(line["samples_per_s"] > 0 for line in steps)
    assert all(0 < line["data_wait"] < 1 for line in steps)


COMMON = ("train.batch_size=1", "model.pooler.dropout=0", "train.max_steps=6")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of one process that accumulates two micro-batches."""
    out = tmp_path_factory.mktemp("alone")
    finish(start(*PROGRAM, data, out, *COMMON, "train.accumulation=2"))
    return losses(out)


def test_two_processes_lose_as_much_as_one(data: Path, alone: dict[int, float], tmp_path: Path) -> None:
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(with_settings(COMMON)), default=str))))
    files = ("--config", experiment, "--samples", data / "samples.json", "--data", data, "--out", tmp_path / "out")
    finish(start("-m", "mmor.cli", "scene-graph", "train", "--gpus", "2", *files))
    assert losses(tmp_path / "out") == pytest.approx(alone, rel=1e-4)
    assert len(alone) == 6
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_two_processes_with_muon_lose_as_much_as_one(data: Path, tmp_path: Path) -> None:
    muon = (*COMMON, "train.matrix_learning_rate=0.02")
    finish(start(*PROGRAM, data, tmp_path / "alone", *muon, "train.accumulation=2"))
    finish(start(*TORCHRUN, *PROGRAM, data, tmp_path / "two", *muon))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    assert len(losses(tmp_path / "two")) == 6


def test_two_processes_go_on_in_the_middle_of_a_later_epoch(data: Path, tmp_path: Path) -> None:
    """Three steps an epoch; what is left of the second one keeps its own order and augmentation."""
    settings = (*COMMON, "train.save_steps=4")
    finish(start(*TORCHRUN, *PROGRAM, data, tmp_path, *settings))
    whole, weights = losses(tmp_path), tmp_path / "model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(tmp_path / "checkpoint-6")
    weights.unlink()
    (tmp_path / "log.jsonl").unlink()
    finish(start(*TORCHRUN, *PROGRAM, data, tmp_path, *settings))
    assert losses(tmp_path) == {step: whole[step] for step in (5, 6)}
    assert weights.read_bytes() == before


def test_machines_with_disks_of_their_own_keep_the_newest_checkpoints_alone(data: Path, tmp_path: Path) -> None:
    """Each has its part of every checkpoint; all but the first machine's filled its disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    settings = (*COMMON, "train.max_steps=3", "train.save_steps=1")
    running = [
        start(*PROGRAM, data, tmp_path / f"disk{rank}", *settings, **machine, RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    for rank, process in enumerate(running):
        finish(process)
        assert sorted(path.name for path in (tmp_path / f"disk{rank}").glob("checkpoint-*")) == [
            "checkpoint-2",
            "checkpoint-3",
        ]
        assert (tmp_path / f"disk{rank}" / "checkpoint-3" / f"rng_state_{rank}.pth").is_file()


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_two_processes_with_deepspeed_lose_as_much_as_one(data: Path, alone: dict[int, float], tmp_path: Path) -> None:
    finish(start(*TORCHRUN, *PROGRAM, data, tmp_path, *COMMON, f"train.deepspeed={ZERO2}"))
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-3)


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    """Samples of which the third names a mask that is not there, and the fourth has two image placeholders."""
    records = json.loads((data / "samples.json").read_text())
    records[2] = {**records[2], "id": "bad_one", "image": ["nowhere.jpg"]}
    turns = [{**turn, "value": f"<image>{turn['value']}"} for turn in records[3]["conversations"][:1]]
    records[3] = {**records[3], "id": "bad_two", "conversations": [*turns, records[3]["conversations"][1]]}
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(records))
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_ends_the_training_in_one_line(data: Path, spoilt: Path, tmp_path: Path, workers: int) -> None:
    experiment = replace(SHORT, train=replace(SHORT.train, workers=workers, token_weights=False))
    with pytest.raises(UserError, match=r"sample bad_(one|two): .*(nowhere\.jpg|<image>)") as error:
        train(experiment, [spoilt], Dataset(data), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "--skip-bad-samples" in str(error.value)


def test_bad_samples_are_skipped_and_counted_if_asked(
    data: Path, spoilt: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = replace(SHORT.train, skip_bad_samples=True, max_steps=3, token_weights=False)
    train(replace(SHORT, train=settings), [spoilt], Dataset(data), tmp_path / "out")
    said = capfd.readouterr().err
    assert "skipped sample bad_one: " in said
    assert "skipped sample bad_two: " in said
    assert "2 bad samples were skipped" in said
    assert '"skipped_samples": 2' in (tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1]


def test_what_all_processes_skip_and_shorten_is_counted(
    data: Path, spoilt: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log, which the first one writes, counted its own: of eight processes an eighth, or none."""
    other = ["sample bad_two: too long", "sample bad_three: missing"], 2  # each time
    monkeypatch.setattr("scene_graph_generation.training.trainer.gather", lambda own: [own, other])
    settings = replace(SHORT.train, skip_bad_samples=True, max_steps=3, token_weights=False)
    train(replace(SHORT, train=settings), [spoilt], Dataset(data), tmp_path / "out")
    *_, last = (json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    assert (last["skipped_samples"], last["shortened_memories"]) == (4, 8)  # in three logs and one at the end
    assert "4 bad samples were skipped" in capfd.readouterr().err


@pytest.mark.parametrize(("place", "advice"), [("begin", "choose fewer --bits"), ("SceneGraphTrainer", "batch_size")])
def test_a_gpu_that_is_full_before_the_first_step_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, advice: str
) -> None:
    full = Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    monkeypatch.setattr(f"scene_graph_generation.training.train.{place}", full)
    with pytest.raises(UserError, match=rf"the GPU's memory is full \(CUDA out of memory\); .*{advice}"):
        run(SHORT, data, tmp_path)


def test_nothing_but_bad_samples_is_an_error(data: Path, spoilt: Path, tmp_path: Path) -> None:
    spoilt.write_text(json.dumps(json.loads(spoilt.read_text())[2:4]))
    settings = replace(SHORT.train, skip_bad_samples=True, token_weights=False)
    with pytest.raises(UserError, match="no usable sample"):
        train(replace(SHORT, train=settings), [spoilt], Dataset(data), tmp_path / "out")


def test_shortened_memory_is_said_and_counted(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records = json.loads((data / "samples.json").read_text())
    for record in records:
        question = record["conversations"][0]
        memory = "<memory_start>: " + "nurse,saw,holding; " * 300 + "<memory_end>.\n"
        question["value"] = question["value"].replace("<image>\n", f"<image>\n{memory}")
    path = tmp_path / "long.json"
    path.write_text(json.dumps(records))
    short = replace(SHORT, model=replace(SHORT.model, max_length=400), train=replace(SHORT.train, max_steps=2))
    train(short, [path], Dataset(data), tmp_path / "out")
    assert capfd.readouterr().err.count("memory was shortened") == 1
    assert '"shortened_memories": 4' in (tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1]


def test_balanced_steps_are_even_and_published_ones_begin_short() -> None:
    lengths = [37 * i % 64 for i in range(64)]
    balanced, published = (
        [
            lengths[i]
            for i in length_grouped_order([sign * length for length in lengths], 4, 4, torch.Generator().manual_seed(0))
        ]
        for sign in (1, -1)
    )
    assert sorted(balanced) == sorted(published) == sorted(lengths)
    for start_ in range(0, 64, 16):
        sums = [sum(balanced[i : i + 4]) for i in range(start_, start_ + 16, 4)]
        assert max(sums) - min(sums) <= 32
        assert published[start_ : start_ + 16] == sorted(published[start_ : start_ + 16])


def test_the_end_of_an_answer_counts_once_per_answer(data: Path, tmp_path: Path) -> None:
    _, known, tokens = survey(
        [data / "samples.json"], True, False, lambda texts: train_tokens(texts, SHORT.vocabulary, mmor().language)
    )
    word = next(name for name in tokens.names() if "drilling" in name)
    path = tmp_path / "frequencies.json"
    path.write_text(json.dumps({word: 1000}))
    weights = loss_weights(path, known, tokens, tokens.size)
    assert float(weights[tokens.end_id]) == pytest.approx(1 / (math.log(6) + 1))
    assert float(weights[tokens.names()[word]]) == pytest.approx(1 / (math.log(1000) + 1))


@pytest.mark.parametrize(
    ("setting", "module"), [({"report_to": "wandb"}, "wandb"), ({"deepspeed": Path("x")}, "deepspeed")]
)
def test_missing_tools_are_named(data: Path, tmp_path: Path, setting: dict, module: str) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(UserError, match=rf"{module} is not installed: pip install"):
        run(replace(SHORT, train=replace(SHORT.train, **setting)), data, tmp_path)


@pytest.mark.parametrize(
    ("bf16", "again", "linear", "attention"),
    [
        (False, False, torch.float32, torch.float32),
        (True, False, torch.bfloat16, torch.float32),
        (True, True, torch.bfloat16, torch.bfloat16),  # what is computed again must be what it was
    ],
)
def test_formats_of_a_step_on_a_cpu(
    data: Path, tmp_path: Path, bf16: bool, again: bool, linear: torch.dtype, attention: torch.dtype
) -> None:
    options = replace(SHORT.train, max_steps=1, bf16=bf16, gradient_checkpointing=again)
    with Formats() as formats:
        run(replace(SHORT, train=options), data, tmp_path)
    assert formats.linear == {linear}
    assert formats.attention == {attention}


def test_what_deepspeed_needs_beside_the_batch_is_in_the_format_of_the_training() -> None:
    """Its autocast is around the model only: one more view of each micro-batch was computed in float32."""
    trainer = object.__new__(SceneGraphTrainer)
    vars(trainer).update(
        _model=MM2SG(with_vocabulary(SHORT.model, 700)),
        _config=replace(SHORT.train, bf16=True),
        args=SimpleNamespace(device=torch.device("cpu")),
    )
    with Formats() as formats:
        anchor = trainer._anchor(Example(ids=torch.tensor([1, 2]), views=torch.zeros(0, 3, 28, 28)))
    assert formats.linear == {torch.bfloat16}
    assert anchor.item() == 0
    anchor.backward()
    gradients = [weight.grad for weight in trainer._model.projector.parameters()]
    assert not any(gradient is None or bool(gradient.any()) for gradient in gradients)


def test_a_checkpoint_with_deepspeed_copies_no_weights(tmp_path: Path) -> None:
    """Each process copied the whole model, 16 GB in 16 bits, to main memory, which nobody read: eight at once."""
    written: list[Path] = []
    copies = Mock()
    trainer = object.__new__(SceneGraphTrainer)
    vars(trainer).update(
        _model=SimpleNamespace(teacher=None),
        _folder=ModelFolder(written.append, written.append),
        args=SimpleNamespace(should_save=True, push_to_hub=False),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=True,
        accelerator=copies,
        deepspeed=copies,
        model_wrapped=copies,
        model=None,
    )
    trainer.save_model(str(tmp_path / "checkpoint-1"), _internal_call=True)
    assert written == [tmp_path / "checkpoint-1"]
    assert copies.mock_calls == []


def test_readers_are_no_more_than_processors(tmp_path: Path) -> None:
    """PyTorch would warn of more, and they would wait for each other."""
    wanted = [TrainConfig(workers=number) for number in (0, 1, 100_000)]
    found = [training_arguments(config, tmp_path, 64).dataloader_num_workers for config in wanted]
    assert found == [0, 1, cpu_threads()]


def test_readers_of_all_processes_are_no_more_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(workers=64)
    assert readers(config) == cpu_threads()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert readers(config) == max(1, cpu_threads() // 2)
