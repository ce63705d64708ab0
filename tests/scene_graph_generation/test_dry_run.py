"""What `--dry-run` says about a training."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from operating_room.errors import UserError
from scene_graph_generation.arguments import CONFIGS, ZERO2
from scene_graph_generation.config import Experiment, FilesConfig, StartConfig, read_experiment
from scene_graph_generation.dry_run import counts, dry_run, meta_model, steps_of
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training_memory import memory_per_gpu, zero_stage
from tests.scene_graph_generation.tiny_training import EXPERIMENT, write_samples


@pytest.fixture(scope="module")
def published() -> Experiment:
    base = read_experiment(CONFIGS / "scene_graph" / "base.yaml")
    return replace(base, train=replace(base.train, deepspeed=ZERO2, report_to="none"))


@pytest.fixture(scope="module")
def model(published: Experiment) -> MM2SG:
    return meta_model(published, published.model)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data"))


def test_the_published_training_has_the_published_number_of_parameters(model: MM2SG) -> None:
    parts = counts(model)
    assert parts["LoRA adapter"] == (319_815_680, 0)
    assert sum(trained for trained, _ in parts.values()) == 319_815_680 + 248_507_312
    assert parts["language model"] == (0, 6_738_415_616)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_memory_follows_bits_batch_and_zero_stage(published: Experiment, model: MM2SG, tmp_path: Path) -> None:
    trained = 568_322_992

    def memory(gpus: int = 1, bits: int = 4, **train: object) -> dict[str, float]:
        changed = replace(published, start=replace(published.start, bits=bits))
        return vars(memory_per_gpu(replace(changed, train=replace(published.train, **train)), model, gpus))

    zero2, alone = memory(gpus=4), memory(gpus=4, deepspeed=None)
    assert [zero2[name] for name in ("weights", "gradients", "optimiser")] == [2 * trained, trained / 2, 3 * trained]
    assert [alone[name] for name in ("weights", "gradients", "optimiser")] == [4 * trained, 4 * trained, 8 * trained]
    assert 3.4e9 < zero2["frozen"] - 152_352_768 * 4 - 32000 * 4096 * 2 < 3.5e9
    assert memory(bits=16)["frozen"] == pytest.approx(6_738_415_616 * 2 + 152_352_768 * 4)
    assert memory(batch_size=8)["activations"] == 2 * zero2["activations"]
    assert memory(gradient_checkpointing=False)["activations"] > 4 * zero2["activations"]
    assert zero_stage(ZERO2) == 2
    (tmp_path / "z.json").write_text("{")
    with pytest.raises(UserError, match=r"z\.json"):
        zero_stage(tmp_path / "z.json")


def test_the_formula_is_what_a_vision_layer_keeps(published: Experiment) -> None:
    from scene_graph_generation.config import VisionConfig
    from scene_graph_generation.model.encoders import VisionTower
    from scene_graph_generation.training_memory import KEPT_VISION

    tower = VisionTower(VisionConfig(image_size=112, width=256, mlp=1024, heads=4, layers=1, feature_layer=-1))
    own = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}

    def kept(views: int) -> int:
        found: dict[int, int] = {}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            alive.append(tensor)
            if tensor.untyped_storage().data_ptr() not in own:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            tower(torch.randn(views, 3, 112, 112))
        return sum(found.values())

    per_token = (kept(3) - kept(1)) / (2 * 64)
    assert per_token / 256 == pytest.approx(KEPT_VISION, rel=0.2)


@pytest.mark.parametrize(
    ("samples", "gpus", "epochs", "expected"), [(100, 1, 1.0, 7), (100, 2, 1.0, 4), (100, 1, 2.5, 18), (3, 8, 1.0, 1)]
)
def test_steps(published: Experiment, samples: int, gpus: int, epochs: float, expected: int) -> None:
    assert steps_of(replace(published, train=replace(published.train, epochs=epochs)), samples, gpus) == expected


def small(data: Path, out: Path) -> Experiment:
    return replace(EXPERIMENT, files=FilesConfig((data / "samples.json",), data, out))


def test_a_training_that_can_start(data: Path, tmp_path: Path) -> None:
    report = dry_run(small(data, tmp_path / "out"))
    assert report.problems == []
    assert "6 samples, 3 per step x 1 accumulated x 1 GPU: 90 steps" in report.text
    assert "starts anew" in report.text
    assert "model.safetensors" in report.text
    assert not (tmp_path / "out").exists()


def test_everything_that_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    records = json.loads((data / "samples.json").read_text())
    records[0]["image"] = ["nowhere/a.jpg", "nowhere/b.jpg"]
    records[1]["pc"] = 3
    (tmp_path / "samples.json").write_text(json.dumps(records))
    (tmp_path / "model.safetensors").touch()
    wrong = small(data, tmp_path)
    files = replace(wrong.files, samples=(tmp_path / "samples.json", tmp_path / "none.json"))
    report = dry_run(replace(wrong, files=replace(files, token_frequencies=tmp_path / "freqs.json")))
    said = "\n".join(report.problems)
    for part in (
        "none.json",
        "'pc' must name files",
        "a.jpg: missing, as are 1 more of views",
        "freqs.json",
        "already",
    ):
        assert part in said
    assert all("\n" not in problem for problem in report.problems)


def test_bases_of_the_hub_are_not_fetched(
    published: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    files = replace(published.files, samples=(tmp_path / "none.json",), out=tmp_path)
    began = time.process_time()
    report = dry_run(replace(published, files=files))
    assert time.process_time() - began < 30
    assert "fetches liuhaotian/llava-v1.5-7b from the model hub first" in report.text


def test_a_training_without_samples_or_folder_is_refused() -> None:
    with pytest.raises(UserError, match="needs samples"):
        dry_run(EXPERIMENT)


def test_four_bits_without_adapter_are_refused(data: Path, tmp_path: Path) -> None:
    start = StartConfig("nobody/nothing", None, 4, None)
    with pytest.raises(UserError, match="lora_enable"):
        dry_run(replace(small(data, tmp_path), start=start))
