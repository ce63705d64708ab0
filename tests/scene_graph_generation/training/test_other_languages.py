"""Another language model than the published one: three families, trained, saved, loaded, asked, in 32 and in 4 bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from computing.experiments import CONFIGS as CONFIGURATIONS
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import human_prompt
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import (
    Experiment,
    LoraConfig,
    MM2SGConfig,
    StartConfig,
    from_mapping,
    read_experiment,
    to_mapping,
    with_vocabulary,
)
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.decoding import cache_bytes, generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.dry_run import counts, dry_run
from scene_graph_generation.training.loss import answer_loss
from scene_graph_generation.training.starting_point import begin, meta_model, sized_for, sizes_of
from scene_graph_generation.training.train import train
from scene_graph_generation.weights.adapters import targets
from scene_graph_generation.weights.base_models import base_settings, load_base
from scene_graph_generation.weights.checkpoints import load_model, save_model
from scene_graph_generation.weights.fine_tuned import load_fine_tuned, read_fine_tuned, save_published
from tests.scene_graph_generation.tiny_bases import write_bases
from tests.scene_graph_generation.tiny_languages import CONFIGS, ENDS, write_language
from tests.scene_graph_generation.tiny_training import SHORT, losses

pytest.importorskip("bitsandbytes")
FAMILIES = list(CONFIGS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bases(tmp_path_factory.mktemp("bases"), settings=with_vocabulary(SHORT.model, 700))[1]


@pytest.fixture(scope="module", params=FAMILIES)
def language(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language(tmp_path_factory.mktemp("languages") / request.param, request.param)


@pytest.fixture(scope="module")
def tuning(language: Path, clip: Path) -> Experiment:
    settings = replace(
        SHORT.train, max_steps=4, bf16=True, gradient_checkpointing=True, learning_rate=1e-3, token_weights=True
    )
    start = StartConfig(str(language), str(clip), 4, LoraConfig(4, 8, 0.0), vision_layers=1)
    return replace(SHORT, model=replace(SHORT.model, max_length=1024), start=start, train=settings)


@pytest.fixture(scope="module")
def tuned(tuning: Experiment, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    train(tuning, [data / "samples.json"], Dataset(data), out)
    return out


def examples(folder: Path, answer: str | None = None) -> list[Example]:
    """Questions of several lengths with and without pictures, all longer than Mistral's window here."""
    tokens, draw = read_tokens(folder), torch.Generator().manual_seed(3)
    asked = []
    for views, speech in ((1, None), (3, "the drill please"), (0, "hello there")):
        question = human_prompt(mmor().language, None, None, speech, None)
        prompt = tokens.conversation(question if views else question.replace("<image>\n", ""))
        ids, labels = map(torch.tensor, tokens.encode(prompt, answer))
        shown = torch.randn(views, 3, 28, 28, generator=draw)
        asked.append(Example(ids, shown, labels=None if answer is None else labels))
    return asked


def loaded(language: Path, clip: Path) -> MM2SG:
    """The base with small new parts around it."""
    return load_base(language, clip, sized_for(SHORT.model, base_settings(language, clip)))


def transformers_own(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_base_is_the_model_that_transformers_loads(language: Path, clip: Path) -> None:
    model = loaded(language, clip)
    vectors = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = (part(inputs_embeds=vectors).logits for part in (model.language, transformers_own(language)))
    assert torch.equal(ours, theirs)
    assert isinstance(model.settings.language, OtherLanguage)
    assert (model.settings.language.width, model.settings.language.vocabulary) == (64, 420)


def test_scoring_answers_is_scoring_everything(language: Path, clip: Path) -> None:
    model, batch = loaded(language, clip), examples(language, "<SG> saw </SG>")
    with torch.no_grad():
        some, everything = model(batch), model.score_all(batch)
    learnt = everything.labels[:, 1:] != -100
    assert torch.equal(some.labels, everything.labels[:, 1:][learnt])
    assert torch.allclose(some.logits, everything.logits[:, :-1][learnt], atol=1e-5)


def test_generation_is_that_of_transformers(language: Path, clip: Path) -> None:
    model, batch = loaded(language, clip), examples(language)
    merged = model.embed(batch, side="left")
    asked = {"inputs_embeds": merged.embeddings, "attention_mask": merged.attention_mask.long()}
    reference = transformers_own(language)
    free = reference.generate(
        **asked, do_sample=False, max_new_tokens=24, eos_token_id=None, pad_token_id=0, use_cache=True
    )
    assert generate(model, batch, [], 24) == free.tolist()
    ends = [free[0, 5].item(), free[1, 9].item()]  # several tokens end an answer
    cut = reference.generate(**asked, do_sample=False, max_new_tokens=24, eos_token_id=ends, pad_token_id=0)
    expected = [row[: next((i for i, token in enumerate(row) if token in ends), 24)] for row in cut.tolist()]
    assert generate(model, batch, ends, 24) == expected
    assert generate(model, batch, ends, 24) == [generate(model, [one], ends, 24)[0] for one in batch]


def test_a_step_lowers_the_loss(tuning: Experiment) -> None:
    still = replace(tuning.model, pooler=replace(tuning.model.pooler, dropout=0.0))
    model, _ = begin(replace(tuning, model=still, start=replace(tuning.start, bits=32)))
    batch = examples(Path(str(tuning.start.base)), "<SG> head surgeon,patient,drilling; </SG>")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)

    def loss() -> Tensor:
        output = model.train()(batch)
        return answer_loss(output.logits, output.labels, None)

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before
    adapted = [
        name for name, p in model.named_parameters() if ".lora_B" in name and p.grad is not None and p.grad.any()
    ]
    assert len(adapted) == 2 * 7


def test_a_whole_model_loads_with_the_same_scores(language: Path, clip: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = loaded(language, clip)
    save_model(tmp_path, model, read_tokens(language))
    again, tokens = load_model(tmp_path, bits=32)
    batch = examples(language)
    with torch.no_grad():
        assert torch.equal(again.score_all(batch).logits, model.score_all(batch).logits)
    assert tokens.conversation("what?") == read_tokens(language).conversation("what?")
    assert set(tokens.end_ids) == {tokens.names()[end] for end in ENDS[language.name]}
    own = {name.removeprefix("language.") for name in load_file(tmp_path / "model.safetensors") if "language." in name}
    assert own == set(load_file(language / "model.safetensors"))  # the names are the model's own
    assert load_base(tmp_path, None, pictures=True).settings == model.settings  # a model of ours is a base, too


def test_an_adapter_is_trained_saved_and_loaded(tuned: Path, tuning: Experiment, data: Path, tmp_path: Path) -> None:
    files = {"config.json", "adapter.json", "trained.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files | {"generation_config.json", "chat_template.jinja"} <= {path.name for path in tuned.iterdir()}
    assert sorted(losses(tuned)) == [1, 2, 3, 4]
    folder = read_fine_tuned(tuned)
    assert (folder.base, folder.vision, folder.lora) == (tuning.start.base, tuning.start.vision, tuning.start.lora)
    model, report = load_fine_tuned(folder, bits=32)
    assert not report.missing
    stored, state = load_file(tuned / "trained.safetensors"), model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert any(".lora_B" in name and tensor.any() for name, tensor in stored.items())
    batch = examples(tuned)
    with torch.no_grad():
        first, second = (load_fine_tuned(folder, bits=32)[0].score_all(batch).logits for _ in range(2))
    assert torch.equal(first, second)
    merged, _ = load_model(tuned, bits=32)
    with torch.no_grad():
        assert torch.allclose(merged.score_all(batch).logits, first, atol=1e-3)
    with pytest.raises(UserError, match="no place for another language model"):
        save_published(tmp_path, model, "a", None)


def test_a_training_that_was_stopped_goes_on_bit_for_bit(
    tuned: Path, tuning: Experiment, data: Path, tmp_path: Path
) -> None:
    (tuned / "checkpoint-3").rename(tmp_path / "checkpoint-3")
    train(tuning, [data / "samples.json"], Dataset(data), tmp_path)
    (tmp_path / "checkpoint-3").rename(tuned / "checkpoint-3")
    one, other = (load_file(folder / "trained.safetensors") for folder in (tuned, tmp_path))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UserError, match="is trained already"):
        train(tuning, [data / "samples.json"], Dataset(data), tuned)


def test_it_answers_timepoints_in_4_bits(tuned: Path, data: Path) -> None:
    model, tokens = load_model(tuned, bits=4)
    names = {name for name, parameter in model.language.named_parameters() if parameter.dtype == torch.uint8}
    tied = "lm_head.weight" not in dict(model.language.named_parameters())
    assert sum("base_layer" in name for name in names) == 2 * 7
    assert ("lm_head.weight" in names) != tied
    assert not any("embed_tokens" in name for name in names)
    generator = SceneGraphGenerator(model, tokens, max_new_tokens=4)
    timepoints = Dataset(data).take(Dataset(data).takes()[1]).timepoints[:2]
    asked = [generator.read(timepoint, None) for timepoint in timepoints]
    assert len(generator.answer(asked)) == 2
    start = tokens.conversation("<image>").split("<image>")[0]
    assert tokens.encode(start)[0] == asked[0].ids[: len(tokens.encode(start)[0])].tolist()


def test_all_of_it_can_be_trained(tuning: Experiment, data: Path, tmp_path: Path) -> None:
    whole = replace(
        tuning,
        start=replace(tuning.start, lora=None, bits=32),
        train=replace(tuning.train, max_steps=2, bf16=False),
    )
    model = train(whole, [data / "samples.json"], Dataset(data), tmp_path)
    again, _ = load_model(tmp_path, bits=32)
    batch = examples(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.score_all(batch).logits, model.eval().score_all(batch).logits)


def test_a_dry_run_counts_what_transformers_has(tuning: Experiment, data: Path, tmp_path: Path) -> None:
    start, folder = tuning.start, Path(str(tuning.start.base))
    found = counts(meta_model(tuning, sizes_of(tuning)))
    assert found["language model"] == (0, sum(p.numel() for p in transformers_own(folder).parameters()))
    files = replace(tuning.files, samples=(data / "samples.json",), data=data, out=tmp_path / "out")
    report = dry_run(replace(tuning, files=files))
    assert not report.problems
    assert "trained.safetensors, adapter.json" in report.text
    unknown = dry_run(replace(tuning, files=files, start=replace(start, base="nobody/qwen")))
    assert "fetches nobody/qwen from the model hub first" in unknown.text
    assert "are those of liuhaotian/llava-v1.5-7b until then" in unknown.text


def test_the_experiment_file_is_for_any_of_them(tuning: Experiment, data: Path, tmp_path: Path) -> None:
    experiment = read_experiment(CONFIGURATIONS / "scene_graph" / "language_model.yaml")
    small = replace(experiment.train, max_steps=1, batch_size=2, accumulation=1, save_steps=5, workers=0)
    start = replace(experiment.start, base=tuning.start.base, vision=tuning.start.vision, vision_layers=1)
    changed = replace(experiment, model=tuning.model, start=start, train=small)
    train(changed, [data / "samples.json"], Dataset(data), tmp_path)  # counts the tokens of this tokenizer
    assert load_model(tmp_path, bits=32)[0].settings.language == base_settings(Path(str(start.base)), None).language


def test_keys_that_heads_share_take_less_room(language: Path, clip: Path) -> None:
    settings = base_settings(language, clip)
    assert settings.language.key_width == 2 * {"llama3": 16, "qwen3": 32, "mistral": 16}[language.name]
    room = min(settings.max_length + 300, 1024)
    assert cache_bytes(settings, samples=1) == 2 * 2 * settings.language.key_width * 2 * room


def test_from_nothing_with_an_architecture_of_choice(data: Path, tmp_path: Path) -> None:
    """An experiment file may describe the language model; tokenizer and conversation are then those of small models."""
    described = {"language": {"config": {name: v for name, v in CONFIGS["qwen3"].items() if name != "eos_token_id"}}}
    settings = from_mapping(MM2SGConfig, {**to_mapping(SHORT.model), **described}, "e.yaml")
    experiment = replace(SHORT, model=settings, train=replace(SHORT.train, max_steps=2))
    model = train(experiment, [data / "samples.json"], Dataset(data), tmp_path)
    again, tokens = load_model(tmp_path)
    assert type(again.language).__name__ == "Qwen3ForCausalLM"
    assert again.settings == model.settings
    assert "ASSISTANT:" in tokens.conversation("what?")
    assert not (tmp_path / "tokenizer_config.json").exists()


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("qwen3", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "never run"),
        ("qwen3", {"trust_remote_code": True}, "never run"),
        ("qwen3", {"model_type": "brand_new"}, "brand_new is unknown"),
        ("qwen3", {"model_type": "t5"}, "t5 is an encoder with a decoder"),
        ("qwen3", {"model_type": "bert"}, "bert is no language model"),
        ("qwen3", {"model_type": "clip"}, "clip is no language model"),
        ("qwen3", {"model_type": "mamba"}, "mamba cannot be used here, it does not take position_ids"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "in 16 or 32 bits"),
        ("qwen3", {"hidden_size": "wide"}, "describes no qwen3"),
        ("qwen3", {"hidden_size": 0}, "hidden_size"),
        ("llama3", {"rope_scaling": {"rope_type": "llama3"}}, "llama"),
        ("qwen3", {"num_hidden_layers": 10**6}, "asks for 1000000 layers"),
        ("qwen3", {"vocab_size": 300}, "another shape than config.json says"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    clip: Path, tmp_path: Path, family: str, change: dict[str, Any], said: str
) -> None:
    folder = write_language(tmp_path / family, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=said) as error:
        load_base(folder, clip)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ("{config: 3}", "language: config: expected a mapping of settings, got '3'"),
        ("{config: {1: 2}}", "language: config: expected a mapping of settings"),
        ("{config: {hidden_size: 64}}", "model_type None is unknown"),
        ("{config: {model_type: qwen3}, width: 3}", "unknown setting 'config'"),
        (
            "{config: {model_type: llama, hidden_size: 30, num_attention_heads: 4}}",
            "describes no llama that can be built",
        ),
        ("[]", "expected a mapping of settings"),
    ],
)
def test_a_description_in_an_experiment_file_is_checked(tmp_path: Path, described: str, said: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(f"model: {{language: {described}}}")
    with pytest.raises(UserError, match=said) as error:
        read_experiment(path)
    assert str(error.value).startswith(f"{path}: model: ")
    assert "\n" not in str(error.value)


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(clip: Path, tmp_path: Path) -> None:
    folder = write_language(tmp_path / "qwen3", "qwen3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    state = load_file(folder / "model.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:300].clone()
    save_file(state, folder / "model.safetensors")
    start = StartConfig(str(folder), str(clip), 16, LoraConfig(4, 8))
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, the model 300"):
        begin(replace(SHORT, start=start))


def test_weights_that_are_missing_are_named_with_the_right_model(clip: Path, tmp_path: Path) -> None:
    folder = write_language(tmp_path / "llama3", "llama3")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"1 weights are missing.*up_proj\.weight; give a whole copy of {folder}"):
        load_base(folder, clip)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="transformers cannot read its weights"):  # it would have to unpickle them
        load_base(folder, clip)


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "cohere", "gpt2", "mixtral"])
def test_families_with_other_names_and_other_scores(clip: Path, tmp_path: Path, kind: str) -> None:
    """Files with other names and forms of weights, tied embeddings, scores that are scaled after the last layer."""
    sizes = {name: CONFIGS["llama3"][name] for name in CONFIGS["llama3"] if name.endswith(("_size", "layers", "heads"))}
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model, reference = loaded(tmp_path, clip), transformers_own(tmp_path)
    vectors = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.language(inputs_embeds=vectors).logits, reference(inputs_embeds=vectors).logits)
        batch = [Example(torch.tensor([3, 4, 5]), torch.zeros(0, 3, 28, 28), torch.tensor([-100, 4, 5]))]
        expected = reference(input_ids=batch[0].ids[None]).logits[0, :2]
        assert torch.allclose(model(batch).logits, expected, atol=1e-5)
    if kind == "gpt2":
        with pytest.raises(UserError, match="no linear layers for an adapter"):
            targets(model)


def test_an_adapter_around_another_model_is_refused(tuned: Path, tmp_path: Path) -> None:
    other = next(family for family in FAMILIES if family != Path(read_fine_tuned(tuned).base).name)
    folder = write_language(tmp_path / other, other)
    with pytest.raises(UserError, match="another language model than this one was trained on"):
        load_model(tuned, base=folder)


def test_without_a_chat_template_it_is_said(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_language(tmp_path / "mistral", "mistral")
    (folder / "chat_template.jinja").unlink()
    _, tokens = begin(replace(SHORT, start=StartConfig(str(folder), str(clip), 16, LoraConfig(4, 8))))
    assert "has no chat template; questions are asked as those to Vicuna" in capsys.readouterr().err
    assert tokens.conversation("what?").endswith("USER: what? ASSISTANT:")


def test_the_published_language_model_is_adapted_where_it_was() -> None:
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert targets(MM2SG(SHORT.model)) == names
