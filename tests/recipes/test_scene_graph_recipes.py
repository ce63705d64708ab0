"""Stage 2 as published: the three trainings with every option as typed, 4 bits, and what comes before and after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from computing.training_checkpoints import find_checkpoint
from scene_graph_generation.config.published_options import read_options
from tests.recipes.small_scene_graph import mmor, published_words, small_file, write_recipe
from tests.scene_graph_generation.tiny_training import losses

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def without_deepspeed(words: list[str]) -> list[str]:
    place = words.index("--deepspeed")
    return words[:place] + words[place + 2 :]


@needs_bitsandbytes
def test_the_three_trainings_and_their_evaluations(recipe: Path) -> None:
    """4 bits, LoRA, gradient checkpointing, bfloat16: base, the curriculum on it, downstream; each scored."""
    out = {name: recipe / "out" / name for name in ("base", "temporal", "downstream")}
    for name, command in (("base", "scene-graph"), ("temporal", "scene-graph"), ("downstream", "downstream")):
        more = {"curriculum_learning_weights": out["base"]} if name == "temporal" else {}
        words = published_words(recipe, name, output_dir=out[name], max_steps=2, **more)
        experiment = read_options(words).experiment
        assert (experiment.start.bits, experiment.train.bf16, experiment.train.gradient_checkpointing) == (
            4,
            True,
            True,
        )
        mmor(command, "train", "--config", small_file(recipe, name, deepspeed=None), *without_deepspeed(words))
        assert len(losses(out[name])) == 2
        assert {path.name for path in out[name].glob("*_*.*")} >= {"adapter_model.bin", "adapter_config.json"}
    trained = [torch.load(out[name] / "non_lora_trainables.bin", weights_only=True) for name in ("base", "temporal")]
    assert trained[0].keys() == trained[1].keys()
    assert any("point_transformer" in name for name in trained[0])
    annotated = ("--data", recipe / "data", "--relations", recipe, "--split", "train", "--limit", 1)
    short = (*annotated, "--max-new-tokens", 5)
    for config, name in (("mmor.json", "base"), ("mmor_temporal_pred.json", "temporal")):
        results = recipe / f"{name}.json"
        mmor("scene-graph", "evaluate", "--config", config, "--model_path", out[name], "--out", results, *short)
        assert json.loads(results.read_text())
    answers = ("--out", recipe / "answers.json", "--graphs", recipe / "temporal.json")
    mmor("downstream", "evaluate", "--model-path", out["downstream"], *answers, *short)
    assert json.loads((recipe / "answers.json").read_text())


@needs_bitsandbytes
@needs_deepspeed
def test_the_three_trainings_with_deepspeed(recipe: Path, tmp_path: Path) -> None:
    """The published files and commands, ZeRO 2 and 4 bits included; the curriculum goes on from the base."""
    commands = []
    for name, command in (("base", "scene-graph"), ("temporal", "scene-graph"), ("downstream", "downstream")):
        more = {"curriculum_learning_weights": tmp_path / "base"} if name == "temporal" else {}
        words = published_words(recipe, name, output_dir=tmp_path / name, max_steps=2, **more)
        experiment = read_options(words).experiment
        assert experiment.train.deepspeed is not None
        assert experiment.start.bits == 4
        commands.append([command, "train", "--config", str(small_file(recipe, name)), *words])
    run(*commands)
    for name in ("base", "temporal", "downstream"):
        assert sorted(losses(tmp_path / name)) == [1, 2]
        assert (tmp_path / name / "checkpoint-2" / "latest").is_file()  # which only DeepSpeed writes
        adapter = torch.load(tmp_path / name / "adapter_model.bin", weights_only=True)
        assert adapter
        assert all(tensor.isfinite().all() for tensor in adapter.values())
        assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


RUN = """
import json, sys
from mmor.cli import app
for words in json.loads(sys.argv[1]):
    app(words, standalone_mode=False)
"""


def run(*commands: list[str]) -> None:
    """Commands one after the other, in one process of their own: DeepSpeed holds on to its process."""
    _finish("-c", RUN, json.dumps([list(map(str, words)) for words in commands]))


def train(file: Path, out: Path, *words: str) -> dict[int, float]:
    """The losses of a training in processes of its own."""
    _finish("-m", "mmor.cli", "scene-graph", "train", "--config", str(file), "--out", str(out), *words)
    return losses(out)


def _finish(*words: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


@needs_deepspeed
def test_two_processes_with_deepspeed_go_on_where_they_stopped(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """base.yaml with its ZeRO 2, clouds and bfloat16: the third step after a restart is that of an unbroken run."""
    file = small_file(recipe, "base", max_steps=3, save_steps=1)
    words = ("--gpus", "2", "--bits", "16")
    whole = train(file, tmp_path / "whole", *words)
    assert sorted(whole) == [1, 2, 3]
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    resumed = train(file, tmp_path / "broken", *words)
    assert resumed == {3: pytest.approx(whole[3], rel=1e-6)}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_checkpoint(tmp_path / "whole", deepspeed=True).left_out == []
    (states,) = (tmp_path / "whole").glob("checkpoint-3/global_step3/*model_states.pt")
    states.unlink()
    assert "model_states.pt: is missing" in find_checkpoint(tmp_path / "whole", deepspeed=True).left_out[0]
    weights = [torch.load(tmp_path / n / "non_lora_trainables.bin", weights_only=True) for n in ("whole", "broken")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, msg=name)
