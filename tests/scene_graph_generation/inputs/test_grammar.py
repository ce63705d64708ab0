"""The grammar of scene graphs: every valid text in every spelling, and no other."""

from __future__ import annotations

import string
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, processors

from mmor.demo import BUNDLED, GRAPHS
from operating_room.domain.domain import bundled, mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import END, START, Triplet, normalise, parse, target_text
from scene_graph_generation.inputs.grammar import Grammar
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.model.draft_decoding import decode
from scene_graph_generation.model.drafts import Said
from tests.scene_graph_generation.inputs.test_llama_tokens import write_llama_tokenizer
from tests.scene_graph_generation.model.test_model import TINY, make_examples, make_model
from tests.scene_graph_generation.tiny_languages import write_language

LANGUAGE = mmor().language
GRAPH = st.lists(
    st.builds(Triplet, *[st.sampled_from(LANGUAGE.entities)] * 2, st.sampled_from(LANGUAGE.predicates)),
    max_size=6,
)


@pytest.fixture(scope="module", params=["own", "llama2", "llama3", "qwen3"])
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokenizers of four kinds: of whole names, SentencePiece with single bytes, and byte-level ones."""
    folder = tmp_path_factory.mktemp("tokens")
    if request.param == "own":
        return read_tokens(BUNDLED / GRAPHS)
    if request.param == "llama2":
        return read_tokens(write_llama_tokenizer(folder))
    return read_tokens(write_language(folder / request.param, request.param))


@pytest.fixture(scope="module")
def grammar(tokens: Tokens) -> Grammar:
    return Grammar(tokens, LANGUAGE)


def answer_ids(tokens: Tokens, text: str) -> list[int]:
    """As it is learnt, without the end."""
    return [token for token in tokens.encode("?:", text)[1] if token >= 0][:-1]


def states(grammar: Grammar, ids: list[int]) -> list[int]:
    found = [grammar.begin]
    for token in ids:
        assert grammar.allowed(found[-1])[token]
        following = grammar.after(found[-1], token)
        assert following is not None
        found.append(following)
    return found


@settings(max_examples=25)
@given(graph=GRAPH)
def test_every_target_may_be_said_and_ends_where_it_ends(
    tokens: Tokens, grammar: Grammar, graph: list[Triplet]
) -> None:
    ids = answer_ids(tokens, target_text(graph))
    last = states(grammar, ids)[-1]
    assert set(np.flatnonzero(grammar.allowed(last))) == set(tokens.end_ids)
    assert tokens.decode(ids).strip() == target_text(graph)


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 30), graph=GRAPH)
def test_whatever_may_be_said_is_a_graph_also_if_it_is_cut(
    tokens: Tokens, grammar: Grammar, seed: int, graph: list[Triplet]
) -> None:
    draw = Random(seed)
    ids = answer_ids(tokens, target_text(graph))
    ids = ids[: draw.randrange(len(ids) + 1)]
    state = states(grammar, ids)[-1]
    for _ in range(draw.randrange(40)):
        choice = np.flatnonzero(grammar.allowed(state)).tolist()
        assert choice
        token = draw.choice(choice)
        following = grammar.after(state, token)
        if following is None:
            assert token in tokens.end_ids
            break
        ids, state = [*ids, token], following
    text = tokens.decode(grammar.close(ids)).strip()
    assert text.startswith(START)
    assert text.endswith(END)
    inside = text.removeprefix(START).removesuffix(END).strip().rstrip(";")
    assert len(parse(text)) == (inside.count(";") + 1 if inside else 0)
    assert all(normalise(triplet, LANGUAGE) for triplet in parse(text))


@pytest.mark.parametrize(
    "text", ["nurse", f"{START} nurse,patient", f"{START} nurse,patient,nurse", f"{START} saw,saw,sawing;; ", "<s>"]
)
def test_nothing_else_may_be_said(tokens: Tokens, grammar: Grammar, text: str) -> None:
    state: int | None = grammar.begin
    for token in answer_ids(tokens, text):
        state = None if state is None else grammar.after(state, token)
    last = set(np.flatnonzero(grammar.allowed(state))) if state is not None else set()
    assert not last & set(tokens.end_ids)


def test_what_must_follow_is_forced(tokens: Tokens, grammar: Grammar) -> None:
    ids = answer_ids(tokens, f"{START} anaesthetist,mako robot,closeTo {END}")
    reached = states(grammar, ids)
    begun = tokens.decode([*ids[:1], *grammar.forced(reached[1], 9)])
    assert begun.strip() == START
    assert len(grammar.forced(reached[1], 1)) <= 1
    assert grammar.forced(reached[-1], 9) == []


def test_a_random_model_answers_in_graphs() -> None:
    tokens = read_tokens(BUNDLED / GRAPHS)
    model = make_model(replace(TINY, language=replace(TINY.language, vocabulary=tokens.size + 3)))
    examples, grammar = make_examples(), Grammar(tokens, LANGUAGE)
    free = decode(model, examples, tokens.end_ids, 50)
    assert not any(tokens.decode(ids).strip().startswith(START) for ids in free.ids)
    drafts = [Said() for _ in examples]
    for said in drafts:
        said.add(answer_ids(tokens, f"{START} nurse,patient,touching {END}"))
    found = [decode(model, examples, tokens.end_ids, count, drafts, grammar) for count in (1, 7, 80)]
    plain = [decode(model, examples, tokens.end_ids, count, None, grammar) for count in (1, 7, 80)]
    assert [of.ids for of in found] == [of.ids for of in plain]
    texts = [tokens.decode(ids).strip() for of in found for ids in of.ids]
    assert all(text.startswith(START) and text.endswith(END) for text in texts)
    assert any(parse(text) for text in texts)
    assert torch.is_tensor(grammar.allowed_on(0, torch.device("cpu"), tokens.size))


def test_names_with_letters_of_several_bytes() -> None:
    tokens = read_tokens(BUNDLED / GRAPHS)
    room = replace(LANGUAGE, entities=("ärztin", "pflege"), predicates=("hält",))
    ids = answer_ids(tokens, f"{START} ärztin,pflege,hält {END}")
    assert states(Grammar(tokens, room), ids)


def test_a_tokenizer_that_cannot_spell_the_domain_is_told() -> None:
    small = Tokenizer(models.BPE(vocab={"</s>": 0, "a": 1}, merges=[]))
    with pytest.raises(UserError, match="no token for"):
        Grammar(Tokens(small), LANGUAGE)


def test_a_grammar_of_another_domain() -> None:
    egoexor = bundled("egoexor").language
    tokens = read_tokens(BUNDLED / GRAPHS)
    entity, predicate = egoexor.entities[0], egoexor.predicates[0]
    ids = answer_ids(tokens, target_text([Triplet(entity, entity, predicate)]))
    assert states(Grammar(tokens, egoexor), ids)


def test_a_tokenizer_without_a_letter_alone_is_told() -> None:
    letters = [letter for letter in string.printable if letter != "S"]
    vocabulary = {name: place for place, name in enumerate(["<s>", "</s>", *letters, "Sx"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    with pytest.raises(UserError, match=r"no token for b'S' alone"):
        Grammar(Tokens(tokenizer), LANGUAGE)


def test_an_end_that_the_tokenizer_has_not_ends_nothing() -> None:
    """`eos_token_id` of a generation_config.json may name tokens beyond those of the tokenizer."""
    tokens = read_tokens(BUNDLED / GRAPHS)
    tokens.end_ids = (tokens.end_id, 10**6, -1)
    grammar = Grammar(tokens, LANGUAGE)
    last = states(grammar, answer_ids(tokens, target_text(())))[-1]
    assert np.flatnonzero(grammar.allowed(last)).tolist() == [tokens.end_id]
