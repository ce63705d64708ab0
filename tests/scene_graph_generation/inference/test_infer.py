"""Predictions of takes: order, memory, resuming, evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_predictions
from operating_room.graphs.prompts import conversation, human_prompt
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inference import generator as generator_module
from scene_graph_generation.inference.answers import Answer, open_answers
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.infer import _of_earlier_runs, answers_path, first_frames, infer
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from tests.operating_room.tiny_dataset import write_dataset
from tests.scene_graph_generation.inference.test_generator import tiny_config

MMOR_TAKE, FOURDOR_TAKE = mmor().find_take("001_PKA"), mmor().find_take("001_4DOR")


class Question(NamedTuple):
    take: str
    frame: str
    memory: str | None
    dropped_memory: int = 0


class Scripted(SceneGraphGenerator):
    """Answers with the frame number; notes what it was asked. Refuses the timepoint `broken`."""

    fingerprint = "scripted"
    model: Any = SimpleNamespace(settings=MM2SGConfig())
    _tokens: Any = SimpleNamespace(conversation=conversation)

    def __init__(self, broken: tuple[str, str] | None = None, dies_after: int = 1000) -> None:
        self.asked: list[list[tuple[str, str, str | None]]] = []
        self.wished: list[list[str]] = []
        self._broken = broken
        self._left = dies_after

    def read(self, timepoint: Timepoint, memory: str | None) -> Any:
        if (timepoint.take.name, timepoint.frame_id) == self._broken:
            raise UserError("x.jpg: cannot be read")
        return Question(timepoint.take.name, timepoint.frame_id, memory)

    def read_ahead(self, timepoints: Sequence[Timepoint]) -> None:
        self.wished.append([timepoint.frame_id for timepoint in timepoints])

    def answer(self, examples: Sequence[Any]) -> list[str]:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.asked.append([(one.take, one.frame, one.memory) for one in examples])
        return [f"<SG> nurse,saw {int(one.frame)},holding </SG>" for one in examples]


def test_memory_holds_what_was_predicted_before(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert [memory for ((_, _, memory),) in generator.asked] == [
        "Long: Short",
        "Long: Short: nurse,saw 0,holding",
        "Long: Short: nurse,saw 0,holding; nurse,saw 1,holding; nurse,saw 0,not holding",
    ]


def test_with_memory_takes_go_side_by_side(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    both = infer(generator, dataset, {MMOR_TAKE: None, FOURDOR_TAKE: ["000000", "000002"]}, tmp_path / "p.json")
    assert [[(name, frame) for name, frame, _ in group] for group in generator.asked] == [
        [("001_PKA", "000000"), ("001_4DOR", "000000")],
        [("001_PKA", "000001"), ("001_4DOR", "000002")],
        [("001_PKA", "000002")],
    ]
    alone = infer(Scripted(), dataset, {FOURDOR_TAKE: ["000000", "000002"]}, tmp_path / "q.json")
    assert alone.items() <= both.items()


def test_the_next_groups_are_read_ahead_but_for_what_is_answered(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        infer(Scripted(dies_after=1), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    generator = Scripted()
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert generator.wished == [["000001", "000002"], ["000001", "000002"], ["000002"]]


def test_without_memory_timepoints_go_in_batches(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted()
    infer(generator, dataset, {MMOR_TAKE: None, FOURDOR_TAKE: None}, tmp_path / "p.json", memory=False, batch_size=4)
    assert [len(group) for group in generator.asked] == [4, 2]
    assert {memory for group in generator.asked for _, _, memory in group} == {None}


def test_predictions_are_stored_as_published(dataset: Dataset, tmp_path: Path) -> None:
    predictions = infer(Scripted(), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["001_PKA_MMOR_000001"] == [["nurse", "holding", "saw 1"]]
    assert load_predictions(tmp_path / "p.json") == predictions


def test_an_interrupted_run_goes_on_with_what_it_remembers(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        infer(Scripted(dies_after=1), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    generator = Scripted()
    predictions = infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert generator.asked[0] == [("001_PKA", "000001", "Long: Short: nurse,saw 0,holding")]
    assert len(predictions) == 3
    again = Scripted()
    infer(again, dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    assert again.asked == []


def test_what_has_changed_is_asked_again(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    infer(Scripted(), Dataset(root), {MMOR_TAKE: None}, tmp_path / "p.json")
    changed = next(iter(Dataset(root).take(MMOR_TAKE).timepoint("000001").several("masks").values()))
    changed.write_bytes(changed.read_bytes() + b"\0")
    generator = Scripted()
    assert len(infer(generator, Dataset(root), {MMOR_TAKE: None}, tmp_path / "p.json")) == 3
    assert [[frame for _, frame, _ in group] for group in generator.asked] == [["000001"]]


def test_answers_of_other_settings_are_not_continued(dataset: Dataset, tmp_path: Path) -> None:
    infer(Scripted(), dataset, {MMOR_TAKE: None}, tmp_path / "p.json")
    with pytest.raises(UserError, match="memory True, this run has False"):
        infer(Scripted(), dataset, {MMOR_TAKE: None}, tmp_path / "p.json", memory=False)


def test_a_damaged_take_does_not_keep_others_from_their_end(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted(broken=("001_PKA", "000001"))
    with pytest.raises(UserError, match=r"^001_PKA_MMOR is not finished: x.jpg: cannot be read$"):
        infer(generator, dataset, {MMOR_TAKE: None, FOURDOR_TAKE: None}, tmp_path / "p.json")
    stored = load_predictions(tmp_path / "p.json")
    assert sorted(stored) == ["001_4DOR_000000", "001_4DOR_000001", "001_4DOR_000002", "001_PKA_MMOR_000000"]


def test_without_memory_a_bad_timepoint_costs_itself(dataset: Dataset, tmp_path: Path) -> None:
    generator = Scripted(broken=("001_PKA", "000000"))
    with pytest.raises(UserError, match=r"^001_PKA_MMOR is not finished: x.jpg: cannot be read$"):
        infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json", memory=False)
    assert sorted(load_predictions(tmp_path / "p.json")) == ["001_PKA_MMOR_000001", "001_PKA_MMOR_000002"]


def test_many_bad_timepoints_are_one_line(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    for path in (root / "MM-OR_data" / "take_transcripts_per_timepoint" / "001_PKA").iterdir():
        path.write_text("{")
    with pytest.raises(UserError, match=r"is not finished: 3 timepoints are left out, the first: .*000001\.json"):
        infer(Scripted(), Dataset(root), {MMOR_TAKE: None}, tmp_path / "p.json", memory=False)


def test_the_next_take_starts_when_one_ends(dataset: Dataset, tmp_path: Path) -> None:
    generator, frames = Scripted(), ["000000", "000001"]
    takes = {MMOR_TAKE: None, FOURDOR_TAKE: ["000000"]}
    infer(generator, dataset, {**takes, MMOR_TAKE: frames}, tmp_path / "p.json", batch_size=1)
    assert [name for ((name, _, _),) in generator.asked] == ["001_PKA", "001_PKA", "001_4DOR"]


class Talkative(SceneGraphGenerator):
    """Remembers more than it has room for."""

    def answer(self, examples: Sequence[Any]) -> list[str]:
        return ["<SG> " + "; ".join(f"nurse,saw {number},holding" for number in range(100)) + " </SG>"] * len(examples)


def test_shortened_memory_is_said_once(dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    config = tiny_config(tokens.size, 10_000)
    first = SceneGraphGenerator(MM2SG(config), tokens).read(dataset.take(MMOR_TAKE).timepoints[0], "Long: Short")
    limit = len(first.ids) + config.vision.tokens + config.masks + 200
    generator = Talkative(MM2SG(replace(config, max_length=limit)), tokens)
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "p.json", memory=False)
    assert capfd.readouterr().err == ""
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "q.json")
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("2 of 3 timepoints lost the oldest part of their memory")
    assert f"{limit} tokens (max_length)" in said
    infer(generator, dataset, {MMOR_TAKE: None}, tmp_path / "q.json")  # nothing is asked again
    assert capfd.readouterr().err == ""


def asked_again(root: Path, out: Path, **changes: Any) -> list[str]:
    """The frames that a second run asks; `changes` are attributes of its generator."""
    generator = Scripted()
    for name, value in changes.items():
        setattr(generator, name, value)
    infer(generator, Dataset(root), {MMOR_TAKE: None}, out, memory=False, batch_size=1)
    return [frame for ((_, frame, _),) in generator.asked]


def test_answers_do_not_outlive_prompt_slots_switches_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Review: texts of an older prompt, other picture slots or older code came back under the new version's name."""
    root, out, everything = write_dataset(tmp_path / "data"), tmp_path / "p.json", ["000000", "000001", "000002"]
    assert asked_again(root, out) == everything
    assert asked_again(root, out) == []
    assert asked_again(root, out, max_new_tokens=20) == everything
    with monkeypatch.context() as patch:
        patch.setattr("operating_room.recordings.questions.human_prompt", lambda *_: "<image> What is going on?")
        assert asked_again(root, out, max_new_tokens=20) == everything
    assert asked_again(root, out) == everything
    with monkeypatch.context() as patch:
        patch.setattr(generator_module, "made_by", lambda: "other code")
        assert asked_again(root, out) == everything
    assert asked_again(root, out) == everything
    missing = root / "MM-OR_data" / "001_PKA" / "colorimage" / "camera01_colorimage-000101.jpg"
    missing.rename(missing.with_suffix(".png"))
    assert asked_again(root, out) == ["000001"]  # another slot is black
    generator = Scripted()
    infer(generator, Dataset(root, positional_views=True), {MMOR_TAKE: None}, out, memory=False)
    assert [frame for group in generator.asked for _, frame, _ in group] == ["000001"]  # a switch of the dataset


def test_what_no_model_reads_is_not_asked_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, out = write_dataset(tmp_path / "data"), tmp_path / "p.json"
    assert len(asked_again(root, out)) == 3
    blind = SimpleNamespace(settings=MM2SGConfig(modalities=("views",)))
    assert len(asked_again(root, out, model=blind)) == 3
    assert "3 timepoints were generated again" in capfd.readouterr().err
    for name in ("take_point_clouds_sparse/001_PKA/000001.pcd", "001_PKA/relation_labels/000000.json"):
        path = root / "MM-OR_data" / name
        path.write_bytes(path.read_bytes() + b"\0")
    assert asked_again(root, out, model=blind) == []


def test_a_second_run_into_the_file_keeps_the_first(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    first = infer(Scripted(), dataset, {MMOR_TAKE: None}, out)
    second = infer(Scripted(), dataset, {FOURDOR_TAKE: None}, out)
    assert "3 scene graphs of earlier runs of this model stay in it" in capfd.readouterr().err
    assert load_predictions(out) == {**first, **second}
    assert len(second) == 3  # what was asked for
    infer(Scripted(), dataset, first_frames(dataset, [FOURDOR_TAKE], 1), out)
    assert load_predictions(out) == {**first, **second}


def test_predictions_of_others_are_replaced_with_a_word(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.json"
    out.write_text('{"001_4DOR_000000": [["nurse", "holding", "saw"]]}')
    infer(Scripted(), dataset, {MMOR_TAKE: None}, out)
    assert "replaced" in capfd.readouterr().err
    assert len(load_predictions(out)) == 3


@pytest.mark.parametrize("content", ['{"001_4DOR', "[]", '{"model": 3}', "a,b\n1,2\n", '{"a": [[1, 2, 3]]}'])
def test_a_file_of_something_else_is_never_replaced(dataset: Dataset, tmp_path: Path, content: str) -> None:
    out = tmp_path / "p.json"
    out.write_text(content)
    generator = Scripted()
    with pytest.raises(UserError, match=r"p\.json"):
        infer(generator, dataset, {MMOR_TAKE: None}, out)
    assert out.read_text() == content
    assert os.listdir(tmp_path) == ["p.json"]
    out.write_text("")  # as mktemp makes it
    infer(generator, dataset, {MMOR_TAKE: None}, out)
    assert len(load_predictions(out)) == 3


def test_an_output_is_never_the_file_of_its_texts(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl: ends like the file of generated texts"):
        infer(Scripted(), dataset, {MMOR_TAKE: None}, tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []
    places = [answers_path(Path("a") / name).name for name in ("x.json", "x", "x.v1", "x.v2", "x.v1.json")]
    assert places == ["x.jsonl", "x.jsonl", "x.v1.jsonl", "x.v2.jsonl", "x.v1.jsonl"]


def test_a_link_to_nothing_costs_its_take_and_is_named(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    link = root / "MM-OR_data" / "take_point_clouds_sparse" / "001_PKA" / "000002.pcd"
    link.unlink()
    link.symlink_to(tmp_path / "nowhere.pcd")
    with pytest.raises(
        UserError, match=r"^001_PKA_MMOR is not finished: .*000002\.pcd: is a link to a file that is not"
    ):
        infer(Scripted(), Dataset(root), {MMOR_TAKE: None, FOURDOR_TAKE: None}, tmp_path / "p.json")
    assert len(load_predictions(tmp_path / "p.json")) == 3 + 1  # time stamps begin with 1


def test_a_damaged_transcript_costs_its_take(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    (root / "MM-OR_data" / "take_transcripts_per_timepoint" / "001_PKA" / "000001.json").write_text('{"te')
    with pytest.raises(UserError, match=r"^001_PKA_MMOR is not finished: .*000001\.json"):
        infer(Scripted(), Dataset(root), {MMOR_TAKE: None, FOURDOR_TAKE: None}, tmp_path / "p.json")
    assert len(load_predictions(tmp_path / "p.json")) == 3


def test_an_empty_answer_of_an_earlier_run_stays(tmp_path: Path) -> None:
    """A model may say nothing at all; its take was incomplete then, and had to be inferred again."""
    with open_answers(tmp_path / "x.jsonl", {"model": "m"}) as answers:
        answers.add([Answer("001_PKA_MMOR_000001", "asked", ""), Answer("001_PKA_MMOR_000002", "asked", "a,b,c")])
        there = {"001_PKA_MMOR_000001": list[Triplet](), "001_PKA_MMOR_000002": [Triplet("a", "b", "c")]}
        kept = _of_earlier_runs(there, tmp_path / "x.json", answers, {}, Dataset(write_dataset(tmp_path / "data")))
    assert kept == there
