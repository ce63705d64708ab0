"""DeepSpeed as the published training uses it: bfloat16, ZeRO, clouds, an adapter around a frozen base."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from computing.machine import autocast
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import (
    Experiment,
    LoraConfig,
    PointConfig,
    StartConfig,
    to_mapping,
    with_vocabulary,
)
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.model.point_transformer import PointEncoder
from scene_graph_generation.samples.training_data import TrainingSamples, read_records, record_text
from scene_graph_generation.training.deepspeed_settings import deepspeed_settings, zero_stage
from scene_graph_generation.training.loss import answer_loss
from scene_graph_generation.training.requirements import missing_tools
from scene_graph_generation.training.starting_point import begin
from scene_graph_generation.training.training_memory import checkpoint_bytes
from scene_graph_generation.weights.adapters import parameter_groups
from scene_graph_generation.weights.checkpoints import save_model
from tests.computing.machines import have, start
from tests.scene_graph_generation.tiny_training import SHORT, losses

ROOT = Path(__file__).parents[3]
POINTS = PointConfig(depths=(1, 1), channels=(8, 16), heads=(1, 2), mlp_ratio=1, patch=32, voxel=0.2, drop_path=0.0)
# As llava's scripts/zero2.json.
PUBLISHED = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000},
    "bf16": {"enabled": "auto"},
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
    },
}


@pytest.fixture(scope="module")
def tuning(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The published base training at tiny size, clouds included."""
    root = tmp_path_factory.mktemp("bases")
    settings = replace(SHORT.model, points=POINTS, modalities=(*SHORT.model.modalities, "cloud"))
    tokens = train_tokens(map(record_text, read_records(data / "samples.json")), SHORT.vocabulary, mmor().language)
    torch.manual_seed(0)
    settings = replace(settings, pooler=replace(settings.pooler, dropout=0.0))
    model = MM2SG(with_vocabulary(settings, tokens.size))
    save_model(root / "base", model, tokens)
    model.vision.clip.save_pretrained(root / "clip")
    train = replace(
        SHORT.train,
        max_steps=4,
        bf16=True,
        gradient_checkpointing=True,
        projector_learning_rate=1e-3,
        learning_rate=1e-3,
        modality_dropout=0.0,
        shuffle_views=False,
    )
    start = StartConfig(str(root / "base"), str(root / "clip"), 16, LoraConfig(4, 8, 0.0), vision_layers=1)
    return replace(SHORT, model=settings, start=start, train=train)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "zero2.json"
    path.write_text(json.dumps(PUBLISHED))
    return path


def as_zero_does(model: MM2SG, settings: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    """Cast the model as DeepSpeed's settings say, move it, and make each group's weights slices of one buffer."""
    if settings["bf16"]["enabled"] in (True, "auto"):  # transformers fills in --bf16 True
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    model.to("cpu")
    for group in groups:
        whole = torch.cat([parameter.data.flatten() for parameter in group["params"]])
        for parameter, part in zip(group["params"], whole.split([p.numel() for p in group["params"]])):
            parameter.data = part.view(parameter.shape)


@pytest.mark.parametrize("form", ["ours", "published"])
def test_a_step_after_the_cast_and_the_flat_buffers_of_zero(
    tuning: Experiment, data: Path, published: Path, form: str
) -> None:
    model, tokens = begin(tuning)
    reader = ExampleReader(model.settings, tokens)
    samples = TrainingSamples(read_records(data / "samples.json"), Dataset(data), tuning.train, reader)
    groups = [group for group in parameter_groups(model, 1e-3, 0.0, 1e-3) if group["params"]]
    settings = deepspeed_settings(ZERO2 if form == "ours" else published, True, model.settings.language.width)
    as_zero_does(model, settings, groups)
    assert settings["torch_autocast"]["enabled"] is True
    trained = [parameter for group in groups for parameter in group["params"]]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert model.language.lm_head.weight.dtype == torch.bfloat16
    examples = [samples[0, i] for i in range(2)]
    assert any(example.cloud is not None for example in examples)
    optimizer = torch.optim.AdamW(groups)
    before = [parameter.detach().clone() for parameter in trained]
    with autocast(torch.device("cpu"), torch.bfloat16):
        output = model(examples)
        answer_loss(output.logits, output.labels).backward()
    optimizer.step()
    assert any(not torch.equal(new, old) for new, old in zip(trained, before))
    assert all(parameter.isfinite().all() for parameter in trained)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_the_point_encoder_is_moved_and_never_rounded(cast: torch.dtype) -> None:
    encoder = torch.nn.Sequential(PointEncoder(POINTS, 16))
    kept: dict[str, Tensor] = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.to(cast)
    for name, tensor in encoder.state_dict().items():
        assert tensor.dtype == kept[name].dtype
        assert torch.equal(tensor, kept[name]), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3 is not supported"),
        ({"zero_optimization": {"stage": 0}}, "ZeRO stage 0 is not supported: .* no training goes on from its check"),
        ({"zero_optimization": "2"}, "has no zero_optimization"),
        ({"zero_optimization": {"stage": "two"}}, "has no zero_optimization"),
        ({"zero_optimization": {"stage": True}}, "has no zero_optimization"),
        ({"zero_optimization": {"stage": None}}, "has no zero_optimization"),
        ({"fp16": {"enabled": True}}, '"fp16" is not supported'),
        ({"bf16": {"enabled": True}}, '"bf16" is enabled, but the training is not'),
        ({"optimizer": {"type": "Adam"}}, "'optimizer' is set by the training's own options"),
        (
            {"gradient_clipping": 0.5},
            'gradient_clipping is 0.5, which the training\'s own options say; set it to "auto"',
        ),
        ({"train_batch_size": 64}, "train_batch_size is 64"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "offload_optimizer needs DeepSp"),
        ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, "cpu_offload needs DeepSpeed's own optimizer"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(published: Path, change: dict[str, Any], said: str) -> None:
    published.write_text(json.dumps({**PUBLISHED, **change}))
    with pytest.raises(UserError, match=said) as error:
        deepspeed_settings(published, False, 64)
    assert str(published) in str(error.value)


def test_what_a_configuration_leaves_out_is_as_the_options_say(published: Path) -> None:
    """The published one says nothing of clipping, which DeepSpeed took for none, and of a bare one all is left out."""
    published.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    settings = deepspeed_settings(published, True, 64)
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert [settings[name] for name in names] == ["auto"] * 4


def test_before_anything_is_loaded_all_that_is_refused_is_told(published: Path) -> None:
    published.write_text(json.dumps({**PUBLISHED, "fp16": {"enabled": True}}))
    told = missing_tools(replace(SHORT, train=replace(SHORT.train, deepspeed=published)))
    assert any('"fp16" is not supported' in line for line in told)


def test_a_process_that_sees_its_own_gpu_alone_is_told(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `srun --gpus-per-task 1`: DeepSpeed ended with "invalid device ordinal" once all was loaded."""
    published.write_text(json.dumps(PUBLISHED))
    wanted = replace(SHORT, train=replace(SHORT.train, deepspeed=published))
    start(monkeypatch, 1, 2, local=1)
    have(monkeypatch, 1)
    told = "--deepspeed: process 1 of this machine sees one GPU only, as number 0, and DeepSpeed asks for number 1"
    assert any(line.startswith(told) for line in missing_tools(wanted))
    for gpus in (0, 2):
        have(monkeypatch, gpus)
        assert not any("sees one GPU only" in line for line in missing_tools(wanted))


def test_a_compilation_that_was_killed_is_told_before_all_wait_for_it(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    experiment = replace(SHORT, train=replace(SHORT.train, deepspeed=published))
    mark = tmp_path / "deepspeed_shm_comm" / "lock"
    assert not any(str(mark) in line for line in missing_tools(experiment))
    mark.parent.mkdir()
    mark.touch()
    assert not any(str(mark) in line for line in missing_tools(experiment))
    assert f"{mark}: another process compiles" in capsys.readouterr().err
    os.utime(mark, (0, 0))
    assert any(
        f"{mark}: another process" in line and line.endswith("remove this file") for line in missing_tools(experiment)
    )


def test_a_list_is_no_configuration(published: Path) -> None:
    published.write_text("[]")
    with pytest.raises(UserError, match="has no zero_optimization"):
        zero_stage(published)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_the_published_recipe_with_deepspeed_itself(
    tuning: Experiment, data: Path, published: Path, tmp_path: Path
) -> None:
    """One process without a launcher, ZeRO 2, bfloat16, clouds: the losses of the same training without DeepSpeed."""
    logs, written, told = [], list[int](), list[float]()
    for name, path in (("without", None), ("with", published)):
        experiment = replace(tuning, train=replace(tuning.train, deepspeed=path))
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(experiment), default=str))))
        out = tmp_path / name
        words = ("--config", file, "--samples", data / "samples.json", "--data", data, "--out", out)
        environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
        ran = subprocess.run(
            [sys.executable, "-m", "mmor.cli", "scene-graph", "train", *map(str, words)],
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        logs.append(losses(out))
        files = [path for path in (out / "checkpoint-4").rglob("*") if path.suffix in (".pt", ".bin")]
        written.append(sum(path.stat().st_size for path in files))
        told.append(checkpoint_bytes(experiment, begin(experiment, None)[0]))
    # What DeepSpeed adds; of files this small the headers of many small tensors are the greater part.
    assert written[1] - written[0] == pytest.approx(told[1] - told[0], rel=0.3)
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    assert len(logs[0]) == 4
    weights = [
        torch.load(tmp_path / name / "non_lora_trainables.bin", weights_only=True) for name in ("without", "with")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[1].items():
        assert tensor.dtype == weights[0][name].dtype, name
        if tensor.is_floating_point():  # float32 as without: no weight lost 16 of its bits
            torch.testing.assert_close(tensor, weights[0][name], rtol=1e-4, atol=1e-5)
