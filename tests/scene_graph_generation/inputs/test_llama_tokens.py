"""Llama's tokenizer file: the same ids as SentencePiece gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import conversation, human_prompt
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens

WORDS = (
    *mmor().language.entities,
    *mmor().language.predicates,
    conversation(human_prompt(mmor().language, None, None, None, None)),
)
MARKS = ("<s>", "</s>", "<unk>", "▁", "<0x", "\0")  # of the tokenizer's own; no text of ours holds them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_tokenizer(tmp_path_factory.mktemp("llama"))


def write_llama_tokenizer(folder: Path) -> Path:
    """A tokenizer with Llama's settings, trained on our words."""
    (folder / "words.txt").write_text("\n".join([" ".join(WORDS[i:] + WORDS[:i]) for i in range(30)]))
    SentencePieceTrainer.train(
        input=str(folder / "words.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return folder


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Tokens:
    return read_tokens(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@given(st.text(st.sampled_from("abcdehnorstuASI ,;:<>/_\n19é手"), min_size=1) | st.text(min_size=1))
@example("  two blanks   three ")
@example("\nEntities: [head surgeon, patient]. ASSISTANT:")
def test_text_has_the_ids_of_sentencepiece(tokens: Tokens, reference: SentencePieceProcessor, text: str) -> None:
    if not any(mark in text for mark in MARKS):
        ids, _ = tokens.encode(text)
        assert ids == [reference.bos_id(), *reference.encode(text)]
        assert tokens.decode(ids) == text


def test_text_around_the_picture_is_tokenised_in_two_parts(tokens: Tokens, reference: SentencePieceProcessor) -> None:
    ids, labels = tokens.encode("a chat. USER: <image>\nEntities ASSISTANT:", "<SG> nurse,patient,touching; </SG>")
    place = ids.index(IMAGE)
    told = "\nEntities ASSISTANT: <SG> nurse,patient,touching; </SG>"
    assert ids[:place] == [reference.bos_id(), *reference.encode("a chat. USER: ")]
    assert ids[place + 1 :] == [*reference.encode(told), reference.eos_id()]
    learnt = [label for label in labels if label != IGNORED]
    assert tokens.decode(learnt).strip() == "<SG> nurse,patient,touching; </SG>"
    assert learnt[-1] == tokens.end_id == reference.eos_id()


def test_it_can_be_saved_as_ours(tokens: Tokens, tmp_path: Path) -> None:
    tokens.save(tmp_path)
    text = conversation(human_prompt(mmor().language, None, None, None, "Long: head surgeon,patient,drilling"))
    assert read_tokens(tmp_path).encode(text, "<SG> </SG>") == tokens.encode(text, "<SG> </SG>")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no tokenizer")
    with pytest.raises(UserError, match=r"tokenizer\.model: is no SentencePiece tokenizer"):
        read_tokens(tmp_path)


@pytest.mark.parametrize("option", ["--model_type=unigram", "--bos_id=-1", "--add_dummy_prefix=false"])
def test_another_kind_of_tokenizer_is_named(folder: Path, tmp_path: Path, option: str) -> None:
    """Read as Llama's it would give other ids than those it was made for, without a word."""
    usual = "--vocab_size=400 --byte_fallback=true --remove_extra_whitespaces=false --normalization_rule_name=identity"
    kind = option if "model_type" in option else f"--model_type=bpe {option}"
    files = f"--input={folder / 'words.txt'} --model_prefix={tmp_path / 'tokenizer'}"
    SentencePieceTrainer.train(f"{files} {usual} {kind} --minloglevel=2")
    with pytest.raises(UserError, match=r"tokenizer\.model: (is a SentencePiece tokenizer of another|lacks a token)"):
        read_tokens(tmp_path)
