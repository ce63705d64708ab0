"""Fine-tuned folders, published and ours, on bases in the hub's layout: what comes back, what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapter_config import _FURTHER, read_adapter_config
from scene_graph_generation.weights.adapters import freeze
from scene_graph_generation.weights.base_models import base_settings, load_base
from scene_graph_generation.weights.checkpoints import load_model, save_model
from scene_graph_generation.weights.fine_tuned import load_fine_tuned, read_fine_tuned, save_published, save_trained
from scene_graph_generation.weights.parameter_names import WRAPPED, published_name
from tests.scene_graph_generation.model.test_model import make_examples, make_model
from tests.scene_graph_generation.tiny_bases import SETTINGS, fine_tuned, write_bases

FILES = ("config.json", "adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, bases: tuple[Path, Path]) -> Path:
    """A folder in the published form whose name says nothing."""
    folder = tmp_path_factory.mktemp("m")
    save_published(folder, fine_tuned(), str(bases[0]), str(bases[1]))
    return folder


def answers(model: MM2SG) -> list[list[int]]:
    return generate(model, make_examples(), end_ids=[-1], max_new_tokens=8)


def test_a_published_folder_answers_like_the_model_it_was_written_from(published: Path) -> None:
    model, tokens = load_model(published)
    assert answers(model) == answers(fine_tuned())
    assert tokens.size <= model.settings.language.vocabulary
    assert answers(model) != answers(make_model(SETTINGS))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_reading_and_writing_gives_the_same_bytes(
    published: Path, bases: tuple[Path, Path], tmp_path: Path, dtype: torch.dtype | None
) -> None:
    if dtype is not None:
        save_published(tmp_path / "first", fine_tuned(), *map(str, bases), dtype=dtype)
        published = tmp_path / "first"
    model, report = load_fine_tuned(read_fine_tuned(published), bits=32)
    save_published(tmp_path / "again", model, *map(str, bases), dtype=dtype)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (published / name).read_bytes(), name
    assert not report.missing
    assert not report.unexpected
    assert not report.reshaped
    trainable = [name for name, parameter in fine_tuned().named_parameters() if parameter.requires_grad]
    assert len(report.matched) >= len(trainable)


def test_our_form_answers_the_same_merged_or_not(bases: tuple[Path, Path], tmp_path: Path) -> None:
    model = fine_tuned()
    tokens = read_tokens(bases[0])
    save_trained(tmp_path / "beside", model, tokens, str(bases[0]), str(bases[1]))
    beside, _ = load_model(tmp_path / "beside")
    assert answers(beside) == answers(model)
    save_model(tmp_path / "whole", beside, tokens)
    assert answers(load_model(tmp_path / "whole")[0]) == answers(model)
    with pytest.raises(UserError, match="merge its adapter first"):
        save_model(tmp_path / "no", model, tokens)
    with pytest.raises(UserError, match="has no adapter"):
        save_published(tmp_path / "no", beside, str(bases[0]), None)


def test_a_model_of_ours_is_a_base_too(bases: tuple[Path, Path], tmp_path: Path) -> None:
    save_model(tmp_path / "base", make_model(SETTINGS), read_tokens(bases[0]))
    save_published(tmp_path / "tuned", fine_tuned(), str(tmp_path / "base"), None)
    model, _ = load_model(tmp_path / "tuned")
    assert answers(model) == answers(fine_tuned())


def test_safetensors_bases_are_read_like_bin(tmp_path: Path, bases: tuple[Path, Path]) -> None:
    one, other = load_base(*bases).state_dict(), load_base(*write_bases(tmp_path, ".safetensors")).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one if not name.startswith("pooler."))


def test_16_bits_keep_the_point_encoder_in_32(published: Path) -> None:
    model, _ = load_model(published, bits=16)
    kinds = {parameter.dtype for name, parameter in model.named_parameters() if "point_encoder" in name}
    assert kinds == {torch.float32}
    assert model.language.lm_head.weight.dtype == torch.bfloat16
    assert model.language.model.rotary_emb.inv_freq.dtype == torch.float32
    assert len(answers(model)) == 4


def test_4_bits_keep_the_adapter_beside_the_base(published: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quant (bitsandbytes) is not installed")
    model, _ = load_model(published, bits=4)
    named = dict(model.named_parameters())
    assert named["language.model.layers.0.self_attn.q_proj.base_layer.weight"].dtype == torch.uint8
    reference = dict(fine_tuned().named_parameters())
    name = "language.model.layers.1.mlp.up_proj.lora_B.default.weight"
    assert torch.equal(named[name], reference[name])
    assert len(answers(model)) == 4


def test_a_text_only_model_has_nothing_but_its_adapter(bases: tuple[Path, Path], tmp_path: Path) -> None:
    model = fine_tuned()
    freeze(model, None)
    save_published(tmp_path / "text", model, str(bases[0]), None)
    settings = json.loads((tmp_path / "text" / "config.json").read_text())
    assert settings["mm_vision_tower"] is None
    text = replace(make_examples()[0], ids=torch.arange(3, 12), views=torch.zeros(0, 3, 28, 28))
    loaded, _ = load_model(tmp_path / "text")
    assert generate(loaded, [text], [-1], 6) == generate(model, [text], [-1], 6)


def test_sizes_come_from_the_published_config(bases: tuple[Path, Path], tmp_path: Path) -> None:
    values = json.loads((bases[0] / "config.json").read_text())
    values |= {"mm_vision_select_layer": -1, "tokenizer_model_max_length": 99}
    (tmp_path / "config.json").write_text(json.dumps(values))
    settings = base_settings(tmp_path, bases[1])
    assert settings.language == SETTINGS.language
    assert settings.vision == replace(SETTINGS.vision, feature_layer=-1)
    assert settings.max_length == 99
    assert settings.pooler == replace(MM2SGConfig().pooler, mask_channels=(64, 128, 256, 512, SETTINGS.vision.width))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(published: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "folder"
    shutil.copytree(published, broken)
    (broken / name).write_bytes((broken / name).read_bytes()[:40])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_model(broken)
    (broken / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_model(broken)


def test_pickled_code_is_not_run(published: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # ty: ignore[invalid-explicit-return]

    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    torch.save({"a": Attack()}, folder / "adapter_model.bin")
    with pytest.raises(UserError, match="not safe to read"):
        load_model(folder)
    assert not (tmp_path / "touched").exists()


def _change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def _rename_layer(state: dict[str, Any]) -> None:
    name = next(iter(state))
    state[name.replace("layers.0", "layers.7")] = state.pop(name)


def _shrink(state: dict[str, Any]) -> None:
    name = "base_model.model.model.mm_projector.0.weight"
    state[name] = state[name][:-1]


@pytest.mark.parametrize(
    ("file", "edit", "problem"),
    [
        ("adapter_model.bin", _rename_layer, r"layers\.7.* is unknown here"),
        ("adapter_model.bin", lambda state: state.pop(next(iter(state))), "is missing"),
        ("non_lora_trainables.bin", _shrink, "mm_projector.0.weight has another shape"),
        (
            "non_lora_trainables.bin",
            lambda state: state.update({"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(64)}),
            "q_proj.bias is unknown here",
        ),
        (
            "non_lora_trainables.bin",
            lambda state: state.pop("base_model.model.model.image_pooler.project_audio.bias"),
            "project_audio.bias is missing",
        ),
    ],
)
def test_another_architecture_is_named(
    published: Path, tmp_path: Path, file: str, edit: Callable[[dict[str, Any]], None], problem: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    _change(folder / file, edit)
    with pytest.raises(UserError, match=problem) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_what_no_part_of_the_model_knows_is_reported(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(published, folder)
    _change(folder / "non_lora_trainables.bin", lambda state: state.update(extra=torch.zeros(2)))
    _, report = load_fine_tuned(read_fine_tuned(folder), bits=32)
    assert report.unexpected == ["extra"]
    assert "1 unexpected: extra" in str(report)


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "pissa"},  # on what is left of the base without its largest singular values
        {"init_lora_weights": "olora"},
        {"loftq_config": {"loftq_bits": 4}},
        {"trainable_token_indices": [3]},
        {"layer_replication": [[0, 2]]},
        {"monteclora_config": {"num_samples": 8}},
        {"bias": "all"},
    ],
)
def test_adapters_that_are_more_than_two_matrices_are_refused_by_name(
    published: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads((published / path.name).read_text()) | changes))
    with pytest.raises(UserError, match=f"adapter of another kind .*{next(iter(changes))}"):
        read_adapter_config(path)


def test_all_that_the_installed_library_writes_of_an_adapter_is_known() -> None:
    """A setting that is new is plain LoRA or is refused; nothing else would tell of it."""
    plain = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    plain |= {"inference_mode", "r", "lora_alpha", "lora_dropout", "bias", "init_lora_weights", "runtime_config"}
    plain |= {"target_modules", "exclude_modules", "layers_pattern", "megatron_config", "megatron_core"}
    plain |= {"eva_config", "velora_config", "qalora_group_size", "ensure_weight_tying"}  # of training, or of others
    assert {field.name for field in fields(peft.LoraConfig)} - set(_FURTHER) <= plain


def test_another_base_is_named(published: Path, tmp_path: Path) -> None:
    other = replace(SETTINGS, language=replace(SETTINGS.language, mlp=64))
    language, vision = write_bases(tmp_path, settings=other)
    with pytest.raises(UserError, match=r"another base than the model was trained on \(mlp is 64 here, 128 there"):
        load_model(published, base=language, vision=vision)


def test_bases_that_are_not_whole_are_named(bases: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bases[0], copy)
    (copy / "part-1.bin").unlink()
    with pytest.raises(UserError, match=r"part-1\.bin: is missing"):
        load_base(copy, bases[1])
    index = copy / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-0.bin"}}))
    with pytest.raises(UserError, match="weights are missing, the first is model"):
        load_base(copy, bases[1])
    index.write_text(json.dumps({"weight_map": {"a": "../part-0.bin"}}))
    with pytest.raises(UserError, match="outside its folder"):
        load_base(copy, bases[1])
    with pytest.raises(UserError, match="clip is no language model"):
        load_base(bases[1], bases[1])


def test_weights_of_a_base_that_are_not_read_are_told_once(
    bases: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy in a second form was passed over without a word, be it an older one or a newer one."""
    load_base(*bases)
    assert "note" not in capsys.readouterr().err
    language, vision = (shutil.copytree(folder, tmp_path / folder.name) for folder in bases)
    left = "pytorch_model.bin"
    (language / left).write_bytes(b"is not read")
    save_file(torch.load(vision / left), vision / "model.safetensors")
    for _ in range(2):
        load_base(language, vision)
    said = capsys.readouterr().err
    for folder, read in ((language, f"{left}.index.json"), (vision, "model.safetensors")):
        told = f"note: {folder}: its weights are read from {read}, not from {left} beside it; move away what is not"
        assert said.count(told) == 1


def test_a_weight_that_two_files_of_a_base_have_is_named(bases: tuple[Path, Path], tmp_path: Path) -> None:
    """As of a shard of another version: the later one was taken."""
    copy = tmp_path / "copy"
    shutil.copytree(bases[0], copy)
    shards = [torch.load(copy / f"part-{number}.bin") for number in (0, 1)]
    name = next(iter(shards[0]))
    torch.save({**shards[1], name: shards[0][name] + 1}, copy / "part-1.bin")
    with pytest.raises(UserError, match=f"part-1.bin: has {name}, which part-0.bin has, too"):
        load_base(copy, bases[1])


def test_a_weight_that_a_published_folder_has_twice_is_named(published: Path, tmp_path: Path) -> None:
    """In both of its files, or in one of them with and without the adapter's prefix."""
    adapter, others = (torch.load(published / name) for name in FILES[2:])
    name = next(name for name in others if "mm_projector" in name)
    other = others[name] + 1
    for file, content, told in (
        (FILES[2], {**adapter, name: other}, "adapter_model.bin: has .*, which non_lora_trainables.bin has, too"),
        (FILES[3], {**others, name.removeprefix(WRAPPED): other}, "is there under another name, too"),
    ):
        shutil.copytree(published, tmp_path / "m", dirs_exist_ok=True)
        torch.save(content, tmp_path / "m" / file)
        with pytest.raises(UserError, match=told):
            load_model(tmp_path / "m")


def test_a_model_that_is_saved_over_another_is_never_half_of_each(
    bases: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its two files, a training that went on left the new adapter on the old pooler."""
    model, names = fine_tuned(), (str(bases[0]), str(bases[1]))
    save_published(tmp_path, model, *names)
    old = read_fine_tuned(tmp_path).state
    old = {name: tensor.clone() for name, tensor in old.items()}  # not the mapped files
    trained = {WRAPPED + published_name(name) for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    replace_file = os.replace
    kept, refused = list[set[bool]](), list[str]()

    def watched(source: Path, target: Path) -> None:
        replace_file(source, target)
        try:
            now = read_fine_tuned(tmp_path).state
        except UserError as error:
            refused.append(str(error))
        else:
            kept.append({torch.equal(now[name], old[name]) for name in trained})

    monkeypatch.setattr(os, "replace", watched)
    save_published(tmp_path, model, *names)
    assert kept[-1] == {False}
    assert all("non_lora_trainables.bin (or" in told for told in refused)
    assert all(len(which) == 1 for which in kept)
    monkeypatch.setattr(torch, "save", lambda value, file: full() if "lora_" in min(value) else file.write(b"new"))
    with pytest.raises(UserError, match="cannot be written"):
        save_published(tmp_path, model, *names)
    assert read_fine_tuned(tmp_path).state.keys() == old.keys(), "what was there stays"


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_two_forms_of_one_file_must_hold_the_same(published: Path, tmp_path: Path) -> None:
    """A newer library's copy was taken, whatever the file beside it said."""
    folder = shutil.copytree(published, tmp_path / "m")
    state = torch.load(folder / "adapter_model.bin")
    save_file(state, folder / "adapter_model.safetensors")
    assert read_fine_tuned(folder).state.keys() == read_fine_tuned(published).state.keys()
    name = min(state)
    save_file(state | {name: state[name] + 1}, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=rf"adapter_model\.safetensors: has other weights than .*\.bin .*{name}.*move away"
    ):
        read_fine_tuned(folder)


def test_a_device_that_is_not_there_is_one_sentence(published: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(UserError, match=f"device {device}: cannot be used") as error:
            load_model(published, device=device)
        assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_sentence(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("cannot find the files and traffic is disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"liuhaotian/llava-v1\.5-7b: cannot be fetched .*give a local copy") as error:
        load_model(published, base="liuhaotian/llava-v1.5-7b")
    assert "\n" not in str(error.value)


def test_settings_are_written_as_ever(tmp_path: Path) -> None:
    """Digests of what was written before other language models than the published one could be chosen."""
    save_published(tmp_path, fine_tuned(), "base", "vision")
    save_trained(tmp_path / "own", fine_tuned(), train_tokens(["hello"], 700, mmor().language), "base", "vision")
    written = {path.name for path in (tmp_path / "own").iterdir()}
    assert written == {"config.json", "adapter.json", "tokenizer.json", "trained.safetensors"}
    for name, digest in {
        "config.json": "ad4939c442d41338",
        "adapter_config.json": "ad2b05eaaa2b8b7d",
        "own/config.json": "59735d445392281e",
        "own/adapter.json": "88c51e47b19b6fe9",
    }.items():
        assert sha256((tmp_path / name).read_bytes()).hexdigest()[:16] == digest, name
