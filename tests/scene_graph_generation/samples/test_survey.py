"""One pass over the training files tells all that several passes told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import save_samples
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.graphs.scene_graph import Sample, parse, target_text
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.inputs.example import IGNORED
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.samples import sample_files
from scene_graph_generation.samples.sample_files import Shard, shard_folder, write_samples
from scene_graph_generation.samples.survey import Survey, other_relations, survey
from scene_graph_generation.samples.training_data import read_records, record_text
from scene_graph_generation.training.loss import loss_weights, token_weights
from scene_graph_generation.training.train import train
from tests.scene_graph_generation import tiny_training
from tests.scene_graph_generation.tiny_training import GRAPHS, SHORT, TAKE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A JSON, and the same samples and some of text alone with their shards."""
    root = tiny_training.write_samples(tmp_path_factory.mktemp("data"))
    records = json.loads((root / "samples.json").read_text())
    alone = [
        {"id": f"{n}", "conversations": [{"value": f"text {n}"}, {"value": "<SG> nurse,saw,holding; </SG>"}]}
        for n in range(20)
    ]
    write_samples(root / "more.json", [*alone, *records], 26, Random(0))
    return [root / "samples.json", root / "more.json"]


def test_samples_whose_relations_were_corrected_since_are_told(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training learnt without a word what labels had said when its samples were made."""
    graphs = [Sample(TAKE, f"{frame:06d}", tuple(graph)) for frame, graph in enumerate(GRAPHS)]
    records, path = read_records(files[1]), tmp_path / "relationships_train.json"
    assert {str(record["id"]) for record in records} >= {sample.sample_id for sample in graphs}
    assert other_relations(records, tmp_path) is None  # nothing is known of them
    path.write_text("no JSON")
    assert other_relations(records, tmp_path) is None
    save_samples(path, graphs)
    assert other_relations(records, tmp_path) is None
    save_samples(path, [graphs[0], replace(graphs[1], triplets=graphs[0].triplets[:1])])
    assert other_relations(records, tmp_path) == (
        f"1 of 2 samples looked at have other relations than {path} has now; the first is {graphs[1].sample_id}; "
        "make them again if these are what is to be learnt"
    )
    data = files[0].parent
    save_samples(data / path.name, [replace(graphs[0], triplets=())])
    short = replace(SHORT, train=replace(SHORT.train, max_steps=1))
    train(short, files[:1], Dataset(data), tmp_path / "out")
    (data / path.name).unlink()
    assert f"note: {files[0]}: 1 of 1 samples looked at have other relations than" in capsys.readouterr().err


def look(paths: list[Path], canonical_order: bool = False, answers: bool = True) -> Survey:
    return survey(paths, canonical_order, answers, lambda _: None)[1]


@pytest.mark.parametrize("canonical_order", [False, True])
def test_one_pass_tells_what_several_told(files: list[Path], canonical_order: bool) -> None:
    records = [record for path in files for record in read_records(path)]
    known = look(files, canonical_order)
    answers = [record["conversations"][1]["value"] for record in records]
    said = [target_text(sorted(parse(answer))) for answer in answers] if canonical_order else answers
    assert known.lengths.tolist() == [len(record_text(record).split()) for record in records]
    assert known.shown.tolist() == [bool(record.get("image") or record.get("segmasks")) for record in records]
    assert known.first_with_image == next(r["id"] for r in records if IMAGE_MARK in record_text(r))
    assert [known.answers[number] for number in known.answer_numbers] == said
    assert sorted(known.answers) == sorted(set(said))


def test_the_tokenizer_and_the_weights_are_those_of_all_texts(files: list[Path]) -> None:
    records = [record for path in files for record in read_records(path)]
    expected = train_tokens([record_text(record) for record in records], SHORT.vocabulary, mmor().language)
    found, known, tokens = survey(
        files, True, True, lambda texts: train_tokens(texts, SHORT.vocabulary, mmor().language)
    )
    assert list(found) == records
    assert tokens.names() == expected.names()
    counts = Counter[str]()
    texts = {token: name for name, token in expected.names().items()}
    for record in records:
        answer = target_text(sorted(parse(record["conversations"][1]["value"])))
        _, labels = expected.encode(expected.conversation(IMAGE_MARK), answer)
        counts.update(texts[token] for token in labels if token != IGNORED)
    weights = loss_weights(None, known, tokens, tokens.size)
    assert torch.equal(weights, token_weights(counts, expected.names(), expected.size))


def test_answers_are_kept_only_if_they_are_asked_for(files: list[Path]) -> None:
    known = look(files, answers=False)
    assert len(known.lengths) == 32
    assert known.answers == ()
    assert len(known.answer_numbers) == 0


def test_a_training_reads_its_shards_once_before_its_first_step(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it has to know: the tokenizer, weights of tokens, lengths, what there is to see; some have relations."""
    parsed = Counter[tuple[str, int]]()
    plain = sample_files._parse

    def counted(text: bytes, path: Path, line: int) -> object:
        parsed[path.name, line] += 1
        return plain(text, path, line)

    started: list[bool] = []
    monkeypatch.setattr(sample_files, "_parse", counted)
    monkeypatch.setattr("scene_graph_generation.samples.survey._LOOKED_AT", 2)
    monkeypatch.setattr(
        "scene_graph_generation.training.trainer.SceneGraphTrainer.train", lambda *_, **__: started.append(True)
    )
    experiment = replace(SHORT, train=replace(SHORT.train, token_weights=True))
    train(experiment, files[1:], Dataset(files[0].parent), tmp_path / "out")
    assert started == [True]
    assert len(parsed) == 26
    assert sorted(parsed.values()) == [1] * 24 + [2] * 2  # two were compared with the relations of the data folder


def test_a_sample_is_parsed_once_when_it_is_shown(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = Shard.__getitem__
    monkeypatch.setattr(Shard, "__getitem__", lambda shard, line: (asked.append(line), plain(shard, line))[1])
    samples = tiny_training.training_samples(files[1])
    text_alone = next(i for i, record in enumerate(samples.records) if "image" not in record)
    with_views = next(i for i, record in enumerate(samples.records) if "image" in record)
    for place in (text_alone, with_views):
        asked.clear()
        assert len(samples[0, place].ids)
        assert len(asked) == 1


@pytest.mark.parametrize("takes_all", [False, True])
def test_a_bad_sample_is_named_whoever_reads_the_texts(files: list[Path], tmp_path: Path, takes_all: bool) -> None:
    records = json.loads(files[0].read_text())
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([*records, {"id": "001_PKA_000009", "conversations": records[0]["conversations"][:1]}]))

    def tokens(texts: Iterable[str]) -> object:
        return train_tokens(texts, 700, mmor().language) if takes_all else None

    with pytest.raises(UserError) as error:
        survey([files[0], path], False, True, tokens)
    assert str(error.value) == f"{path}: sample 001_PKA_000009 needs an id and two turns; make it again"


def test_texts_that_nobody_wants_are_looked_through_nonetheless(files: list[Path]) -> None:
    def first_of(texts: Iterable[str]) -> str:
        taken: Iterator[str] = iter(texts)
        return next(taken)

    _, known, first = survey(files, False, True, first_of)
    assert first == record_text(next(iter(read_records(files[0]))))
    assert (known.lengths > 0).all()


def test_shards_that_are_no_samples_are_named(files: list[Path], tmp_path: Path) -> None:
    write_samples(tmp_path / "bare.json", [{"id": f"{n}", "image": []} for n in range(5)], 5, Random(0))
    with pytest.raises(UserError, match=r"bare\.shards: sample . needs an id and two turns"):
        look([shard_folder(tmp_path / "bare.json")])


def test_half_a_character_is_named_before_anything_is_made_of_it(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    turns = [{"from": "human", "value": "a \ud800"}, {"from": "gpt", "value": "<SG> </SG>"}]
    path.write_text(json.dumps([{"id": "001_PKA_MMOR_000001", "conversations": turns}]))
    with pytest.raises(UserError, match=r"samples.json: sample '001_PKA_MMOR_000001' holds half a character"):
        survey([path], False, True, lambda texts: train_tokens(texts, 700, mmor().language))
