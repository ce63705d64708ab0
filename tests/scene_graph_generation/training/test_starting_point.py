"""Training an adapter and new modules around a base, in few bits, and going on from a first stage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import (
    Experiment,
    FilesConfig,
    LoraConfig,
    PointConfig,
    PretrainConfig,
    StartConfig,
    with_vocabulary,
)
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.training_data import read_records, record_text
from scene_graph_generation.training import train as train_module
from scene_graph_generation.training.dry_run import dry_run
from scene_graph_generation.training.requirements import check_start
from scene_graph_generation.training.starting_point import begin, check_places, sizes_of
from scene_graph_generation.training.train import train
from scene_graph_generation.weights import precision
from scene_graph_generation.weights.checkpoints import load_model, save_model
from scene_graph_generation.weights.fine_tuned import read_fine_tuned
from tests.scene_graph_generation.tiny_training import SHORT, losses


@pytest.fixture(scope="module")
def tuning(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The published kind of training, on a tiny base and a tiny CLIP."""
    root = tmp_path_factory.mktemp("bases")
    tokens = train_tokens(map(record_text, read_records(data / "samples.json")), SHORT.vocabulary, mmor().language)
    torch.manual_seed(0)
    model = MM2SG(with_vocabulary(SHORT.model, tokens.size))
    save_model(root / "base", model, tokens)
    model.vision.clip.save_pretrained(root / "clip")
    start = StartConfig(str(root / "base"), str(root / "clip"), 4, LoraConfig(4, 8), vision_layers=1)
    settings = replace(
        SHORT.train,
        max_steps=5,
        bf16=True,
        gradient_checkpointing=True,
        projector_learning_rate=1e-3,
        learning_rate=1e-3,
    )
    return replace(SHORT, start=start, train=settings)


def run(experiment: Experiment, data: Path, out: Path) -> MM2SG:
    return train(experiment, [data / "samples.json"], Dataset(data), out)


@pytest.fixture(scope="module")
def tuned(tuning: Experiment, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    run(tuning, data, out)
    return out


def test_a_fine_tuning_is_written_in_the_published_form(tuned: Path, tuning: Experiment) -> None:
    folder = read_fine_tuned(tuned)
    assert folder.base == tuning.start.base
    assert folder.lora == tuning.start.lora
    names = set(folder.state)
    assert sum(".lora_A." in name for name in names) == 2 * 7
    assert any("mm_projector" in name for name in names)
    assert sorted(losses(tuned)) == [1, 2, 3, 4, 5]
    assert (tuned / "checkpoint-3" / "adapter_model.bin").is_file()


def test_a_fine_tuning_goes_on_bit_for_bit(tuned: Path, tuning: Experiment, data: Path, tmp_path: Path) -> None:
    (tuned / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    run(tuning, data, tmp_path)
    for name in ("adapter_model.bin", "non_lora_trainables.bin"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (tuned, tmp_path))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    (tmp_path / "checkpoint-3").rename(tuned / "checkpoint-3")


def test_another_base_of_the_same_sizes_is_refused_and_the_same_one_elsewhere_is_not(
    tuned: Path, tuning: Experiment, data: Path, tmp_path: Path
) -> None:
    """Fault: an adapter went on beside weights that it was not trained beside."""
    shutil.copytree(tuned, tmp_path / "tuned")
    for name, told in (("base", "content of the base was"), ("vision", "content of the vision tower was")):
        place = Path(getattr(tuning.start, name) or "")
        shutil.copytree(place, tmp_path / name)
        moved = replace(tuning, start=replace(tuning.start, **{name: str(tmp_path / name)}))
        longer = replace(moved, train=replace(moved.train, max_steps=6))
        shutil.copytree(tuned, tmp_path / f"{name}_same")
        run(longer, data, tmp_path / f"{name}_same")
        weights = tmp_path / name / "model.safetensors"
        save_file({key: value + 1 for key, value in load_file(weights).items()}, weights, {"format": "pt"})
        with pytest.raises(UserError, match=told):
            run(longer, data, tmp_path / "tuned")


def test_only_what_is_published_as_trainable_changes(tuning: Experiment, tuned: Path, data: Path) -> None:
    before, _ = begin(tuning)
    trainable = {name for name, parameter in before.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("projector.", "pooler.", "vision.")) or ".lora_" in name for name in trainable)
    assert {parameter.dtype for parameter in before.parameters() if parameter.requires_grad} == {torch.float32}
    frozen = {
        str(p.dtype) for name, p in before.named_parameters() if name.startswith("language.") and name not in trainable
    }
    assert frozen == {"torch.uint8", "torch.bfloat16"}


def test_an_order_of_the_curriculum_that_would_do_nothing_is_refused(tuning: Experiment, tmp_path: Path) -> None:
    """From scratch both encoders went on, as if it was not there."""
    for start in (StartConfig(curriculum=tmp_path), tuning.start):
        with pytest.raises(UserError, match="--curriculum_order published is of a first stage around a base"):
            check_start(replace(tuning, start=replace(start, curriculum_order="published")))
    check_start(replace(tuning, start=replace(tuning.start, curriculum=tmp_path, curriculum_order="published")))


@pytest.mark.parametrize("lora", [LoraConfig(4, 8), None])
def test_what_is_trained_begins_as_it_is_stored(tuning: Experiment, lora: LoraConfig | None) -> None:
    """All of it was rounded to bfloat16 and then called float32; bits are of frozen language weights."""
    model, _ = begin(replace(tuning, start=replace(tuning.start, bits=16, lora=lora)))
    stored = load_file(Path(tuning.start.base or "") / "model.safetensors")
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad and name in stored}
    of_base = {name.split(".")[0] for name in trained if not name.startswith("pooler.")}
    assert of_base == {"projector", "vision"} | (set() if lora else {"language"})
    assert [name for name in trained if not torch.equal(trained[name], stored[name])] == []
    frozen = model.language.get_submodule("model.norm").weight
    assert frozen.dtype == (torch.bfloat16 if lora else torch.float32)


def test_the_second_stage_begins_with_all_weights_of_the_first(tuning: Experiment, tuned: Path) -> None:
    second = replace(tuning, start=replace(tuning.start, curriculum=tuned))
    model, _ = begin(second)
    first = torch.load(tuned / "non_lora_trainables.bin", weights_only=True)
    prefix = "base_model.model.model.image_pooler."
    own = model.state_dict()
    assert torch.equal(own["pooler.mask_encoder.embedding.weight"], first[f"{prefix}segmasks_encoder.embedding.weight"])
    assert torch.equal(own["projector.0.weight"], first["base_model.model.model.mm_projector.0.weight"])
    adapter = torch.load(tuned / "adapter_model.bin", weights_only=True)
    name = "model.layers.1.mlp.up_proj.lora_B"
    assert adapter[f"base_model.model.{name}.weight"].any()
    assert torch.equal(own[f"language.{name}.default.weight"], adapter[f"base_model.model.{name}.weight"])
    anew, _ = begin(replace(second, start=replace(second.start, curriculum_order="published")))
    fresh = anew.state_dict()
    assert not torch.equal(fresh["pooler.mask_encoder.embedding.weight"], own["pooler.mask_encoder.embedding.weight"])
    assert torch.equal(fresh["projector.0.weight"], own["projector.0.weight"])


def test_a_first_stage_of_another_base_is_refused(tuning: Experiment, tuned: Path) -> None:
    other = replace(tuning.start, curriculum=tuned, lora=LoraConfig(8, 8))
    with pytest.raises(UserError, match="another base or adapter") as error:
        begin(replace(tuning, start=other))
    assert str(tuned) in str(error.value)


def test_without_a_vision_tower_only_the_adapter_is_trained(
    tuning: Experiment, tuned: Path, data: Path, tmp_path: Path
) -> None:
    records = json.loads((data / "samples.json").read_text())
    text = [
        {"id": record["id"], "conversations": [{"from": "human", "value": "what next?"}, record["conversations"][1]]}
        for record in records
    ]
    (tmp_path / "text.json").write_text(json.dumps(text))
    downstream = replace(
        tuning,
        start=replace(tuning.start, vision=None, vision_layers=0),
        train=replace(tuning.train, max_steps=2, token_weights=False),
    )
    model = train(downstream, [tmp_path / "text.json"], Dataset(data), tmp_path / "out")
    assert all(".lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    assert len(losses(tmp_path / "out")) == 2
    assert not any(name.startswith(("vision.", "pooler.", "projector.")) for name in model.state_dict())
    load_model(tmp_path / "out", bits=32)
    second = replace(downstream, start=replace(downstream.start, curriculum=tuned))  # one that has seen
    own = begin(second)[0].state_dict()
    name = "model.layers.1.mlp.up_proj.lora_B"
    adapter = torch.load(tuned / "adapter_model.bin", weights_only=True)
    assert torch.equal(own[f"language.{name}.default.weight"], adapter[f"base_model.model.{name}.weight"])
    with pytest.raises(UserError, match="has pictures, which a text-only training cannot see"):
        run(downstream, data, tmp_path / "pictures")


def test_other_precisions(tuning: Experiment) -> None:
    for bits, bf16, expected in ((16, True, torch.bfloat16), (16, False, torch.float32), (32, True, torch.bfloat16)):
        start = replace(tuning.start, bits=bits)
        model, _ = begin(replace(tuning, start=start, train=replace(tuning.train, bf16=bf16)))
        assert model.language.lm_head.weight.dtype == (torch.float32 if bits == 32 else expected)


def test_weights_of_four_bits_are_not_trained_themselves(tuning: Experiment) -> None:
    with pytest.raises(UserError, match="--lora_enable True"):
        begin(replace(tuning, start=replace(tuning.start, lora=None)))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (StartConfig(bits=4), "--bits 4 is for a base"),
        (StartConfig(lora=LoraConfig()), "--lora_enable True is for a base"),
        (StartConfig(vision="somewhere"), "--vision_tower is for a base"),
        (StartConfig(vision_layers=2), "--unfreeze_n_vision_tower_layers is for a base"),
        (StartConfig(base="somewhere", vision_layers=2), "needs --vision_tower"),
        (
            StartConfig(base="somewhere", curriculum=Path("first")),
            "whole has all of its base in it: leave --model_name",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(start: StartConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        begin(replace(SHORT, start=start))


@pytest.mark.parametrize(
    ("start", "settings", "said"),
    [
        (
            StartConfig(base="somewhere", vision="x"),
            {"matrix_learning_rate": 0.01},
            "matrix_learning_rate is for whole",
        ),
        (StartConfig(), {"matrix_learning_rate": 0.01, "deepspeed": Path("zero2.json")}, "without DeepSpeed"),
        (StartConfig(base="somewhere", vision="x"), {"vision_rests": True}, "unfreeze_n_vision_tower_layers"),
        (StartConfig(), {"vision_rests": True}, "give `pretrain` patch_steps"),
        (StartConfig(), {"projector_learning_rate": 1e-3, "visual_learning_rate": 1e-3}, "would be ignored beside"),
    ],
)
def test_settings_of_models_from_scratch(start: StartConfig, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        begin(replace(SHORT, start=start, train=replace(SHORT.train, **settings)))


def test_a_model_from_scratch_may_compute_its_layers_again(data: Path, tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        experiment = replace(SHORT, train=replace(SHORT.train, max_steps=2, gradient_checkpointing=again))
        model = run(experiment, data, tmp_path / str(again))
        assert model.language.is_activation_checkpointing is again
        found.append(losses(tmp_path / str(again)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_base_may_learn_to_see_first(tuning: Experiment, data: Path, tmp_path: Path) -> None:
    experiment = replace(tuning, pretrain=PretrainConfig(2, 2), train=replace(tuning.train, max_steps=1))
    frozen, _ = begin(experiment)
    model = run(experiment, data, tmp_path / "out")
    for name, parameter in frozen.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(dict(model.named_parameters())[name], parameter), name
    blind = replace(experiment, start=replace(experiment.start, vision=None, vision_layers=0))
    with pytest.raises(UserError, match="add --vision_tower"):
        run(blind, data, tmp_path / "blind")


def test_a_base_that_is_nowhere_is_named(tuning: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing") as error:
        begin(replace(tuning, start=replace(tuning.start, base="nobody/nothing")))
    assert "\n" not in str(error.value)


def test_a_room_with_too_many_pictures_is_told_before_a_base_is_loaded(
    tuning: Experiment, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 7B weights that took minutes, where the dry run says it at once."""
    monkeypatch.setattr(train_module, "begin", lambda *_: pytest.fail("the base is loaded"))
    few = replace(tuning, model=replace(tuning.model, pooler=replace(tuning.model.pooler, max_views=4)))
    with pytest.raises(UserError, match="shows 5 pictures of a timepoint, the model has places for 4"):
        run(few, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_that_stand_in_for_others_count_too(tuning: Experiment, data: Path) -> None:
    """A model was trained to its end for a room whose `instead` names more cameras than it has places for."""
    dataset = Dataset(data)
    collection = dataset.domain.collection("MMOR")
    slots = replace(collection.slots, instead=tuple(camera.name for camera in collection.cameras[:8]))
    others = [c for c in dataset.domain.collections if c is not collection]
    domain = replace(dataset.domain, collections=(*others, replace(collection, slots=slots)))
    check_places(tuning, dataset)
    with pytest.raises(UserError, match="shows 8 pictures of a timepoint, the model has places for 7"):
        check_places(tuning, Dataset(data, domain))


def test_the_frequency_file_decides_what_a_token_weighs(tuning: Experiment, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "frequencies.json"
    for content, said in (
        ("[]", "counts"),
        ('{"a": 0}', "counts"),
        ('{"\\u2581xyz": 5}', "most of its tokens are unknown"),
    ):
        path.write_text(content)
        wrong = replace(tuning, files=replace(tuning.files, token_frequencies=path))
        with pytest.raises(UserError, match=said):
            run(wrong, data, tmp_path / "out")
    alike = replace(tuning.train, token_weights=False)
    with pytest.raises(UserError, match="token_weights that all count the same; leave one of them out"):
        run(replace(wrong, train=alike), data, tmp_path / "out")


def test_a_model_of_ours_goes_on_as_its_own_second_stage(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = train_tokens(map(record_text, read_records(data / "samples.json")), SHORT.vocabulary, mmor().language)
    first = MM2SG(with_vocabulary(SHORT.model, tokens.size))
    save_model(tmp_path, first, tokens)
    second, same_tokens = begin(replace(SHORT, start=StartConfig(curriculum=tmp_path)))
    assert same_tokens.names() == tokens.names()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_large_first_stage_goes_on_with_all_its_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To answer on a CPU 16 bits are taken of a billion parameters; to be trained further they would be rounded."""
    monkeypatch.setattr(precision, "LARGE", 1)
    torch.manual_seed(0)
    tokens = train_tokens(["head surgeon"], SHORT.vocabulary, mmor().language)
    first = MM2SG(with_vocabulary(SHORT.model, tokens.size))
    save_model(tmp_path, first, tokens)
    second, _ = begin(replace(SHORT, start=StartConfig(curriculum=tmp_path)))
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_a_second_stage_may_learn_to_read_point_clouds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = SHORT.model
    tokens = train_tokens(["head surgeon"], SHORT.vocabulary, mmor().language)
    first = MM2SG(replace(with_vocabulary(sizes, tokens.size), modalities=("views", "masks")))
    save_model(tmp_path, first, tokens)
    more = replace(SHORT, model=replace(sizes, modalities=("views", "masks", "cloud")))
    second, _ = begin(replace(more, start=StartConfig(curriculum=tmp_path)))
    assert first.pooler.point_encoder is None
    assert second.pooler.point_encoder is not None
    assert second.settings.modalities == more.model.modalities
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_a_second_stage_keeps_its_point_encoder(data: Path, tmp_path: Path) -> None:
    """Its sizes and what has no shape; what a prompt may hold and how batches are made are settings of a training."""
    torch.manual_seed(0)
    tokens = train_tokens(["head surgeon"], SHORT.vocabulary, mmor().language)
    small = PointConfig(depths=(1, 1), channels=(8, 16), heads=(1, 2), mlp_ratio=1, patch=64, voxel=0.2)
    sizes = replace(with_vocabulary(SHORT.model, tokens.size), modalities=("views", "cloud"), points=small)
    first = MM2SG(sizes)
    save_model(tmp_path, first, tokens)
    other = replace(small, channels=(8, 32), patch=32, voxel=0.05)
    wanted = replace(SHORT.model, modalities=("views", "cloud", "masks"), points=other, max_length=300)
    files = FilesConfig(samples=(data / "samples.json",), data=data, out=tmp_path / "out")
    asked = replace(SHORT, model=replace(wanted, batching="published"), start=StartConfig(curriculum=tmp_path))
    second, _ = begin(asked)
    assert second.settings.points == small
    assert (second.settings.max_length, second.settings.batching) == (300, "published")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert sizes_of(replace(asked, files=files)) == second.settings
    assert not dry_run(replace(asked, files=files)).problems
