"""The generator: answers in text, too little memory, drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import conversation, human_prompt
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.inference import generator as generator_module
from scene_graph_generation.inference.generator import SceneGraphGenerator, memory_note
from scene_graph_generation.inference.infer import infer
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, cache_bytes
from scene_graph_generation.model.draft_decoding import Generated, decode
from scene_graph_generation.model.mm2sg import MM2SG

MMOR_TAKE, FOURDOR_TAKE = mmor().find_take("001_PKA"), mmor().find_take("001_4DOR")


def tiny_config(vocabulary: int, max_length: int = 600) -> MM2SGConfig:
    return MM2SGConfig(
        vision=VisionConfig(image_size=28, width=16, layers=1, heads=2, mlp=32, feature_layer=-1),
        pooler=PoolerConfig(layers=1, heads=2, mlp=32, mask_channels=(8, 8, 8, 8, 16)),
        language=LanguageConfig(vocabulary=vocabulary, width=16, layers=1, heads=2, mlp=32, positions=2048),
        max_length=max_length,
        modalities=("views", "masks", "robot", "tracker", "speech"),
    )


def some_generator(batching: Literal["independent", "published"] = "independent") -> SceneGraphGenerator:
    torch.manual_seed(0)
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    return SceneGraphGenerator(MM2SG(replace(tiny_config(tokens.size), batching=batching)), tokens)


def test_a_model_answers_in_text(dataset: Dataset) -> None:
    torch.manual_seed(0)
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    config = tiny_config(tokens.size)
    generator = SceneGraphGenerator(MM2SG(config), tokens)
    example = generator.read(dataset.take(MMOR_TAKE).timepoints[0], "Long: Short")
    texts = generator.answer([example, generator.read_text("What comes next?")])
    assert [type(text) for text in texts] == [str, str]
    other = SceneGraphGenerator(MM2SG(config), tokens)
    assert generator.fingerprint == generator.fingerprint != other.fingerprint


def test_weights_that_are_no_numbers_are_told(dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    model = MM2SG(tiny_config(tokens.size))
    model.language.lm_head.weight.data[3] = float("nan")
    with pytest.raises(UserError, match="scores are no numbers"):
        infer(SceneGraphGenerator(model, tokens), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")


def with_room_for(count: int) -> Any:
    """The decoder of a GPU that has room for so many samples; with room for none, one that others fill."""
    error = torch.OutOfMemoryError("CUDA out of memory") if count else RuntimeError("CUDA error: out of memory")

    def decode_some(model: MM2SG, examples: Sequence[Example], *others: Any) -> Generated:
        if len(examples) > count:
            raise error
        return decode(model, examples, *others)

    return decode_some


@pytest.mark.parametrize(("batching", "room"), [("independent", 0), ("published", 2), ("published", 0)])
def test_a_full_gpu_is_told(
    batching: Literal["independent", "published"], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = some_generator(batching)
    questions = [generator.read_text("What comes next?")] * (3 if room else 1)
    monkeypatch.setattr(generator_module, "decode", with_room_for(room))
    told = "3 questions at once; choose a smaller --batch-size" if room else "one question; choose --bits 4"
    with pytest.raises(UserError, match=f"too little memory for {told}"):
        generator.answer(questions)


def test_a_batch_that_does_not_fit_is_made_smaller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [some_generator().read_text(f"What comes after {number}?") for number in range(5)]
    expected = some_generator().answer(questions)
    generator = some_generator()
    monkeypatch.setattr(generator_module, "decode", with_room_for(2))
    assert generator.answer(questions) == generator.answer(questions) == expected
    told = capsys.readouterr().err
    assert told == "cpu: has too little memory for 5 questions at once, going on with 2; the answers are the same\n"


class Undrafted(SceneGraphGenerator):
    """One token a pass."""

    def read(self, timepoint: Timepoint, memory: str | None) -> Example:
        return replace(super().read(timepoint, memory), take=None)


def test_drafts_do_not_change_what_is_said(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, drafted = {MMOR_TAKE: None, FOURDOR_TAKE: None}, some_generator()
    undrafted = Undrafted(drafted.model, drafted._tokens)
    graphs = [
        infer(generator, dataset, frames, tmp_path / f"{name}.json", batch_size=2)
        for name, generator in {"drafted": drafted, "undrafted": undrafted}.items()
    ]
    assert graphs[0] == graphs[1]
    assert (tmp_path / "drafted.jsonl").read_bytes() == (tmp_path / "undrafted.jsonl").read_bytes()
    assert drafted.cost.accepted > undrafted.cost.accepted == 0
    assert drafted.cost.passes < undrafted.cost.passes
    assert str(drafted.cost) in capsys.readouterr().err


def test_memory_of_a_batch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    published = cache_bytes(MM2SGConfig(), 8)
    assert published == 2 * 32 * 4096 * 2 * (2048 + 300) * 8  # 9.8 GB
    torch.manual_seed(0)
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    generator = SceneGraphGenerator(MM2SG(tiny_config(tokens.size)), tokens)
    assert memory_note(generator, 8) is None
    needed = cache_bytes(generator.model.settings, 8, MAX_NEW_TOKENS, 4)
    monkeypatch.setattr(generator_module, "WORTH_TELLING", 1)
    monkeypatch.setattr(generator_module, "free_memory", lambda _: needed // 2)
    note = memory_note(generator, 8)
    assert note is not None
    assert note.endswith("--batch-size 4 fits")
