"""What `--dry-run` says about a training."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from computing import machine
from computing.machine import Gpu
from mmor.cli.scene_graph import train_model
from operating_room.errors import UserError
from operating_room.work import progress
from scene_graph_generation.config.settings import (
    Experiment,
    FilesConfig,
    LoraConfig,
    PretrainConfig,
    StartConfig,
    with_vocabulary,
)
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.training_data import read_records
from scene_graph_generation.training.dry_run import DryRun, counts, dry_run, steps_of
from scene_graph_generation.training.requirements import check_tools
from scene_graph_generation.training.resuming import BEGUN, begun_with
from scene_graph_generation.training.starting_point import meta_model, sizes_of
from scene_graph_generation.training.training_memory import memory_per_gpu, usual_and_worst_load
from scene_graph_generation.weights.precision import set_precision
from tests.allocations import peak_bytes
from tests.computing.test_checkpoint_processes import checkpoint_of
from tests.scene_graph_generation.tiny_bases import write_bases
from tests.scene_graph_generation.tiny_training import EXPERIMENT


def test_the_published_training_has_the_published_number_of_parameters(model: MM2SG) -> None:
    parts = counts(model)
    assert parts["LoRA adapter"] == (319_815_680, 0)
    assert sum(trained for trained, _ in parts.values()) == 319_815_680 + 248_507_312
    assert parts["language model"] == (0, 6_738_415_616)
    assert all(parameter.is_meta for parameter in model.parameters())


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
    for name in ("config.json", "tokenizer.json"):
        (checkpoint / name).write_text("{}")
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
    problem, _ = dry_run(experiment, 4).problems  # and one that begins anew needs more room
    assert problem.startswith(f"{checkpoint / 'config.json'}: is missing; no other checkpoint is whole")
    (tmp_path / "out" / BEGUN).unlink()
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
