"""Decoding by drafts: the same answers as one token a pass, in fewer passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import human_prompt
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import with_vocabulary
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.draft_decoding import decode
from scene_graph_generation.model.drafts import KEPT, MOST, Said, next_reach
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.starting_point import sized_for
from scene_graph_generation.weights.base_models import base_settings, load_base
from tests.scene_graph_generation.model.test_model import VOCABULARY, make_examples, make_model
from tests.scene_graph_generation.tiny_bases import write_bases
from tests.scene_graph_generation.tiny_languages import write_language
from tests.scene_graph_generation.tiny_training import SHORT


def history(*answers: list[int]) -> Said:
    said = Said()
    for answer in answers:
        said.add(answer)
    return said


def disturbed(answer: list[int], draw: Random, share: float) -> list[int]:
    """Some tokens are others, one is missing and one is too many."""
    tokens = [draw.randrange(VOCABULARY) if draw.random() < share else token for token in answer]
    if tokens and share:
        del tokens[draw.randrange(len(tokens))]
        tokens.insert(draw.randrange(len(tokens) + 1), draw.randrange(VOCABULARY))
    return tokens


def test_guesses_go_on_behind_the_longest_same_end() -> None:
    said = history([1, 2, 3, 9, 4], [5, 2, 3, 6, 2, 7])
    assert said.guess([], 3) == [5, 2, 3]
    assert said.guess([8, 2, 3], 9) == [6, 2, 7]  # the newest of two
    assert said.guess([1, 2, 3], 9) == [9, 4]  # the longest end is in the older one
    assert said.guess([0, 0, 0, 0, 2], 9) == [7]  # of two places the nearer one
    assert said.guess([0, 8], 9) == said.guess([9, 4], 9) == said.guess([2], 0) == []
    assert Said().guess([], 9) == []


def test_only_the_newest_answers_are_kept() -> None:
    said = history(*([number, 1000 + number] for number in range(KEPT + 1)))
    assert said.guess([0], 1) == []
    assert said.guess([1], 1) == [1001]


def test_guesses_grow_with_what_is_accepted() -> None:
    reach = [next_reach(16, 16, 16), next_reach(64, 64, 64), next_reach(64, 64, 0), next_reach(16, 0, 0)]
    assert reach == [32, MOST, 8, 16]


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 30), share=st.sampled_from([0.0, 0.1, 0.5]), most=st.integers(1, 40))
def test_answers_are_those_of_one_token_a_pass(seed: int, share: float, most: int) -> None:
    model, examples, draw = make_model(), make_examples(), Random(seed)
    ends = [draw.randrange(VOCABULARY)]
    plain = generate(model, examples, ends, most)
    drafts = [history(*(disturbed([*ids, *ends], draw, share) for _ in range(draw.randrange(3)))) for ids in plain]
    found = decode(model, examples, ends, most, drafts)
    assert found.ids == plain
    assert found.passes <= max(map(len, plain)) + 1
    assert found.accepted <= found.drafted


def test_a_good_draft_saves_passes_in_a_batch_of_unequal_answers() -> None:
    model, examples = make_model(), make_examples()
    plain = generate(model, examples, [], 40)
    ends = [plain[0][25]]  # the answers end at different places
    plain = generate(model, examples, ends, 40)
    assert len({len(ids) for ids in plain}) > 1
    good = decode(model, examples, ends, 40, [history([*ids, *ends]) for ids in plain])
    assert good.ids == plain
    assert good.passes <= 4
    alone = decode(model, examples, ends, 40)
    assert (alone.ids, alone.drafted) == (plain, 0)


def test_no_token_is_generated_if_none_is_wanted() -> None:
    assert decode(make_model(), make_examples(), [2], 0).ids == [[], [], [], []]


def test_scores_that_are_no_numbers_are_told() -> None:
    model = make_model()
    model.language.lm_head.weight.data[3] = float("nan")
    with pytest.raises(UserError, match="scores are no numbers"):
        decode(model, make_examples(), [2], 5)


@pytest.fixture(scope="module", params=["llama3", "qwen3", "mistral"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, MM2SG, list[Example]]:
    folder = tmp_path_factory.mktemp("language")
    language = write_language(folder / request.param, request.param)
    clip = write_bases(folder, settings=with_vocabulary(SHORT.model, 700))[1]
    model = load_base(language, clip, sized_for(SHORT.model, base_settings(language, clip)))
    return request.param, model.eval(), questions(language)


def questions(folder: Path) -> list[Example]:
    """Of several lengths, all longer than Mistral's window here."""
    tokens, draw = read_tokens(folder), torch.Generator().manual_seed(3)
    asked = []
    for views, speech in ((1, None), (3, "the drill please")):
        ids = tokens.encode(tokens.conversation(human_prompt(mmor().language, None, None, speech, None)))[0]
        asked.append(Example(torch.tensor(ids), torch.randn(views, 3, 28, 28, generator=draw)))
    return asked


def test_other_language_models_say_the_same(other: tuple[str, MM2SG, list[Example]]) -> None:
    name, model, asked = other
    plain = generate(model, asked, [], 24)
    draw = Random(1)
    drafts = [history(ids, disturbed(ids, draw, 0.1)) for ids in plain]
    found = decode(model, asked, [], 24, drafts)
    assert found.ids == plain
    # A cache that looks back over a window cannot give anything back: nothing is guessed.
    assert (found.drafted == 0) == (name == "mistral")
    assert found.passes < 24 or name == "mistral"


def test_a_guess_of_one_sample_asks_for_no_position_of_another_that_the_model_has_not() -> None:
    """GPT-2 has a table of positions, and the first prompt with its answer fills it."""
    language = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    model = MM2SG(replace(SHORT.model, language=OtherLanguage(language))).eval()
    for parameter in model.language.parameters():
        parameter.data = torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 1.0)
    asked = [Example(torch.arange(3, 3 + length), torch.zeros(0, 3, 28, 28)) for length in (40, 6)]
    plain = generate(model, asked, [], 24)
    wrong = [token for said in plain[1] for token in (said, *[1] * 9)]  # of nine guessed tokens hardly one is right
    assert decode(model, asked, [], 24, [history(plain[0][:20]), history(wrong)]).ids == plain
