"""Tokenizer, conversation and end tokens that another language model brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import SYSTEM, human_prompt
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.own_tokens import OwnTokens
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from tests.scene_graph_generation.tiny_languages import (
    CONFIGS,
    CONVERSATIONS,
    ENDS,
    SPECIAL,
    TEMPLATES,
    make_tokenizer,
)

FAMILIES = list(CONFIGS)


def write_tokens(folder: Path, family: str, template: str | None = None) -> Path:
    """The files of a tokenizer beside a config.json, without weights."""
    folder.mkdir(exist_ok=True)
    make_tokenizer(family).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIGS[family]))
    special = {"eos_token": ENDS[family][0], "bos_token": SPECIAL[family][0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    (folder / "chat_template.jinja").write_text(TEMPLATES[family] if template is None else template)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OwnTokens:
    folder = write_tokens(tmp_path_factory.mktemp("tokens") / request.param, request.param)
    ids = [make_tokenizer(request.param).token_to_id(end) for end in reversed(ENDS[request.param])]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    read = read_tokens(folder)
    assert isinstance(read, OwnTokens)
    return read


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_asked_as_the_model_was_made_for(tmp_path: Path, family: str) -> None:
    tokens = read_tokens(write_tokens(tmp_path, family))
    assert tokens.conversation("<image>\nwhat?") == CONVERSATIONS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_end_tokens_end_an_answer_and_the_tokenizers_own_is_learnt(tmp_path: Path, family: str) -> None:
    folder, tokenizer = write_tokens(tmp_path, family), make_tokenizer(family)
    ids = [tokenizer.token_to_id(end) for end in reversed(ENDS[family])]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]}))
    tokens = read_tokens(folder)
    assert tokens.end_token == ENDS[family][0]
    assert set(tokens.end_ids) == set(ids)
    assert tokens.encode(tokens.conversation("<image>"), "<SG> </SG>")[1][-1] == ids[-1] == tokens.end_id


@given(st.text(max_size=40).filter(lambda text: not any(mark in text for mark in "<[")), st.text("ab,; ", max_size=20))
def test_an_answer_is_learnt_as_it_will_be_generated(tokens: OwnTokens, question: str, answer: str) -> None:
    asked, _ = tokens.encode(tokens.conversation(f"<image>\n{question}"))
    ids, labels = tokens.encode(tokens.conversation(f"<image>\n{question}"), answer)
    assert asked.count(IMAGE) == 1
    assert ids[: len(asked)] == asked
    assert labels == [IGNORED] * len(asked) + ids[len(asked) :]
    assert tokens.decode(ids[len(asked) :]) == answer
    assert tokens.conversation(f"<image>\n{question}").count(question) >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_begins_once(tmp_path: Path, family: str) -> None:
    tokens = read_tokens(write_tokens(tmp_path, family))
    first = make_tokenizer(family).token_to_id(SPECIAL[family][0])
    ids, _ = tokens.encode(tokens.conversation(human_prompt(mmor().language, None, None, None, None)))
    assert ids[0] == first
    if family != "qwen3":  # its first token opens every turn
        assert ids.count(first) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_template_the_conversation_is_vicunas(tmp_path: Path, family: str) -> None:
    folder = write_tokens(tmp_path, family)
    (folder / "chat_template.jinja").unlink()
    tokens = read_tokens(folder)
    assert isinstance(tokens, OwnTokens)
    assert tokens.template is None
    assert tokens.conversation("what?").startswith(SYSTEM)
    ids, labels = tokens.encode(tokens.conversation("<image>\nwhat?"), "saw")
    begin = make_tokenizer(family).encode("").ids
    assert ids[: len(begin)] == begin
    assert sum(token in begin for token in ids) == len(begin)
    assert tokens.decode([label for label in labels if label != IGNORED]) == " saw"


def test_saved_and_read_again_it_is_the_same(tokens: OwnTokens, tmp_path: Path) -> None:
    tokens.save(tmp_path)
    (tmp_path / "config.json").write_text('{"language": {}}')  # beside the settings of our own folders
    again = read_tokens(tmp_path)
    assert isinstance(again, OwnTokens)
    prompt = tokens.conversation(
        human_prompt(mmor().language, None, None, "drill please", "Long: head surgeon,patient,drilling")
    )
    assert again.conversation("what?") == tokens.conversation("what?")
    assert again.encode(prompt, "<SG> </SG>") == tokens.encode(prompt, "<SG> </SG>")
    assert (again.end_token, again.end_ids, again.template) == (tokens.end_token, tokens.end_ids, tokens.template)


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path, "qwen3")
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }} =>"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": named}))
    assert read_tokens(folder).conversation("what?") == "what? =>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content", "cannot be used"),
        ("{{ raise_exception('never') }}", "cannot be used"),
        ("{{ messages.__class__.__mro__ }}{{ messages[0].content }}", "cannot be used"),
        ("{{ 'hello' }}", "does not write down what is asked"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "does not write down what is asked"),
        ("{{ messages[0].content | lower }}", "does not write down what is asked"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_tokens(write_tokens(tmp_path, "qwen3", template))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path, "qwen3")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="names no token that ends an answer"):
        read_tokens(folder)
    (folder / "config.json").write_text(json.dumps(CONFIGS["qwen3"] | {"eos_token_id": 9999}))
    with pytest.raises(UserError, match="names no token that ends an answer"):
        read_tokens(folder)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|gone|>"}')
    with pytest.raises(UserError, match=r"has no <\|gone\|> token"):
        read_tokens(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("content", ["[]", "{", "\udcff"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    folder = write_tokens(tmp_path, "qwen3")
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_tokens(folder)
