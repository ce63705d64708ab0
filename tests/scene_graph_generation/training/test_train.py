"""Training a tiny model on a few samples: what is learnt, saved and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from operating_room.domain.domain import Domain, mmor
from operating_room.domain.stored import require_domain, stored_domain
from operating_room.errors import UserError
from operating_room.graphs.memory import Memory
from operating_room.graphs.prompts import human_prompt
from operating_room.graphs.scene_graph import Triplet, parse
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import FilesConfig, VisionConfig, read_experiment
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import infer
from scene_graph_generation.samples.sampler import EpochOrder, similar_length_order
from scene_graph_generation.samples.training_data import disturb_memory, read_records
from scene_graph_generation.training.dry_run import dry_run
from scene_graph_generation.training.train import train
from scene_graph_generation.weights.checkpoints import load_model
from tests.scene_graph_generation.tiny_training import EXPERIMENT, GRAPHS


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    train(EXPERIMENT, [data / "samples.json"], Dataset(data), out)
    return out


def test_the_trained_model_knows_its_samples(data: Path, trained: Path) -> None:
    model, tokens = load_model(trained)
    timepoints = Dataset(data).take(Dataset(data).takes()[1]).timepoints
    generator = SceneGraphGenerator(model, tokens)
    answers = generator.answer([generator.read(timepoint, None) for timepoint in timepoints])
    assert [parse(answer) for answer in answers] == [sorted(parse(_spoken(graph))) for graph in GRAPHS]


def _spoken(graph: list[Triplet]) -> str:
    return ";".join(",".join(triplet).replace("_", " ") for triplet in graph)


def test_a_finished_folder_is_not_trained_over(data: Path, trained: Path) -> None:
    with pytest.raises(UserError, match="already"):
        train(EXPERIMENT, [data / "samples.json"], Dataset(data), trained)


def test_a_model_from_scratch_without_modalities_gets_no_samples_with_pictures(data: Path, tmp_path: Path) -> None:
    text_only = replace(EXPERIMENT, model=replace(EXPERIMENT.model, modalities=()))
    with pytest.raises(UserError, match=r"has pictures, which a text-only training cannot see.*downstream samples"):
        train(text_only, [data / "samples.json"], Dataset(data), tmp_path)


def test_a_room_with_more_pictures_than_the_model_has_places_is_told_before_it_is_trained(
    data: Path, tmp_path: Path
) -> None:
    """Training takes some of them, so that it went to its end; then the model could answer no timepoint."""
    few = replace(EXPERIMENT.model, pooler=replace(EXPERIMENT.model.pooler, max_views=4))
    files = FilesConfig(samples=(data / "samples.json",), data=data, out=tmp_path / "out")
    experiment = replace(EXPERIMENT, model=few, files=files)
    told = "MMOR shows 5 pictures of a timepoint, the model has places for 4"
    with pytest.raises(UserError, match=told):
        train(experiment, files.samples, Dataset(data), tmp_path / "out")
    assert any(told in problem for problem in dry_run(experiment).problems)


def other_domain() -> Domain:
    """MM-OR with one more predicate."""
    language = mmor().language
    more = {
        "predicates": (*language.predicates, "hugging"),
        "levels": (*language.levels[:-1], (*language.levels[-1], "hugging")),
    }
    return replace(mmor(), name="warmer", language=replace(language, **more))


def test_a_model_keeps_its_domain_and_is_refused_with_another(data: Path, trained: Path, tmp_path: Path) -> None:
    for folder in (trained, trained / "checkpoint-60"):
        assert stored_domain(folder) == mmor()
    generator = SceneGraphGenerator(*load_model(trained), domain=stored_domain(trained))
    strange = Dataset(data, other_domain())
    with pytest.raises(UserError, match=r"mmor \(there\) instead of warmer.*predicates: only here: hugging"):
        infer(generator, strange, {strange.takes()[0]: None}, tmp_path / "p.json")
    start = replace(EXPERIMENT.start, curriculum=trained)
    with pytest.raises(UserError, match=r"was made for another domain.*hugging"):
        train(replace(EXPERIMENT, start=start), [data / "samples.json"], strange, tmp_path / "second")
    train(
        replace(EXPERIMENT, train=replace(EXPERIMENT.train, max_steps=1)),
        [data / "samples.json"],
        strange,
        tmp_path / "own",
    )
    assert stored_domain(tmp_path / "own") == other_domain()
    with pytest.raises(UserError, match=r"hugging.*put the takes' domain\.yaml beside it"):
        require_domain(tmp_path, other_domain())  # as in a published folder, which tells nothing
    longer = replace(EXPERIMENT, train=replace(EXPERIMENT.train, max_steps=2))
    with pytest.raises(UserError, match="domain was"):
        train(longer, [data / "samples.json"], Dataset(data), tmp_path / "own")


def test_a_resumed_training_gives_the_same_model(data: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoint-60", tmp_path / "checkpoint-60")
    (tmp_path / "checkpoint-75").mkdir()  # cut off while it was written
    train(EXPERIMENT, [data / "samples.json"], Dataset(data), tmp_path)
    again, reference = (load_model(folder)[0].state_dict() for folder in (tmp_path, trained))
    assert all(torch.equal(again[name], reference[name]) for name in reference)


def test_damaged_model_folders_are_named(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no scene-graph model"):
        load_model(tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        broken = tmp_path / name
        shutil.copytree(trained, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
        (broken / name).write_bytes((broken / name).read_bytes()[:50])
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            load_model(broken)


def test_weights_of_another_size_are_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "m", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["language"]["width"] = 32
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit the model's config\.json"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("content", ["{}", "[]", '[{"id": "a"}]', '[{"id": "a", "conversations": [1]}]'])
def test_damaged_training_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(UserError, match=r"samples\.json"):
        read_records(tmp_path / "samples.json")


def test_a_damaged_sample_is_named_with_its_file(tmp_path: Path) -> None:
    turns = [{"value": "?"}, {"value": "<SG> </SG>"}]
    path = tmp_path / "samples.json"
    for bad, said in (
        ({"id": "004_PKA_000001", "conversations": turns[:1]}, "sample 004_PKA_000001 needs an id and two turns"),
        ({"id": "004_PKA_000001", "conversations": [*turns[:1], {"value": 3}]}, "sample 004_PKA_000001 needs"),
        ({"conversations": turns, "image": ["x" * 500]}, "sample 2, "),
        (7, "sample 2, 7, needs"),
    ):
        path.write_text(json.dumps([{"id": "a", "conversations": turns}, bad]))
        with pytest.raises(UserError) as error:
            read_records(path)
        assert str(error.value).startswith(f"{path}: {said}")
        assert len(str(error.value)) < len(str(path)) + 160


def test_every_epoch_has_each_sample_once_in_another_order() -> None:
    order = EpochOrder(10, lambda epoch: similar_length_order(list(range(10)), 2, Random(epoch)))
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(first) == [(0, i) for i in range(10)]
    assert sorted(second) == [(1, i) for i in range(10)]
    assert [i for _, i in first] != [i for _, i in second]
    assert sorted(first[:2]) in [[(0, i), (0, i + 1)] for i in range(0, 10, 2)]


def test_memory_is_disturbed_and_nothing_else() -> None:
    memory = Memory.of(mmor().language)
    for time in range(30):
        memory.add([Triplet("head surgeon", f"tool {time % 7}", "holding"), Triplet("nurse", "saw", "touching")], time)
    text = memory.text()
    prompt = human_prompt(mmor().language, None, None, "a,b,c; d,e,f", text)
    before, after = prompt.split(text)
    assert disturb_memory(prompt, 0.0, mmor().language.predicates, Random(0)) == prompt
    disturbed = disturb_memory(prompt, 0.5, mmor().language.predicates, Random(0))
    assert disturbed.startswith(before)
    assert disturbed.endswith(after)
    told = disturbed.removeprefix(before).removesuffix(after)
    assert told != text
    assert told.count(";") < text.count(";")
    assert "Long: " in told
    assert "Short: " in told
    bare = human_prompt(mmor().language, None, None, "a,b,c; d,e,f", None)
    assert disturb_memory(bare, 1.0, mmor().language.predicates, Random(0)) == bare


def test_experiment_files(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("model: {vision: {layers: 3}}\ntrain: {learning_rate: 1e-3}\n")
    experiment = read_experiment(path)
    assert experiment.model.vision == replace(VisionConfig(), layers=3)
    assert experiment.train.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("model: {vision: {layer: 3}}", "'layer'"),
        ("train: {epochs: many}", "epochs"),
        ("train: {shuffle_views: 1}", "shuffle_views"),
        ("model: {batching: both}", "batching"),
        ("model: 3", "model"),
        ("a: [", "YAML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "e.yaml").write_text(content)
    with pytest.raises(UserError, match=named) as error:
        read_experiment(tmp_path / "e.yaml")
    assert "e.yaml" in str(error.value)


def test_the_shipped_experiment_is_readable_and_small() -> None:
    experiment = read_experiment(Path(__file__).parents[3] / "configs" / "scene_graph" / "small.yaml")
    assert experiment.model.vision.width <= 192


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("train.save_steps", (0, -3)),
        ("train.batch_size", (0, -1, 10**30)),
        ("train.accumulation", (0,)),
        ("train.log_steps", (0,)),
        ("train.save_total_limit", (0,)),
        ("train.workers", (-1,)),
        ("train.seed", (-1, 2**40)),
        ("train.max_steps", (0, -2, 10**400)),
        ("train.epochs", (0, -1, "nan", "inf", 10**400)),
        ("train.learning_rate", (0, -1e-3, "nan", "inf", 10**400)),
        ("train.visual_learning_rate", ("nan", -1)),
        ("train.projector_learning_rate", ("nan", 0)),
        ("train.matrix_learning_rate", ("nan", 0)),
        ("train.weight_decay", (-1, "nan")),
        ("train.max_grad_norm", (-1, "nan")),
        ("train.warmup", (-0.1, 1.5, "nan")),
        ("train.modality_dropout", (-0.1, 1.5, "nan")),
        ("start.lora", ({"rank": 0}, {"alpha": 0}, {"dropout": "nan"}, {"rank": -4})),
        ("start.vision_layers", (-1,)),
        ("pretrain", ({"steps": -1}, {"batch_size": 0}, {"learning_rate": "nan"}, {"views_share": 1.5})),
        ("model.pooler.dropout", (7.0, "nan")),
        ("model.pooler.mask_channels", ([64], [8, 8, 8, 8, 0], [])),
        ("model.points.heads", ([1, 2], [], [3, 3, 3, 3, 3], [0, 0, 0, 0, 0])),
        ("model.points.voxel", (0, "nan", -1, 1e-3, 1e-320)),
        ("model.language.width", (190, 0)),
        ("model.vision.feature_layer", (0, 3, -99)),
        ("model.vision.patch_size", (0, 400)),
        ("model.max_length", (0, -5)),
        ("model.modalities", (["view"], ["views", ""])),
        ("vocabulary", (0, -1, 5)),
        *[(f"files.{name}", ("", "a\0b", "\ud800", "n" * 256, "n/" * 2100, 1, [], {})) for name in ("data", "out")],
        *[(f"{name}", ("", "a\0b", "n" * 256, True)) for name in ("train.deepspeed", "start.curriculum")],
    ],
)
def test_numbers_that_cannot_be_are_named(tmp_path: Path, setting: str, values: tuple) -> None:
    path = tmp_path / "e.yaml"
    for value in values:
        nested = value
        for name in reversed(setting.split(".")):
            nested = {name: nested}
        path.write_text(json.dumps(nested))
        with pytest.raises(UserError) as error:
            read_experiment(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300
