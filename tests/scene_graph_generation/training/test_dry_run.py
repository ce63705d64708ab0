"""What `--dry-run` says about a training."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from computing import machine
from computing.experiments import CONFIGS
from computing.machine import Gpu
from mmor.cli.scene_graph import train_model
from operating_room.errors import UserError
from operating_room.work import progress
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import (
    Experiment,
    FilesConfig,
    LoraConfig,
    PointConfig,
    PretrainConfig,
    StartConfig,
    read_experiment,
    with_vocabulary,
)
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.training_data import read_records
from scene_graph_generation.training.deepspeed_settings import zero_stage
from scene_graph_generation.training.dry_run import DryRun, counts, dry_run, steps_of
from scene_graph_generation.training.requirements import check_tools
from scene_graph_generation.training.resuming import BEGUN, begun_with
from scene_graph_generation.training.starting_point import meta_model, sizes_of
from scene_graph_generation.training.training_memory import Load, kept_per_point, memory_per_gpu, usual_and_worst_load
from scene_graph_generation.weights.precision import set_precision
from tests.allocations import peak_bytes
from tests.computing.test_checkpoint_processes import checkpoint_of
from tests.scene_graph_generation.tiny_bases import write_bases
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
        changed = replace(changed, train=replace(published.train, **train))
        return vars(memory_per_gpu(changed, model, gpus, usual_and_worst_load(changed, model)[1]))

    zero2, alone = memory(gpus=4), memory(gpus=4, deepspeed=None)
    assert [zero2[name] for name in ("weights", "gradients", "optimiser")] == [6 * trained, trained, 3 * trained]
    assert [alone[name] for name in ("weights", "gradients", "optimiser")] == [6 * trained, 8 * trained, 8 * trained]
    assert memory(deepspeed=None)["gradients"] == 4 * trained  # processes sum copies of them
    assert 3.4e9 < zero2["frozen"] - 152_352_768 * 4 - 32000 * 4096 * 2 < 3.5e9
    assert memory(bits=16)["frozen"] == pytest.approx(6_738_415_616 * 2 + 152_352_768 * 4)
    assert memory(batch_size=8)["activations"] == 2 * zero2["activations"]
    assert memory(gradient_checkpointing=False)["activations"] > 3 * zero2["activations"]
    assert zero_stage(ZERO2) == 2
    (tmp_path / "z.json").write_text("{")
    with pytest.raises(UserError, match=r"z\.json"):
        zero_stage(tmp_path / "z.json")


def test_a_usual_and_the_worst_batch_of_the_published_training(published: Experiment, model: MM2SG) -> None:
    usual, worst = usual_and_worst_load(published, model)
    assert usual == Load(2048.0, 300.0, 4.0, 20_000.0)
    assert worst == Load(2048.0, 300.0, 7.0, 20_000.0)
    totals = [memory_per_gpu(published, model, 1, load).total / 1e9 for load in (usual, worst)]
    assert totals == pytest.approx([38.9, 45.0], abs=0.1)  # by hand from the formula of docs/training.md
    fixed = replace(published, train=replace(published.train, shuffle_views=False))
    assert usual_and_worst_load(fixed, model)[0] == worst


def test_the_text_of_the_samples_counts(published: Experiment, model: MM2SG) -> None:
    def record(text: int, answer: int, mark: str = "<image>") -> dict:
        return {"conversations": [{"value": mark + "x" * (text - len(mark))}, {"value": "y" * answer}]}

    usual, worst = usual_and_worst_load(published, model, [record(270, 27), record(540, 54)])
    assert usual == Load(581 + 445.5 / 2.7, 40.5 / 2.7, 4.0, 20_000.0)
    assert worst == Load(581 + 594 / 2.7, 54 / 2.7, 7.0, 20_000.0)
    assert usual_and_worst_load(published, model, [record(10**6, 27)])[1].tokens == 2048
    assert usual_and_worst_load(published, model, [record(270, 0, "")])[1] == Load(100.0, 0.0, 0.0, 0.0)


def test_a_text_only_training_holds_no_vision(published: Experiment) -> None:
    blind = replace(published, start=replace(published.start, vision=None, vision_layers=0))
    model = meta_model(blind, blind.model)
    assert set(counts(model)) == {"language model", "LoRA adapter"}
    memory = memory_per_gpu(blind, model, 1, usual_and_worst_load(blind, model)[1])
    assert memory.frozen == pytest.approx(6_738_415_616 * 0.515625 + 131_072_000 * (2 - 0.515625), rel=1e-3)


def test_a_point_of_a_small_encoder_is_small() -> None:
    from scene_graph_generation.model.point_transformer import PointEncoder

    points = replace(PointConfig(), depths=(1, 1, 1), channels=(16, 32, 64), heads=(1, 2, 4), mlp_ratio=2, voxel=0.05)
    encoder = PointEncoder(points, 32)
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    cloud = torch.rand(2000, 6, generator=torch.Generator().manual_seed(0)) * 4
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder([cloud])
    per_point = sum(kept.values()) / 2000
    assert (
        per_point <= kept_per_point(points) <= 3 * per_point
    )  # rather too much: half the layers are wide as published


def test_the_formula_is_what_a_vision_layer_keeps(published: Experiment) -> None:
    from scene_graph_generation.config.settings import VisionConfig
    from scene_graph_generation.model.encoders import VisionTower
    from scene_graph_generation.training.training_memory import KEPT_VISION

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
    return replace(EXPERIMENT, files=FilesConfig((data / "samples.json",), data, out=out))


def test_a_training_that_can_start(data: Path, tmp_path: Path) -> None:
    report = dry_run(small(data, tmp_path / "out"))
    assert report.problems == []
    assert "usual batch" in report.text
    assert "worst batch" in report.text
    assert "2 in all, 2 kept" in report.text  # of 90 steps after 60, and at the end
    assert "6 samples, 3 per step x 1 accumulated x 1 GPU: 90 steps" in report.text
    assert "starts anew" in report.text
    assert "model.safetensors" in report.text
    assert not (tmp_path / "out").exists()


def test_pictures_that_a_model_of_text_cannot_see_are_named(data: Path, tmp_path: Path) -> None:
    blind = small(data, tmp_path / "out")
    report = dry_run(replace(blind, model=replace(blind.model, modalities=())))
    assert [problem for problem in report.problems if "has pictures, which a text-only training cannot see" in problem]


def test_everything_that_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    records = json.loads((data / "samples.json").read_text())
    records[0]["image"] = ["nowhere/a.jpg", "nowhere/b.jpg"]
    records[1]["pc"] = 3
    (tmp_path / "samples.json").write_text(json.dumps(records))
    (tmp_path / "model.safetensors").touch()
    wrong = small(data, tmp_path)
    files = replace(wrong.files, samples=(tmp_path / "samples.json", tmp_path / "none.json"))
    weighed = replace(wrong, train=replace(wrong.train, token_weights=True))
    report = dry_run(replace(weighed, files=replace(files, token_frequencies=tmp_path / "freqs.json")))
    said = "\n".join(report.problems)
    for part in (
        "none.json",
        "'pc' must name files",
        "a.jpg: missing, as are 1 more of views",
        "freqs.json: is not there; `mmor scene-graph samples --tokenizer MODEL` makes it",
        "already",
    ):
        assert part in said
    assert all("\n" not in problem for problem in report.problems)


def test_the_folder_of_one_dataset_will_do(data: Path, tmp_path: Path) -> None:
    report = dry_run(
        replace(
            small(data, tmp_path / "out"),
            files=FilesConfig((data / "samples.json",), data / "MM-OR_data", out=tmp_path / "out"),
        )
    )
    assert report.problems == []


def test_what_comes_before_the_steps_is_said(data: Path, tmp_path: Path) -> None:
    experiment = replace(small(data, tmp_path / "out"), pretrain=PretrainConfig(steps=7, batch_size=5))
    assert "learns to see first: 7 steps of 5" in dry_run(experiment).text
    assert "learns to see" not in dry_run(replace(experiment, pretrain=PretrainConfig(steps=0))).text


def test_names_that_no_file_can_have_are_missing_files(data: Path, tmp_path: Path) -> None:
    records = json.loads((data / "samples.json").read_text())
    records[0]["audio"], records[1]["pc"] = "x" * 5000, "a\0b"
    (tmp_path / "samples.json").write_text(json.dumps(records))
    files = FilesConfig((tmp_path / "samples.json",), data, out=tmp_path / "out")
    said = "\n".join(dry_run(replace(small(data, tmp_path), files=files)).problems)
    assert "missing, as are 0 more of audio" in said
    assert "missing, as are 0 more of cloud" in said


def test_all_tools_that_are_missing_are_named_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scene_graph_generation.training.requirements.find_spec", lambda name: None)
    monkeypatch.setattr("computing.tracking.find_spec", lambda name: None)
    experiment = small(data, tmp_path / "out")
    experiment = replace(
        experiment,
        train=replace(experiment.train, deepspeed=tmp_path / "none.json", report_to="wandb"),
        start=StartConfig("nobody/nothing", None, 4, LoraConfig(4)),
    )
    said = "\n".join(dry_run(experiment).problems)
    for part in ("deepspeed is not installed", "bitsandbytes is not installed", "wandb is not installed"):
        assert part in said
    with pytest.raises(UserError, match=r"deepspeed is not installed.*bitsandbytes is not installed.*wandb is not"):
        check_tools(experiment)


def test_zero_3_is_named_before_anything_is_loaded(data: Path, tmp_path: Path) -> None:
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    experiment = small(data, tmp_path / "out")
    with pytest.raises(UserError, match="ZeRO stage 3 is not supported"):
        dry_run(replace(experiment, train=replace(experiment.train, deepspeed=tmp_path / "zero3.json")))


def test_bases_of_the_hub_are_not_fetched(
    published: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    files = replace(published.files, samples=(tmp_path / "none.json",), out=tmp_path)
    reports: list[DryRun] = []
    assert peak_bytes(lambda: reports.append(dry_run(replace(published, files=files)))) < 1e7  # of 14e9 of the weights
    (report,) = reports
    assert "fetches liuhaotian/llava-v1.5-7b from the model hub first" in report.text


def test_what_a_training_would_refuse_once_all_is_loaded_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language, vision = write_bases(tmp_path / "bases", settings=with_vocabulary(EXPERIMENT.model, 700))
    (tmp_path / "first").mkdir()
    (tmp_path / "counts.json").write_text(json.dumps({f"word {number}": 5 for number in range(100)}))
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(0, "Tesla T4", 1 << 40, (7, 5), False)])
    started = replace(small(data, tmp_path / "out"), start=StartConfig(str(language), str(vision), 16, LoraConfig(4)))
    assert dry_run(started).problems == []
    wrong = replace(
        started,
        start=replace(started.start, curriculum=tmp_path / "first"),
        train=replace(started.train, bf16=True, token_weights=True),
        files=replace(started.files, token_frequencies=tmp_path / "counts.json"),
    )
    said = "\n".join(dry_run(wrong).problems)
    for part in ("Tesla T4 has no bfloat16", f"{tmp_path / 'first'}: config.json is missing", "most of its tokens are"):
        assert part in said
    with pytest.raises(UserError, match="Tesla T4 has no bfloat16"):
        check_tools(wrong)
    (problem,) = dry_run(replace(small(data, tmp_path), start=StartConfig(curriculum=tmp_path / "first"))).problems
    assert problem.startswith(f"{tmp_path / 'first'}: config.json is missing")
    config, words = json.loads((language / "config.json").read_text()), read_tokens(language).size
    (language / "config.json").write_text(json.dumps(config | {"vocab_size": words - 1}))
    assert any(f"the tokenizer has {words} tokens, the model" in problem for problem in dry_run(started).problems)


def test_what_bases_lack_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language, vision = write_bases(tmp_path / "bases", settings=with_vocabulary(EXPERIMENT.model, 700))
    experiment = small(data, tmp_path / "out")
    start = StartConfig(str(language), str(vision), 16, LoraConfig(4))
    assert dry_run(replace(experiment, start=start)).problems == []
    for path in (language / "part-1.bin", language / "tokenizer.json", vision / "pytorch_model.bin"):
        path.unlink()
    said = "\n".join(dry_run(replace(experiment, start=start)).problems)
    for part in ("part-1.bin: is missing", "holds no tokenizer", f"{vision}: holds no weights"):
        assert part in said
    cached = {"nobody/language": language, "nobody/vision": vision}  # an interrupted download of the hub
    for module in ("dry_run", "starting_point"):
        monkeypatch.setattr(f"scene_graph_generation.training.{module}.found_base", cached.get)
    report = dry_run(replace(experiment, start=replace(start, base="nobody/language", vision="nobody/vision")))
    assert all(f"fetches {name} from the model hub first" in report.text for name in cached)


def test_a_batch_that_no_gpu_here_can_hold_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(data, tmp_path / "out")
    model = meta_model(experiment, sizes_of(experiment))
    usual, worst = usual_and_worst_load(experiment, model, read_records(data / "samples.json"))
    least, most = (int(memory_per_gpu(experiment, model, 1, load).total) for load in (usual, worst))
    for memory, told in ((least - 1, 2), ((least + most) // 2, 1), (most + 1, 0)):
        cards = [Gpu(0, "Large", 1 << 40, (9, 0), True), Gpu(1, "Small", memory, (8, 0), True)]
        monkeypatch.setattr("scene_graph_generation.training.dry_run.gpus", lambda cards=cards: cards)
        report = dry_run(experiment)
        assert report.text.count("GB, Small has") == told + (told == 2), report.text
        assert [problem.startswith("GPU memory: a usual batch") for problem in report.problems] == [True] * (told == 2)


def test_a_base_that_is_still_to_be_fetched_is_not_refused_for_the_size_of_another(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of 0.6 billion would not start on a GPU of 24 GB, it said, since LLaVA would not."""
    start = StartConfig("nobody/small", "openai/clip-vit-large-patch14-336", 16, LoraConfig(4))
    cards = [Gpu(0, "Small", 1 << 20, (9, 0), True)]
    monkeypatch.setattr("scene_graph_generation.training.dry_run.gpus", lambda: cards)
    report = dry_run(replace(small(data, tmp_path / "out"), start=start))
    assert report.problems == []
    assert "GB, Small has" in report.text
    assert "and the files below, are those of liuhaotian/llava-v1.5-7b until then" in report.text


def test_more_processes_than_gpus_are_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu(0, "Large", 1 << 40, (9, 0), True)])
    assert dry_run(small(data, tmp_path / "out"), 1).problems == []
    (problem,) = dry_run(small(data, tmp_path / "out"), 4).problems
    assert problem.startswith("4 GPUs were asked for, this machine has 1")


def test_one_that_goes_on_is_that_of_as_many_processes_and_needs_room_for_the_rest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small(data, tmp_path / "out")
    checkpoint = checkpoint_of(tmp_path / "out", 4, step=60)  # of 90 steps: one more comes, at the end
    (checkpoint / "config.json").touch()
    model = meta_model(experiment, sizes_of(experiment))
    trained = sum(parameter.numel() for parameter in model.parameters())
    room = shutil.disk_usage(tmp_path)._replace(free=(4 + 12) * trained)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    report = dry_run(experiment, 4)
    assert report.problems == []
    assert f"goes on from {checkpoint}" in report.text
    assert "1 more, 2 kept" in report.text
    assert any("another number of processes than 1" in problem for problem in dry_run(experiment).problems)
    begun = begun_with(experiment, experiment.files.samples) | {"train.learning_rate": 0.5}
    (tmp_path / "out" / BEGUN).write_text(json.dumps(begun))
    (problem,) = dry_run(experiment, 4).problems
    assert problem.startswith(f"{checkpoint}: train.learning_rate was 0.5 and is now 0.01; give what")
    (checkpoint / "config.json").unlink()
    (problem,) = dry_run(experiment, 4).problems
    assert problem.startswith(f"{checkpoint}: is no checkpoint of a scene-graph model")


def test_processes_of_several_machines_are_counted_and_those_of_this_one_need_its_gpus(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = [Gpu(index, "Large", 1 << 40, (9, 0), True) for index in range(8)]
    monkeypatch.setattr(machine, "gpus", lambda: cards)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "16"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    files = {"samples": (data / "samples.json",), "data": data, "out": tmp_path / "out"}
    train_model([], None, "small.yaml", files, 1, False, dry=True)
    assert "x 16 GPU: " in capsys.readouterr().out
    monkeypatch.setattr(machine, "gpus", lambda: cards[:7])
    (problem,) = dry_run(small(data, tmp_path / "out"), 16, 2).problems
    assert problem.startswith("8 GPUs were asked for, this machine has 7")


def test_an_output_that_cannot_be_a_folder_is_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert f"{tmp_path / 'file'}: is no folder; choose another output" in dry_run(small(data, out)).problems

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr("os.access", lambda path, mode: False)  # what root would never see
    monkeypatch.setattr("scene_graph_generation.training.dry_run.already_done", closed)
    (problem,) = dry_run(small(data, tmp_path / "out")).problems
    assert problem == f"{tmp_path}: cannot be written; check permissions, or choose another output"


def test_a_training_without_samples_or_folder_is_refused() -> None:
    with pytest.raises(UserError, match="needs samples"):
        dry_run(EXPERIMENT)


def test_four_bits_without_adapter_are_refused(data: Path, tmp_path: Path) -> None:
    start = StartConfig("nobody/nothing", None, 4, None)
    with pytest.raises(UserError, match="lora_enable"):
        dry_run(replace(small(data, tmp_path), start=start))


def test_looking_for_files_and_reading_weights_are_shown(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of hundreds of thousands of samples, and of 7B weights, both take minutes on a network disk."""
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    dry_run(small(data, tmp_path / "out"))
    assert "looking for the files of the samples" in capsys.readouterr().err
    set_precision(MM2SG(with_vocabulary(EXPERIMENT.model, 300)), 16)
    assert "reading weights" in capsys.readouterr().err
