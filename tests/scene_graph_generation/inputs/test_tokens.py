"""The closed-language tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import conversation, human_prompt
from operating_room.graphs.scene_graph import Triplet, parse, target_text
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens, train_tokens

SPEECH = "Give me the drill. Pin is going in, slowly."


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    language = mmor().language
    return train_tokens([conversation(human_prompt(language, None, None, SPEECH, None))] * 3, 1024, language)


triplets = st.builds(
    Triplet,
    st.sampled_from(mmor().language.entities),
    st.sampled_from(mmor().language.entities),
    st.sampled_from(mmor().language.predicates),
)


@given(st.lists(triplets, max_size=12))
def test_a_triplet_is_three_tokens_and_comes_back(tokens: Tokens, graph: list[Triplet]) -> None:
    answer = target_text(graph)
    ids, labels = tokens.encode(conversation("<image>"), answer)
    learnt = [label for label in labels if label != IGNORED]
    assert len(learnt) == 3 * len(graph) + 3  # and <SG>, </SG>, </s>
    assert learnt == ids[-len(learnt) :]
    assert learnt[-1] == tokens.end_id
    assert tokens.decode(learnt) == f" {answer}"
    assert parse(tokens.decode(learnt)) == parse(answer)


@given(st.text(max_size=60).filter(lambda text: "<image>" not in text and "<s>" not in text and "</s>" not in text))
def test_any_text_can_be_encoded(tokens: Tokens, text: str) -> None:
    ids, _ = tokens.encode(f"<image>{text}")
    assert ids[1] == IMAGE
    assert tokens.decode(ids[2:]) == text


def test_the_fixed_text_is_a_few_tokens(tokens: Tokens) -> None:
    bare, _ = tokens.encode(conversation(human_prompt(mmor().language, None, None, None, None)))
    assert len(bare) == 5  # beginning, system text, image, line break, question
    blocks, _ = tokens.encode(conversation(human_prompt(mmor().language, {}, {"unique_id_dicts": []}, "", "")))
    assert len(blocks) <= len(bare) + 2 * 4 + 3 + 1  # two markers for each of four blocks, and the blanks of empty ones


def test_frequent_speech_is_short(tokens: Tokens) -> None:
    ids, _ = tokens.encode(f"<image>{SPEECH}")
    assert len(ids) < 20


def test_a_saved_tokenizer_is_the_same(tokens: Tokens, tmp_path: Path) -> None:
    tokens.save(tmp_path)
    again = read_tokens(tmp_path)
    prompt = conversation(human_prompt(mmor().language, None, None, SPEECH, "Long: head surgeon,patient,drilling"))
    assert again.encode(prompt, "<SG> </SG>") == tokens.encode(prompt, "<SG> </SG>")
    assert again.names() == tokens.names()


def test_a_sample_to_learn_from_has_one_image_mark_at_most(tokens: Tokens) -> None:
    with pytest.raises(UserError, match="may hold <image> once, this one has it 2 times"):
        tokens.encode("<image> and <image> ASSISTANT:", "nothing")


def test_a_spoken_image_mark_is_text(tokens: Tokens) -> None:
    ids, _ = tokens.encode("<image> show the <image> ASSISTANT:")
    assert ids.count(IMAGE) == 1
    assert tokens.decode(ids[ids.index(IMAGE) + 1 :]) == " show the <image> ASSISTANT:"


def test_a_prompt_without_image_mark_is_text_only(tokens: Tokens) -> None:
    ids, labels = tokens.encode("what next ASSISTANT:", "drilling")
    assert IMAGE not in ids
    assert tokens.decode(ids) == "what next ASSISTANT: drilling"
    assert [token for token in labels if token != IGNORED] == tokens.encode("<image>", "drilling")[1][2:]


@pytest.mark.parametrize("content", ["", "{}", "{broken"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_tokens(tmp_path)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        read_tokens(tmp_path)


def test_a_tokenizer_that_begins_no_text_is_named(tmp_path: Path) -> None:
    """The beginning of a sample's second part is dropped: without such a token that would be a word."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="does not begin a text with one token of its own"):
        read_tokens(tmp_path)


def test_half_a_character_is_no_text() -> None:
    """As a name in the predictions of another program, which becomes part of a question."""
    tokens = train_tokens(["head surgeon"], 700, mmor().language)
    for prompt, answer in (("a \ud800", None), ("a", "\udfff")):
        with pytest.raises(UserError, match="a text holds half a character"):
            tokens.encode(prompt, answer)
